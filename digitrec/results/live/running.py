"""A study as it is while it runs: its record, with the epochs of trials that are in training."""

from dataclasses import replace

import pandas as pd

from digitrec.store.progress import RunProgress
from digitrec.store.record import StudyRecord
from digitrec.store.tables import METRICS, identity

RUNNING, WAITING = "running", "waiting"  # statuses that only the live page has


def with_running(record: StudyRecord, progress: RunProgress) -> StudyRecord:
    """Return a record with the epochs that a run has trained since it last wrote a result."""
    trials, epochs = record.tables.trials, record.tables.epochs
    goes_on = trials["status"] == "stopped"
    curves = {trial: rows for stack in progress.stacks for trial, rows in stack.curves.items()}
    statuses = trials["trial"].map(lambda trial: RUNNING if trial in curves else WAITING)
    reached = trials.set_index("trial")["epochs"]
    rows = [
        identity(trial) | {"epoch": int(epoch)} | dict(zip(METRICS, values, strict=True))
        for trial in record.spec.trials()
        if trial.name in curves
        for epoch, *values in curves[trial.name]
        if epoch > reached[trial.name]
    ]
    if rows:
        more = pd.DataFrame(rows, columns=epochs.columns)
        epochs = more if epochs.empty else pd.concat([epochs, more], ignore_index=True)
    changed = trials.assign(status=trials["status"].where(~goes_on, statuses))
    return replace(record, tables=replace(record.tables, trials=changed, epochs=epochs))

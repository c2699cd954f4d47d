"""A study as an Optuna study, which Optuna's figures and optuna-dashboard open.

    status       state      its value: validation accuracy, to be maximised
    completed    COMPLETE   after the last epoch
    dropped      PRUNED     at the rung that dropped it
    diverged     FAIL       none; its intermediate values end before it diverged
    failed       FAIL       none

Trials that are not trained yet are left out. A hyperparameter of which one value was searched is
no parameter; a parameter that has no effect in a trial is not among the parameters of that trial.

    searched                            parameter
    numbers                             Float or Int from the lowest to the highest, on the scale of
                                        the hyperparameter; with 0 on a log scale, Categorical
    words, shapes, truth values         Categorical; shapes are text
    one range                           Float, on the scale of the range
    several items, ranges among them    NAME_from, Categorical: the item that the value is from;
                                        NAME, Float, only in trials whose value is from a range

Optuna has no scale that is logarithmic in 1 - value, that of momentum: it is linear there.
"""

import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from digitrec.errors import InputError
from digitrec.results.exports.trials import (
    EndedTrial,
    ended_trials,
    first_line,
    searched,
    written,
)
from digitrec.space.hyperparameters import HYPERPARAMETERS, Hyperparameter
from digitrec.space.ranges import Range
from digitrec.store.record import StudyRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Parameters = dict[str, tuple[Any, "BaseDistribution"]]  # name -> value and distribution

STATES = {"completed": "COMPLETE", "dropped": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}


def export_optuna(record: StudyRecord, storage: str) -> str:
    """Write a study into an Optuna storage; return its name there.

    Args:
        record: the study, which need not be finished.
        storage: a URL such as sqlite:///study.db; a missing file is made.

    Raises:
        InputError: optuna is not installed, the storage cannot be used or has a study of that name,
            or no trial has ended.
    """
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        from digitrec.results.exports.databases import read_revision
    except ImportError as error:
        raise InputError(
            f"--optuna needs {error.name}, which is not installed: pip install 'digitrec[search]'"
        ) from error
    trials = [_frozen(each, record) for each in ended_trials(record)]
    verbosity, name = optuna.logging.get_verbosity(), record.directory.name
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        read_revision(storage, "studies")  # or Optuna adds its tables to those of another program
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # since 3.2
            study.set_metric_names(["validation accuracy"])
        for key, value in _about(record).items():
            study.set_user_attr(key, value)
        study.add_trials(trials)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise InputError(
            f"{storage} has a study of the name {name} already; give another storage, or delete it "
            f"there: optuna delete-study --study-name {name} --storage {storage}"
        ) from error
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--optuna {storage}: {first_line(error).rstrip('.')}. Give a storage such as "
            "sqlite:///study.db"
        ) from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    return name


def _about(record: StudyRecord) -> dict[str, Any]:
    """Return what holds for the whole study."""
    spec = record.spec
    return {
        "data": spec.data["source"],
        "fingerprint": spec.data["fingerprint"],
        "train_rows": spec.data["train_rows"],
        "val_rows": spec.data["val_rows"],
        "epochs": spec.epochs,
        "space": spec.space,
        "versions": spec.versions,
    }


def _frozen(ended: EndedTrial, record: StudyRecord) -> "FrozenTrial":
    """Return a trial as Optuna's."""
    from optuna.trial import FrozenTrial, TrialState

    state = TrialState[STATES[ended.status]]
    parameters = _parameters(ended, record)
    has_value = state is not TrialState.FAIL and ended.epochs
    run = ended.run
    now = datetime.now()  # Optuna demands times, also of a failed trial, whose times are not kept
    return FrozenTrial(
        number=-1,  # the storage numbers it
        trial_id=-1,
        state=state,
        value=ended.epochs[-1].val_accuracy if has_value else None,
        datetime_start=datetime.fromtimestamp(run.started) if run else now,
        datetime_complete=datetime.fromtimestamp(run.ended) if run else now,
        params={name: value for name, (value, _) in parameters.items()},
        distributions={name: distribution for name, (_, distribution) in parameters.items()},
        user_attrs=_attributes(ended, record),
        system_attrs={},
        intermediate_values={each.epoch: each.val_accuracy for each in ended.epochs},
    )


def _attributes(ended: EndedTrial, record: StudyRecord) -> dict[str, Any]:
    trial = ended.trial
    attributes: dict[str, Any] = {
        "trial": trial.name,
        "seed": trial.seed,
        "status": ended.status,
        "stack": ended.stack,
    }
    if trial.cooldown:
        attributes["cooldown"] = trial.cooldown
    if error := record.failures.get(trial.name, "").strip():
        attributes["error"] = error.splitlines()[-1]
    if ended.epochs:
        attributes["val_loss"] = ended.epochs[-1].val_loss
        attributes["seconds"] = sum(each.seconds for each in ended.epochs)
    return attributes


def _parameters(ended: EndedTrial, record: StudyRecord) -> Parameters:
    """Return the parameters of a trial; one that has no effect in it is left out."""
    parameters: Parameters = {}
    for name, items in searched(record).items():
        each = HYPERPARAMETERS[name]
        if each.needs is None or each.has_effect(ended.trial.configuration):
            parameters |= _of_hyperparameter(each, items, written(ended.trial, name))
    return parameters


def _of_hyperparameter(each: Hyperparameter, items: Sequence[Any], value: Any) -> Parameters:
    """Return the parameters that stand for a value of a hyperparameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    ranges = [item for item in items if isinstance(item, Range)]
    if not ranges:
        return {each.name: (value, _of_list(each, items))}
    origin = next(
        (item for item in items if item == value),
        next((item for item in ranges if item.low <= value <= item.high), None),
    )
    parameters: Parameters = {}
    if len(items) > 1 and origin is not None:
        texts = [each.write(item) for item in items]
        parameters[f"{each.name}_from"] = (each.write(origin), CategoricalDistribution(texts))
    if isinstance(origin, Range):
        distribution = FloatDistribution(origin.low, origin.high, log=origin.scale == "log")
        parameters[each.name] = (value, distribution)
    return parameters


def _of_list(each: Hyperparameter, values: Sequence[Any]) -> "BaseDistribution":
    """Return the distribution of a list of values."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    log = each.scale == "log"
    if each.scale == "category" or (log and min(values) <= 0):
        texts = [each.write(value) if isinstance(value, tuple) else value for value in values]
        return CategoricalDistribution(texts)
    of_kind = IntDistribution if isinstance(values[0], int) else FloatDistribution
    return of_kind(min(values), max(values), log=log)

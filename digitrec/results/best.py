"""The winner as files: `best/model.safetensors`, weights and scaler, and `best/model.json`."""

import json
from dataclasses import asdict
from typing import Any

from safetensors.numpy import save

from digitrec.data import SharedData
from digitrec.results.record import Record
from digitrec.results.stacks import Parameters, read_weights, results_after
from digitrec.results.tables import METRICS
from digitrec.storage import Storage

MODEL, ABOUT = "model.safetensors", "model.json"


def write_best(record: Record, winner: str | None, shared: SharedData) -> None:
    """Write the winner of a study; without one, an earlier model is removed.

    The weights are named as those of `torch.nn.Sequential(Linear, ReLU, ..., Linear)`; the scaler
    as scikit-learn's `MinMaxScaler` names its arrays.

    Raises:
        DamagedError: the file of the winner's weights is not what it should be.
    """
    best = record.directory / "best"
    if winner is None:
        for name in best.names():
            best.remove(name)
        return
    tensors = dict(weights_of(record, winner))
    tensors |= {f"scaler.{name}": values for name, values in asdict(shared.scaler).items()}
    best.write(MODEL, save(tensors))
    text = json.dumps(describe_best(record, winner), indent=2, ensure_ascii=False) + "\n"
    best.write(ABOUT, text.encode())


def weights_of(record: Record, trial: str) -> Parameters:
    """Return the parameters of a trial after its last epoch.

    Raises:
        DamagedError: the file that holds them is not what it should be.
    """
    keys = {
        member.trial: result.key
        for member, result, _ in results_after(record.question.epochs, record.results)
    }
    return read_weights(record.directory, record.question.key, keys[trial], [trial])[0]


def describe_best(record: Record, winner: str) -> dict[str, Any]:
    """Return what `model.json` says of a model."""
    question, trials = record.question, record.tables.trials
    row = trials[trials["trial"] == winner].to_dict("records")[0]
    return {
        "format": 1,
        "trial": winner,
        "layer_sizes": question.layer_sizes,
        "activation": "relu",
        "configuration": {
            "lr": float(row["lr"]),
            "batch_size": int(row["batch_size"]),
            "seed": int(row["seed"]),
            "epochs": question.epochs,
            "precision": question.precision,
            "optimizer": "SGD",
        },
        "metrics": {name: float(row[name]) for name in METRICS},
        "data": question.data,
        "val_fraction": question.val_fraction,
        "split_seed": question.split_seed,
        "versions": question.versions,
    }


def find_best(study: Storage, winner: str | None) -> Storage | None:
    """Return where the winner's model is; None where there is none, or another trial's."""
    best = study / "best"
    try:
        about = json.loads(best.read(ABOUT))
        return best if about["trial"] == winner and MODEL in best.names() else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None

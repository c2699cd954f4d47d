"""The winner as files: `best/model.safetensors`, weights and scaler, and `best/model.json`."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from safetensors.numpy import save

from digitrec.data import Scaler
from digitrec.results.question import read_question
from digitrec.results.stacks import read_weights, write_atomically
from digitrec.results.tables import METRICS


def write_best(directory: Path, winner: str | None, trials: pd.DataFrame, scaler: Scaler) -> None:
    """Write the winner of a study directory; without one, an earlier `best/` is removed.

    The weights are named as those of `torch.nn.Sequential(Linear, ReLU, ..., Linear)`; the scaler
    as scikit-learn's `MinMaxScaler` names its arrays.
    """
    target = directory / "best"
    if winner is None:
        shutil.rmtree(target, ignore_errors=True)
        return
    question = read_question(directory)
    assert question is not None, "a study with a winner has a question"
    row = trials[trials["trial"] == winner].to_dict("records")[0]
    tensors = read_weights(directory / "stacks", winner)
    tensors |= {f"scaler.{name}": values for name, values in asdict(scaler).items()}
    write_atomically(target / "model.safetensors", save(tensors))
    about = {
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
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    write_atomically(target / "model.json", text.encode())


def find_best(directory: Path, winner: str | None) -> Path | None:
    """Return the file of the winner's model; None where there is none, or another trial's."""
    about = directory / "best" / "model.json"
    if not about.exists() or json.loads(about.read_text(encoding="utf-8"))["trial"] != winner:
        return None
    return directory / "best" / "model.safetensors"

"""The files of the winner: `best/model.safetensors`, weights and scaler, and `best/model.json`.

Letters: N' validation images, C = 10 classes.
"""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from safetensors.numpy import save

from digitrec.data.digits import Digits, SharedData
from digitrec.space.hyperparameters import Trial
from digitrec.store.best import ABOUT, MODEL
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord
from digitrec.store.spec import StudySpec
from digitrec.store.stacks import (
    Parameters,
    StackResult,
    read_stacks,
    read_weights,
    results_of,
)
from digitrec.store.tables import METRICS
from digitrec.store.validation import WinnerValidation, write_validation
from digitrec.winner.classifier import Classifier
from digitrec.winner.inputs import Refit, WinnerInputs

MOST_MISTAKES = 30  # that are kept as images


def write_best(record: StudyRecord, winner: str | None, holdings: WinnerInputs) -> StudyRecord:
    """Write the winner of a study and its predictions for the validation images.

    Weights are named as in `torch.nn.Sequential(Linear, ReLU, ..., Linear)`, the scaler's arrays
    as in scikit-learn's `MinMaxScaler`. Without a winner, an earlier model is removed.

    Returns:
        The record with the written model and predictions.

    Raises:
        DamagedError: the file of the winner's weights is missing or damaged.
    """
    best, shared = record.directory / "best", holdings.shared
    if winner is None:
        for name in best.names():
            best.remove(name)
        return replace(record, best=None, validation=None)
    weights = weights_of(record.directory, record.spec, record.results, winner)
    trial = next(each for each in record.spec.trials() if each.name == winner)
    scaler = shared.scaler_of(trial.configuration)
    classifier = Classifier.from_parameters(weights, scaler)
    validation = validate(winner, classifier, shared)
    write_validation(record.directory, record.spec, validation)
    about = describe_best(record, trial, classifier)
    refit = holdings.refit
    if refit is not None and refit.trial == winner:
        weights, scaler = _weights_of_refit(refit), refit.scaler
        about["refit"] = {"rows": refit.spec.data["train_rows"]}
    if holdings.test is not None:
        about["test"] = score(Classifier.from_parameters(weights, scaler), holdings.test)
    tensors = weights | {f"scaler.{name}": values for name, values in asdict(scaler).items()}
    best.write(MODEL, save(tensors))
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    best.write(ABOUT, text.encode())
    return replace(record, best=json.loads(text), validation=validation)


def validate(trial: str, classifier: Classifier, shared: SharedData) -> WinnerValidation:
    """Return a model's predictions for the validation images and its most confident mistakes."""
    rows = shared.split.val
    probabilities = np.exp(classifier.log_probabilities(shared.images[rows]))  # (N', C)
    labels = shared.labels[rows]
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    confident = np.argsort(-probabilities[wrong].max(1), kind="stable")
    mistakes = wrong[confident[:MOST_MISTAKES]]
    return WinnerValidation(
        trial=trial,
        probabilities=probabilities,
        mistakes=mistakes,
        mistake_images=shared.images[rows[mistakes]],
        mistake_rows=rows[mistakes],
    )


def score(classifier: Classifier, test: Digits) -> dict[str, Any]:
    """Return a model's accuracy and loss on labelled digits that influenced no choice."""
    log_probabilities = classifier.log_probabilities(test.images)  # (N, C)
    of_label = log_probabilities[np.arange(len(test.labels)), test.labels]
    return {
        "source": test.source,
        "rows": len(test.labels),
        "accuracy": float((log_probabilities.argmax(1) == test.labels).mean()),
        "loss": float(-of_label.mean(dtype=np.float64)),
    }


def weights_of(
    directory: Folder, spec: StudySpec, results: list[StackResult], name: str
) -> Parameters:
    """Return the parameters of a trial after its last epoch.

    Raises:
        DamagedError: the file that holds them is missing or damaged.
    """
    found = results_of(spec.epochs_of(), results)
    keys = {trial.name: result.key for trial, result, _ in found}
    (state,) = read_weights(directory, spec.key, keys[name], [name])
    return {each: values for each, values in state.items() if each[:1].isdecimal()}


def describe_best(record: StudyRecord, winner: Trial, classifier: Classifier) -> dict[str, Any]:
    """Return the description of a model for `model.json`."""
    spec, trials = record.spec, record.tables.trials
    row = trials[trials["trial"] == winner.name].to_dict("records")[0]
    return {
        "format": 1,
        "trial": winner.name,
        "layer_sizes": classifier.layer_sizes,
        "activation": "relu",
        "configuration": {
            **winner.values(),
            "epochs": spec.epochs,
            "precision": spec.precision,
        },
        "metrics": {name: float(row[name]) for name in METRICS},
        "data": spec.data,
        "val_fraction": spec.val_fraction,
        "split_seed": spec.split_seed,
        "versions": spec.versions,
    }


def _weights_of_refit(refit: Refit) -> Parameters:
    results, _ = read_stacks(refit.directory, refit.spec.key)
    return weights_of(refit.directory, refit.spec, results, refit.trial)

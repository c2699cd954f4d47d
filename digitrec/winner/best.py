"""The files of the winner: `best/model.safetensors`, weights and scaler, and `best/model.json`.

A model that averages several trials keeps the arrays of each under `members.0.`, `members.1.`, ...

Letters: N' validation images, C = 10 classes.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
from digitrec.winner.inputs import WinnerInputs

MOST_MISTAKES = 30  # that are kept as images


def write_best(record: StudyRecord, members: Sequence[str], holdings: WinnerInputs) -> StudyRecord:
    """Write the model of a study, and the winner's predictions for the validation images.

    Weights are named as in `torch.nn.Sequential(Linear, ReLU, ..., Linear)`, the scaler's arrays
    as in scikit-learn's `MinMaxScaler`. Without a winner, an earlier model is removed.

    Args:
        record: the study.
        members: the trials whose probabilities the model averages, the winner first; empty: there
            is no winner.
        holdings: the data, the refit and the test digits.

    Returns:
        The record with the written model and predictions.

    Raises:
        DamagedError: the file of a member's weights is missing or damaged.
    """
    best, shared = record.directory / "best", holdings.shared
    if not members:
        for name in best.names():
            best.remove(name)
        return replace(record, best=None, validation=None)
    trials = _trials_of(record.spec, members)
    classifiers = _load_members(record.directory, record.spec, record.results, trials, shared)
    validation = validate(members[0], classifiers[0], shared)
    write_validation(record.directory, record.spec, validation)
    about = describe_best(record, trials, classifiers)
    if len(classifiers) > 1:
        about["average"] = _score_average(classifiers, shared)
    refit = holdings.refit
    if refit is not None and refit.trials == list(members):
        results, _ = read_stacks(refit.directory, refit.spec.key)
        classifiers = _load_members(refit.directory, refit.spec, results, trials, refit.shared)
        about["refit"] = {"rows": refit.spec.data["train_rows"]}
    if holdings.test is not None:
        about["test"] = score_test(classifiers, holdings.test)
    best.write(MODEL, save(_as_tensors(classifiers)))
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    best.write(ABOUT, text.encode())
    return replace(record, best=json.loads(text), validation=validation)


def _trials_of(spec: StudySpec, names: Sequence[str]) -> list[Trial]:
    trials = {trial.name: trial for trial in spec.trials()}
    return [trials[name] for name in names]


def _load_members(
    directory: Folder,
    spec: StudySpec,
    results: list[StackResult],
    trials: Sequence[Trial],
    shared: SharedData,
) -> list[Classifier]:
    return [
        Classifier.from_parameters(
            weights_of(directory, spec, results, trial.name), shared.scaler_of(trial.configuration)
        )
        for trial in trials
    ]


def _as_tensors(members: Sequence[Classifier]) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a model by name; those of a model alone have no prefix."""
    prefixes = [f"members.{number}." if len(members) > 1 else "" for number in range(len(members))]
    return {
        prefix + name: values
        for prefix, member in zip(prefixes, members, strict=True)
        for name, values in member.as_tensors().items()
    }


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


def score_test(members: Sequence[Classifier], test: Digits) -> dict[str, Any]:
    """Return a model's accuracy and loss on labelled digits that influenced no choice.

    Of an average, the accuracy of the winner alone is added.
    """
    model = Classifier.average(members)
    accuracy, loss = measure(model, test.images, test.labels)
    scores = {
        "source": test.source,
        "rows": len(test.labels),
        "accuracy": accuracy,
        "loss": loss,
    }
    if len(members) > 1:
        scores["winner_accuracy"], _ = measure(members[0], test.images, test.labels)
    return scores


def _score_average(members: Sequence[Classifier], shared: SharedData) -> dict[str, float]:
    rows = shared.split.val
    model = Classifier.average(members)
    accuracy, loss = measure(model, shared.images[rows], shared.labels[rows])
    return {"val_accuracy": accuracy, "val_loss": loss}


def measure(
    classifier: Classifier, images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> tuple[float, float]:
    """Return a model's accuracy and loss on images (N, D) with labels (N,)."""
    log_probabilities = classifier.log_probabilities(images)  # (N, C)
    of_label = log_probabilities[np.arange(len(labels)), labels]
    accuracy = float((log_probabilities.argmax(1) == labels).mean())
    return accuracy, float(-of_label.mean(dtype=np.float64))


def weights_of(
    directory: Folder, spec: StudySpec, results: list[StackResult], name: str
) -> Parameters:
    """Return the parameters of a trial after its last epoch.

    Raises:
        DamagedError: the file that holds them is missing or damaged.
    """
    found = results_of(spec.epochs_of(), results)
    (key,) = (result.key for trial, result, _ in found if trial.name == name)
    (state,) = read_weights(directory, spec.key, key, [name])
    return {each: values for each, values in state.items() if each[:1].isdecimal()}


def describe_best(
    record: StudyRecord, trials: Sequence[Trial], classifiers: Sequence[Classifier]
) -> dict[str, Any]:
    """Return the description of a model for `model.json`: the winner, and all members if several.

    Args:
        record: the study.
        trials: the members, the winner first.
        classifiers: their models, before any refit.
    """
    pairs = zip(trials, classifiers, strict=True)
    members = [_describe_member(record, trial, classifier) for trial, classifier in pairs]
    spec, winner = record.spec, members[0]
    return {
        "format": 1,
        "trial": winner["trial"],
        "layer_sizes": winner["layer_sizes"],
        "activation": "relu",
        "configuration": winner["configuration"],
        "metrics": winner["metrics"],
        **({"members": members} if len(members) > 1 else {}),
        "data": spec.data,
        "val_fraction": spec.val_fraction,
        "split_seed": spec.split_seed,
        "versions": spec.versions,
    }


def _describe_member(record: StudyRecord, trial: Trial, classifier: Classifier) -> dict[str, Any]:
    spec, trials = record.spec, record.tables.trials
    row = trials[trials["trial"] == trial.name].to_dict("records")[0]
    return {
        "trial": trial.name,
        "layer_sizes": classifier.layer_sizes,
        "configuration": {
            **trial.values(),
            "epochs": spec.epochs,
            "precision": spec.precision,
        },
        "metrics": {name: float(row[name]) for name in METRICS},
    }

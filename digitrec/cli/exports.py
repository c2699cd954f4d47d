"""The formats of `digitrec export`: the option of each, and what writes it."""

from collections.abc import Callable
from typing import NamedTuple

from digitrec.store.folder import Folder


class Export(NamedTuple):
    """A format that a study or its winner is exported to."""

    metavar: str
    help: str
    write: Callable[[Folder, str], str]
    """Write it, from a study directory to the place that the option names; return a line."""


def _export_onnx(directory: Folder, target: str) -> str:
    from digitrec.cli.display import describe_average
    from digitrec.winner.classifier import load_classifier
    from digitrec.winner.export import export_onnx

    classifier = load_classifier(directory / "best")
    export_onnx(classifier, target)
    how = describe_average(classifier)
    return f"model    {target}; onnxruntime gives the same results{how}"


def _export_optuna(directory: Folder, storage: str) -> str:
    from digitrec.results.exports.optuna import export_optuna
    from digitrec.store.record import read_record

    name = export_optuna(read_record(directory), storage)
    return f"study    {name} in {storage}"


def _export_tensorboard(directory: Folder, logs: str) -> str:
    from digitrec.results.exports.tensorboard import export_tensorboard
    from digitrec.results.text import count
    from digitrec.store.record import read_record

    runs = export_tensorboard(read_record(directory), logs)
    return f"logs     {logs}, {count(runs, 'run')}"


def _export_mlflow(directory: Folder, uri: str) -> str:
    from digitrec.results.exports.mlflow import export_mlflow
    from digitrec.results.text import count
    from digitrec.store.record import read_record

    name, trials = export_mlflow(read_record(directory), uri)
    runs = f"one of the study, with one in it for each of {count(trials, 'trial')}"
    return f"runs     {runs}, in the experiment {name} of {uri}"


EXPORTS = {
    "onnx": Export(
        "FILE",
        "write the winner, its scaling included, as an ONNX file, after checking that onnxruntime "
        "gives the same results; of an average, the logarithms of the mean probabilities (needs "
        "digitrec[onnx])",
        _export_onnx,
    ),
    "optuna": Export(
        "URL",
        "add the trials as a study to an Optuna storage, such as sqlite:///study.db (needs "
        "digitrec[search])",
        _export_optuna,
    ),
    "tensorboard": Export(
        "LOGDIR",
        "write a TensorBoard run per trial, with its curves and hyperparameters",
        _export_tensorboard,
    ),
    "mlflow": Export(
        "URI",
        "add a run of the study, with one for each trial, the model and the report, to MLflow: a "
        "server, or a database such as sqlite:///mlflow.db (needs digitrec[mlflow])",
        _export_mlflow,
    ),
}
"""Option -> format."""

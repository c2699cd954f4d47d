"""digitrec: the best hyperparameters for a digit-recognition MLP, found with Ray Tune.

The public names. Each is imported when it is first used, so that `import digitrec` takes
milliseconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digitrec.api import open_study, tune
    from digitrec.data.digits import Digits, read_digits
    from digitrec.errors import InputError
    from digitrec.request import Request
    from digitrec.results.analysis.finding import Finding
    from digitrec.results.study import Study, Winner
    from digitrec.space.hyperparameters import Configuration, Trial
    from digitrec.space.points import Space
    from digitrec.space.ranges import Range
    from digitrec.study import run_study
    from digitrec.winner.classifier import Classifier, load_classifier

__all__ = [
    "Classifier",
    "Configuration",
    "Digits",
    "Finding",
    "InputError",
    "Range",
    "Request",
    "Space",
    "Study",
    "Trial",
    "Winner",
    "load_classifier",
    "open_study",
    "read_digits",
    "run_study",
    "tune",
]

_MODULES = {
    "Classifier": "winner.classifier",
    "Configuration": "space.hyperparameters",
    "Digits": "data.digits",
    "Finding": "results.analysis.finding",
    "InputError": "errors",
    "Range": "space.ranges",
    "Request": "request",
    "Space": "space.points",
    "Study": "results.study",
    "Trial": "space.hyperparameters",
    "Winner": "results.study",
    "load_classifier": "winner.classifier",
    "open_study": "api",
    "read_digits": "data.digits",
    "run_study": "study",
    "tune": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'digitrec' has no attribute {name!r}")
    return getattr(importlib.import_module(f"digitrec.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

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
    from digitrec.results.analysis.finding import Finding
    from digitrec.results.study import Study, Winner
    from digitrec.space.hyperparameters import Configuration
    from digitrec.space.ranges import Range
    from digitrec.winner.classifier import Classifier, load_classifier

__all__ = [
    "Classifier",
    "Configuration",
    "Digits",
    "Finding",
    "InputError",
    "Range",
    "Study",
    "Winner",
    "load_classifier",
    "open_study",
    "read_digits",
    "tune",
]

_MODULES = {
    "Classifier": "winner.classifier",
    "Configuration": "space.hyperparameters",
    "Digits": "data.digits",
    "Finding": "results.analysis.finding",
    "InputError": "errors",
    "Range": "space.ranges",
    "Study": "results.study",
    "Winner": "results.study",
    "load_classifier": "winner.classifier",
    "open_study": "api",
    "read_digits": "data.digits",
    "tune": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'digitrec' has no attribute {name!r}")
    return getattr(importlib.import_module(f"digitrec.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

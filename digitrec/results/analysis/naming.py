"""The names of hyperparameters and configurations in sentences: lr 0.1, batch size 32."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from digitrec.space.hyperparameters import HYPERPARAMETERS


def named_hyperparameters(trials: pd.DataFrame) -> list[str]:
    """Return the hyperparameters that name a configuration of a study.

    Those without a default always do; the others where the trials have several values.
    """
    return [
        name
        for name, hyperparameter in HYPERPARAMETERS.items()
        if not hyperparameter.has_default or trials[name].nunique() > 1
    ]


def spell(name: str, value: Any) -> str:
    """Return a hyperparameter with its value."""
    return f"{HYPERPARAMETERS[name].heading} {write_value(name, value)}"


def write_value(name: str, value: Any) -> str:
    """Return a value as sentences and tables have it, 0.0 as 0.

    A column of a table may hold it as text already.
    """
    text = value if isinstance(value, str) else HYPERPARAMETERS[name].write(value)
    return "0" if text == "0.0" else text


def spell_all(values: Mapping[Any, Any], names: Sequence[str]) -> str:
    """Return a configuration by these hyperparameters."""
    return ", ".join(spell(name, values[name]) for name in names)

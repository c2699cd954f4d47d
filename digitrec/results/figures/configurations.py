"""The configurations in a table: what varies among them, which one wins, and their names."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from digitrec.results.analysis.naming import write_value
from digitrec.results.text import NO_WINNER, join_words
from digitrec.space.hyperparameters import HYPERPARAMETERS

MANY_VALUES = 12  # of a hyperparameter; above, values are not told apart one by one
GROUPS = 8  # of neighbouring values


def searched(frame: pd.DataFrame) -> list[str]:
    """Return the hyperparameters that have several values in a table."""
    return [name for name in HYPERPARAMETERS if frame[name].nunique() > 1]


def encoded(frame: pd.DataFrame) -> tuple[str, str]:
    """Return the first two searched hyperparameters; others fill up where fewer are searched."""
    varying = searched(frame)
    first, second, *_ = [*varying, *(name for name in HYPERPARAMETERS if name not in varying)]
    return first, second


def is_sparse(frame: pd.DataFrame) -> bool:
    """Return whether configurations are points of a space: they fill at most half of a grid."""
    cells = math.prod(frame[name].nunique() for name in searched(frame))
    return 2 * len(frame[list(HYPERPARAMETERS)].drop_duplicates()) <= cells and cells > 1


def many_valued(frame: pd.DataFrame) -> list[str]:
    """Return the hyperparameters with a value of their own for almost every point of a space."""
    if not is_sparse(frame):
        return []
    return [
        name
        for name in searched(frame)
        if frame[name].nunique() > MANY_VALUES and HYPERPARAMETERS[name].scale != "category"
    ]


def put_neighbours_together(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with neighbouring values replaced by their median, where they are many."""
    together = frame.copy()
    for name in many_valued(frame):
        groups = pd.qcut(frame[name], GROUPS, duplicates="drop")
        together[name] = frame.groupby(groups, observed=True)[name].transform("median")
    return together


def is_winner(frame: pd.DataFrame, trials: pd.DataFrame, winner: str | None) -> "pd.Series[bool]":
    """Return which rows of a table have the winner's configuration."""
    if winner is None:
        return pd.Series(False, frame.index)
    rows = trials.loc[trials["trial"] == winner, list(HYPERPARAMETERS)]
    return (frame[list(HYPERPARAMETERS)] == rows.iloc[0]).all(axis=1)


def order_values(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values in ascending order; texts by the numbers in them."""
    distinct = pd.unique(pd.Series(list(values)).dropna()).tolist()
    return sorted(distinct, key=_natural if any(isinstance(v, str) for v in distinct) else None)


def _natural(text: Any) -> list[str | int]:
    parts = re.split(r"(\d+)", str(text))
    return [int(part) if part.isdigit() else part for part in parts]


def label_value(name: str, value: Any) -> str:
    """Return a value as figures label it, a number with at most four digits."""
    return f"{value:.4g}" if isinstance(value, float) else write_value(name, value)


def describe_values(values: Mapping[Any, Any], names: Sequence[str]) -> str:
    """Return hyperparameters with their values: `learning rate 0.1 and batch size 32`."""
    return join_words(_labels(values, names))


def describe_winner(frame: pd.DataFrame, names: Sequence[str]) -> str:
    """Return the winner's values as a subtitle: `winner: learning rate 0.1, batch size 32`."""
    for row in frame[frame["winner"]].head(1).to_dict("records"):
        return f"winner: {', '.join(_labels(row, names))}"
    return NO_WINNER


def _labels(values: Mapping[Any, Any], names: Sequence[str]) -> list[str]:
    return [f"{HYPERPARAMETERS[name].label} {label_value(name, values[name])}" for name in names]

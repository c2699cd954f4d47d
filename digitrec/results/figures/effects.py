"""The effect of each searched hyperparameter on accuracy, their interaction, and their shares."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.configurations import (
    GROUPS,
    label_value,
    many_valued,
    order_values,
    put_neighbours_together,
    searched,
)
from digitrec.results.figures.encoding import Encoding
from digitrec.results.figures.scales import ValueScale
from digitrec.results.figures.style import LINE_GREY
from digitrec.results.figures.sweep import draw_panels
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

TITLE = "Effect of each hyperparameter"
CAPTION = (
    "Where the thin lines run side by side, the two act on their own; where they cross, the best "
    "value of one depends on the other. Trials that did not complete are left out, which flatters "
    "the values where they are."
)
CAPTION_OF_ONE = (
    "Means over the seeds. Trials that did not complete are left out, which flatters the values "
    "where they are."
)
CAPTION_OF_MANY = (
    f"Where values are many, neighbours are taken together in {GROUPS} groups and stand at their "
    "median."
)
MOST_WIDE_LINES = 12


def make_effects(inputs: FigureInputs) -> Chart | Omission:
    """Return the figure of the effects of a study."""
    frame = summarise_effects(inputs.evenly_trained)
    panels = searched(frame)
    if not panels or frame["accuracy"].isna().all():
        return Omission(TITLE, inputs.why_no_comparison)
    parts = (inputs.basis, _caption(panels), CAPTION_OF_MANY if many_valued(frame) else "")
    return Chart(
        name="effects",
        title=TITLE,
        caption=" ".join(part for part in parts if part),
        says=describe_effects(frame),
        figure=draw_effects(frame),
        marks=len(frame) * len(panels),
        wide=len(panels) > 2,
    )


def _caption(names: list[str]) -> str:
    if len(names) == 1:
        return CAPTION_OF_ONE
    first, second, *rest = [HYPERPARAMETERS[name].label for name in names]
    if not rest:
        return (
            "The thick line is the main effect, the mean over the other hyperparameter; a thin "
            f"line holds the other one fixed. {CAPTION}"
        )
    return (
        "The thick line is the main effect, the mean over the other hyperparameters; a thin line "
        f"holds the {first} fixed, or the {second} in the panel of the {first}. {CAPTION}"
    )


def summarise_effects(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per configuration: the hyperparameters and accuracy.

    The accuracy is the mean over the completed seeds, NaN without one.
    """
    completed = trials["status"] == "completed"
    accuracy = trials["val_accuracy"].astype(float).where(completed)
    by = list(HYPERPARAMETERS)
    groups = trials.assign(accuracy=accuracy).groupby(by, as_index=False)
    return groups.agg(accuracy=("accuracy", "mean"))


def main_effect(frame: pd.DataFrame, name: str) -> dict[Any, float]:
    """Return value -> mean accuracy of the configurations with it, if one has an accuracy."""
    means = frame.groupby(name)["accuracy"].mean().dropna().to_dict()
    return {value: float(means[value]) for value in order_values(means)}


def summarise_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how much of the variance of accuracy each searched hyperparameter accounts for.

    Only where two vary at least, and over the values of the first at which all combinations of the
    others have a trial that completed: there the grid is balanced, and the sums of squares add up.

    Returns:
        Columns term (a hyperparameter, or interaction: all that main effects do not explain), share
        (of the variance, sums to 1), configurations (how many). No rows where the balanced part has
        fewer than two values of a hyperparameter, or no variance.
    """
    empty = pd.DataFrame({"term": [], "share": [], "configurations": []})
    names = searched(frame)
    if len(names) < 2:
        return empty
    others = int(np.prod([frame[name].nunique() for name in names[1:]]))
    found = frame.dropna(subset="accuracy")
    balanced = found[found.groupby(names[0])["accuracy"].transform("size") == others]
    accuracy = balanced["accuracy"]
    if min(balanced[name].nunique() for name in names) < 2 or accuracy.nunique() == 1:
        return empty
    centred = accuracy - accuracy.mean()
    effects = [centred.groupby(balanced[name]).transform("mean") for name in names]
    squares = [float(np.square(part).sum()) for part in [*effects, centred - sum(effects)]]
    return pd.DataFrame(
        {
            "term": [*names, "interaction"],
            "share": np.array(squares) / np.sum(squares),
            "configurations": len(balanced),
        }
    )


def draw_effects(frame: pd.DataFrame) -> Figure:
    """Draw a panel per hyperparameter: a thick line of means, thin ones with another held fixed."""
    scales = [ValueScale.of(name, frame[name]) for name in searched(frame)]
    figure = draw_panels(scales, frame["accuracy"], "validation accuracy")
    frame = put_neighbours_together(frame)
    encoding = Encoding.of(frame)
    for axes, scale in zip(figure.axes, scales, strict=True):
        if len(scales) > 1:
            _draw_interaction(axes, frame, scale, encoding)
        effect = main_effect(frame, scale.name)
        x, y = scale.positions(effect), list(effect.values())
        axes.plot(x, y, color="black", linewidth=3, marker="o", label="mean")
    return figure


def _draw_interaction(
    axes: Axes, frame: pd.DataFrame, scale: ValueScale, encoding: Encoding
) -> None:
    """Draw a line per value of another hyperparameter, in its colour or dashes."""
    by_colour = scale.name != encoding.first.name
    other = encoding.first if by_colour else encoding.second
    means = frame.groupby([other.name, scale.name], as_index=False)["accuracy"].mean().dropna()
    means = means.assign(x=scale.positions(means[scale.name])).sort_values("x")
    parts = {value: means[means[other.name] == value] for value in other.values}
    values = [value for value, part in parts.items() if len(part)]
    collection = LineCollection(
        [parts[value][["x", "accuracy"]].to_numpy(float) for value in values],
        colors=encoding.colours(values) if by_colour else LINE_GREY,
        linestyles="-" if by_colour else [encoding.style(value) for value in values],
        linewidths=1.3 if len(values) <= MOST_WIDE_LINES else 0.6,
        label="interaction",
    )
    axes.add_collection(collection, autolim=False)


def describe_effects(frame: pd.DataFrame) -> str:
    """Return the highest and lowest main effects, and the shares of the variance."""
    said, together = [], put_neighbours_together(frame)
    for name in searched(frame):
        effect = main_effect(together, name)
        high, low = (choose(effect, key=effect.__getitem__) for choose in (max, min))
        said.append(
            f"Mean accuracy over {HYPERPARAMETERS[name].label} is highest at "
            f"{label_value(name, high)} with {percent(effect[high])}, lowest at "
            f"{label_value(name, low)} with {percent(effect[low])}."
        )
    return " ".join([*said, describe_shares(summarise_shares(frame))]).strip()


def describe_shares(shares: pd.DataFrame) -> str:
    """Return which shares of the variance are whose; nothing where that is not known."""
    if shares.empty:
        return ""
    interaction = "their interaction" if len(shares) == 3 else "their interactions"
    words = {name: HYPERPARAMETERS[name].label for name in shares["term"][:-1]}
    parts = [
        f"{words.get(term, interaction)} {percent(part, 0)}"
        for term, part in zip(shares["term"], shares["share"], strict=True)
    ]
    configurations = count(int(shares["configurations"].iloc[0]), "configuration")
    return f"Of the variance of accuracy over {configurations}, {join_words(parts)}."

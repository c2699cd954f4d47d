"""The points of a sampled space: accuracy over the two hyperparameters that matter most."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from digitrec.results.figures.chart import Chart, FigureInputs
from digitrec.results.figures.configurations import (
    MANY_VALUES,
    describe_values,
    describe_winner,
    label_value,
    many_valued,
    order_values,
    put_neighbours_together,
    searched,
)
from digitrec.results.figures.parallel import SHARE_OF_BEST, summarise_parallel
from digitrec.results.figures.scales import (
    Floats,
    ValueScale,
    accuracy_at,
    accuracy_norm,
    error_decades,
    label_accuracies,
)
from digitrec.results.figures.style import (
    LINE_GREY,
    TICK_SIZE,
    WHITE_EDGE,
    new_figure,
    prepare,
    write_title,
)
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

TITLE = "Accuracy over the points"
CAPTION = (
    "A point per configuration; the colour is its validation accuracy after {}, even in the log "
    "error, and the best lie on top. The two hyperparameters account for most of the "
    "variance of accuracy. A star marks the winner, a cross a configuration that diverged. Good "
    "points at the edge say that the search should continue beyond it.{}"
)
CAPTION_OF_CONTOUR = (
    " The shading behind the points is their local mean (Nadaraya 1964, On estimating regression; "
    "Gaussian weights)."
)
ACCURACY_COLOURS = matplotlib.colormaps["viridis"]
FEWEST_BEST = 5  # points whose values are said
FEWEST_OF_CONTOUR = 20  # points
CELLS, LEVELS = 60, 12  # of the contour
LEAST_WEIGHT = 0.5  # of all points at a place that is shaded; a point there has 1
MOST_LARGE_POINTS = 100

Pair = tuple[str, str]


def make_points(inputs: FigureInputs, pair: Pair) -> Chart:
    """Return the figure of the points of a study over two hyperparameters."""
    frame = summarise_parallel(inputs.evenly_trained, inputs.marked)
    return Chart(
        name="heatmap",
        title=f"{TITLE}: {join_words([HYPERPARAMETERS[name].label for name in pair])}",
        caption=CAPTION.format(inputs.when, CAPTION_OF_CONTOUR if has_contour(frame, pair) else ""),
        says=describe_points(frame, pair),
        figure=draw_points(frame, pair, inputs.when),
        marks=len(frame),
    )


def choose_pair(trials: pd.DataFrame) -> Pair | None:
    """Return the two hyperparameters that matter most; None: the study is a grid.

    The first is the one that accounts for most of the variance of accuracy, neighbouring values
    taken together; the second for most of what the first leaves.
    """
    if not many_valued(trials):
        return None
    completed = trials[trials["status"] == "completed"]
    together, names = put_neighbours_together(completed), searched(trials)
    left = completed["val_accuracy"].astype(float)
    pair: list[str] = []
    for _ in range(2):
        shares = {name: _explained(left, together[name]) for name in names if name not in pair}
        pair.append(max(shares, key=shares.__getitem__))
        left = left - left.groupby(together[pair[-1]]).transform("mean")
    first, second = sorted(pair, key=names.index)
    return first, second


def _explained(accuracy: "pd.Series[float]", groups: "pd.Series[float]") -> float:
    """Return the adjusted R² of groups, as more groups explain more of the noise."""
    freedom = len(accuracy) - groups.nunique()
    if freedom < 1 or not accuracy.var() > 0:
        return 0.0
    within = accuracy - accuracy.groupby(groups).transform("mean")
    return float(1 - np.square(within).sum() / freedom / accuracy.var())


def draw_points(frame: pd.DataFrame, pair: Pair, when: str = "the last epoch") -> Figure:
    """Draw the points.

    Args:
        frame: as from `summarise_parallel`.
        pair: the hyperparameters across and up.
        when: after what the accuracies were measured.
    """
    figure = new_figure(7.2, 5.6)
    axes = prepare(figure.add_axes((0.13, 0.12, 0.68, 0.71)))
    across, up = (ValueScale.of(name, frame[name]) for name in pair)
    across.set_axis(axes)
    up.set_vertical(axes)
    norm = accuracy_norm(frame["accuracy"])
    frame = frame.assign(x=across.positions(frame[pair[0]]), y=up.positions(frame[pair[1]]))
    if has_contour(frame, pair):
        _draw_contour(axes, frame.dropna(subset="accuracy"), norm)
    _draw_marks(axes, frame, norm)
    write_title(figure, f"Validation accuracy after {when}", describe_winner(frame, list(pair)))
    if frame["accuracy"].notna().any():
        bar = figure.add_axes((0.84, 0.12, 0.025, 0.71))
        figure.colorbar(ScalarMappable(norm, ACCURACY_COLOURS), cax=bar)
        label_accuracies(bar, norm)
    return figure


def has_contour(frame: pd.DataFrame, pair: Pair) -> bool:
    """Return whether the points are enough, and both hyperparameters numbers of many values."""
    found = frame.dropna(subset="accuracy")
    return len(found) >= FEWEST_OF_CONTOUR and all(
        HYPERPARAMETERS[name].scale != "category" and found[name].nunique() > MANY_VALUES
        for name in pair
    )


def local_mean(points: Floats, values: Floats, places: Floats) -> Floats:
    """Return the mean of the values around places, (P,); NaN where no point is near.

    Args:
        points: in the unit square, (N, 2).
        values: of the points, (N,).
        places: in the unit square, (P, 2).
    """
    width = points.std(axis=0) * len(points) ** (-1 / 6)  # Scott's rule in two dimensions
    distances = (places[:, None] - points) / np.maximum(width, 1e-9)
    weights = np.exp(-0.5 * np.square(distances).sum(axis=2))
    total = weights.sum(axis=1)
    near = total >= LEAST_WEIGHT
    mean = weights @ values / np.maximum(total, LEAST_WEIGHT)
    return np.where(near, mean, np.nan)


def _draw_contour(axes: Axes, found: pd.DataFrame, norm: Normalize) -> None:
    """Shade the local mean of the log error; found: with columns x and y."""
    to_unit = axes.transScale + axes.transLimits
    points = to_unit.transform(found[["x", "y"]].to_numpy(float))
    steps = np.linspace(0, 1, CELLS)
    across, up = np.meshgrid(steps, steps)
    places = np.column_stack([across.ravel(), up.ravel()])
    decades = error_decades(found["accuracy"])
    mean = accuracy_at(local_mean(points, decades, places)).reshape(across.shape)
    axes.contourf(
        across, up, mean, norm.inverse(np.linspace(0, 1, LEVELS)), transform=axes.transAxes,
        cmap=ACCURACY_COLOURS, norm=norm, alpha=0.35, zorder=0.5,
    )  # fmt: skip


def _draw_marks(axes: Axes, frame: pd.DataFrame, norm: Normalize) -> None:
    """Draw points, crosses and the star; frame: with columns x and y, the best last."""
    found, diverged = frame.dropna(subset="accuracy"), frame[frame["diverged"]]
    size = 26 if len(frame) > MOST_LARGE_POINTS else 60
    axes.scatter(
        found["x"], found["y"], size, ACCURACY_COLOURS(norm(found["accuracy"])),
        edgecolors="white", linewidths=0.5, label="completed", clip_on=False, zorder=2,
    )  # fmt: skip
    if len(diverged):
        crosses = axes.scatter(
            diverged["x"], diverged["y"], 30, LINE_GREY, marker="x", label="diverged"
        )
        crosses.set_path_effects(WHITE_EDGE)
    for row in frame[frame["winner"]].to_dict("records"):
        star = axes.scatter(row["x"], row["y"], 260, "white", marker="*", edgecolors="black")
        star.set(label="winner", zorder=4)
    axes.tick_params(labelsize=TICK_SIZE)


def describe_points(frame: pd.DataFrame, pair: Pair) -> str:
    """Return the highest accuracy, and between which values the best points lie."""
    found = frame.dropna(subset="accuracy")
    if found.empty:
        return f"None of {count(len(frame), 'configuration')} has a trial that completed."
    top = found.iloc[-1]
    said = f"Highest of {count(len(found), 'point')}: {percent(top['accuracy'])} at "
    said += f"{describe_values(top.to_dict(), pair)}."
    best = found.tail(max(FEWEST_BEST, round(SHARE_OF_BEST * len(found))))
    if len(best) < len(found):
        ranges = [_describe_range(name, best[name]) for name in pair]
        said += f" The best {len(best):,} have {join_words(ranges)}."
    return said


def _describe_range(name: str, values: "pd.Series[float]") -> str:
    ordered = order_values(values)
    ends = dict.fromkeys(label_value(name, value) for value in (ordered[0], ordered[-1]))
    return f"{HYPERPARAMETERS[name].label} {' to '.join(ends)}"

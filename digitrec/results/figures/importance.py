"""The importance of each searched hyperparameter for the accuracy."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.configurations import searched
from digitrec.results.figures.effects import summarise_effects
from digitrec.results.figures.scales import Floats, ValueScale
from digitrec.results.figures.style import ACCENT, LINE_GREY, TEXT_SIZE, new_figure, prepare
from digitrec.results.text import count, join_words, percent
from digitrec.space.hyperparameters import HYPERPARAMETERS

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestRegressor

Floats32 = NDArray[np.float32]

TITLE = "Importance of each hyperparameter"
REPEATS, TREES, RANDOM_STATE = 10, 100, 0
CAPTION = (
    "Permutation importance (Breiman 2001, Random Forests; scikit-learn): how much less of the "
    "variance of accuracy (R²) a random forest explains when the values of one hyperparameter are "
    "shuffled. Trees predict only configurations they have not seen; a whisker is the standard "
    f"deviation over {REPEATS} shuffles. A bar includes interactions, so bars do not sum to 1. It "
    "shows what goes with accuracy within the values searched, not what causes it. Trials that did "
    "not complete are left out, so what makes trials diverge counts too little."
)
MOST_ROWS_OF_A_TREE = 500  # which bounds the time of studies with thousands of configurations
FEWEST, FEWEST_PER_HYPERPARAMETER = 10, 4  # configurations that completed


def make_importance(inputs: FigureInputs) -> Chart | Omission:
    """Return the figure of the importances of a study."""
    configurations = summarise_effects(inputs.evenly_trained)
    if reason := inputs.why_no_overview or why_no_importance(configurations):
        return Omission(TITLE, reason)
    frame = summarise_importance(configurations)
    if not frame["explained"].iloc[0] > 0:
        return Omission(TITLE, "no random forest predicts the accuracies from the hyperparameters")
    caption = f"{CAPTION} {inputs.basis}".strip()
    return Chart(
        "importance", TITLE, caption, describe_importance(frame), draw_importance(frame), len(frame)
    )


def why_no_importance(configurations: pd.DataFrame) -> str | None:
    """Return why nothing is to be learnt from configurations; None: there is something."""
    names = searched(configurations)
    least = max(FEWEST, FEWEST_PER_HYPERPARAMETER * len(names))
    completed = int(configurations["accuracy"].notna().sum())
    if completed < least:
        return (
            f"{count(len(names), 'hyperparameter')} take {least} configurations with a trial that "
            f"completed; there are {completed or 'none'}"
        )
    if configurations["accuracy"].nunique() == 1:
        return "all configurations have the same accuracy"
    return None


def summarise_importance(configurations: pd.DataFrame) -> pd.DataFrame:
    """Return a row per searched hyperparameter, the most important first.

    Args:
        configurations: as from `summarise_effects`.

    Returns:
        Columns name, importance (mean loss of R² over the shuffles), spread (their standard
        deviation), explained (R² without a shuffle), configurations (how many).

    Source: https://scikit-learn.org/stable/modules/permutation_importance.html
    """
    # Their import takes 0.3 s; few reports need it.
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    found = configurations.dropna(subset="accuracy")
    names = searched(found)
    # Trees only compare values, so their ranks do for any scale.
    ranks = [ValueScale.of(name, found[name]).ranks(found[name]) for name in names]
    values, accuracies = (
        np.column_stack(ranks).astype(np.float32),
        found["accuracy"].to_numpy(float),
    )
    forest = RandomForestRegressor(
        TREES, max_samples=min(len(found), MOST_ROWS_OF_A_TREE), random_state=RANDOM_STATE
    ).fit(values, accuracies)
    score = partial(explained, unseen=out_of_bag(forest, len(found)))
    result = permutation_importance(
        forest, values, accuracies, scoring=score, n_repeats=REPEATS,
        random_state=RANDOM_STATE,
    )  # fmt: skip
    frame = pd.DataFrame(
        {
            "name": names,
            "importance": result.importances_mean,
            "spread": result.importances_std,
            "explained": score(forest, values, accuracies),
            "configurations": len(found),
        }
    )
    return frame.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def out_of_bag(forest: "RandomForestRegressor", rows: int) -> NDArray[np.bool_]:
    """Return which rows each tree has not seen, (trees, rows)."""
    unseen = np.ones((len(forest.estimators_), rows), dtype=bool)
    for tree, seen in zip(unseen, forest.estimators_samples_, strict=True):
        tree[seen] = False
    return unseen


def explained(
    forest: "RandomForestRegressor", values: Floats32, accuracies: Floats, unseen: NDArray[np.bool_]
) -> float:
    """Return the R² of predictions by the trees that have not seen a row, in [-inf, 1].

    Args:
        forest: fitted to the rows.
        values: of the hyperparameters of each row; some may be shuffled.
        accuracies: of each row.
        unseen: as from `out_of_bag`.
    """
    trees = [tree.predict(values, check_input=False) for tree in forest.estimators_]
    predictions = np.mean(trees, axis=0, where=unseen)
    error = np.square(accuracies - predictions).sum()
    return float(1 - error / np.square(accuracies - accuracies.mean()).sum())


def draw_importance(frame: pd.DataFrame) -> Figure:
    """Draw a bar with a whisker per hyperparameter."""
    height = 0.75 + 0.4 * len(frame)
    figure = new_figure(5.3, height)
    axes = prepare(figure.add_axes((0.33, 0.55 / height, 0.64, 1 - 0.65 / height)))
    places = range(len(frame))
    axes.barh(
        places, frame["importance"], height=0.62, color=ACCENT, xerr=frame["spread"],
        ecolor=LINE_GREY, capsize=3,
    )  # fmt: skip
    axes.yaxis.set_ticks(places, [HYPERPARAMETERS[name].label for name in frame["name"]])
    axes.set_ylim(len(frame) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("loss of R² when shuffled", fontsize=TEXT_SIZE)
    return figure


def describe_importance(frame: pd.DataFrame) -> str:
    """Return how much the forest explains, and the loss by each hyperparameter."""
    explained, configurations = frame["explained"].iloc[0], int(frame["configurations"].iloc[0])
    parts = [
        f"{HYPERPARAMETERS[name].label} {_two_digits(importance)} ± {spread:.2f}"
        for name, importance, spread in frame[["name", "importance", "spread"]].itertuples(
            index=False
        )
    ]
    return (
        f"Loss of R² when shuffled: {join_words(parts)}. Not shuffled, the hyperparameters explain "
        f"{percent(explained, 0)} of the variance of accuracy over "
        f"{count(configurations, 'configuration')} unseen by the trees."
    )


def _two_digits(number: float) -> str:
    return f"{round(number, 2) + 0.0:.2f}"  # without the sign of -0.00

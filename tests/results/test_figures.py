from dataclasses import replace
from functools import cache
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from digitrec.results.analysis.statistics import summarise_best_of_n
from digitrec.results.figures import (
    best_of_n,
    calibration,
    classes,
    confusion,
    effects,
    gap,
    importance,
    mistakes,
    parallel,
    sweep,
    timeline,
    timings,
)
from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.comparison import draw_comparison
from digitrec.results.figures.configurations import describe_winner, searched
from digitrec.results.figures.curves import summarise_curves
from digitrec.results.figures.encoding import Encoding, describe_encoding
from digitrec.results.figures.heatmap import (
    MOST_PAIRS,
    choose_pairs,
    make_heatmaps,
    pairs,
    summarise_heatmap,
)
from digitrec.results.figures.scales import ValueScale, keep_apart
from digitrec.results.figures.style import new_figure, render
from digitrec.results.report.sections import SECTIONS, draw_mistakes, draw_sections
from digitrec.space.hyperparameters import HYPERPARAMETERS, with_role
from digitrec.store.record import StudyRecord
from digitrec.store.tables import Tables
from tests.studies import DEFAULTS, make_record


@pytest.fixture
def trials(tmp_path: Path) -> pd.DataFrame:
    return make_record(tmp_path).tables.trials


def labels_of(*values: int) -> NDArray[np.uint8]:
    return np.array(values, np.uint8)


def grid(accuracies: list[list[float]]) -> pd.DataFrame:
    """Completed trials; a row per learning rate and a column per batch size, NaN diverged."""
    rows = [
        {
            "trial": f"{lr}-{size}",
            "lr": float(10**lr),
            "batch_size": 32 * 2**size,
            **DEFAULTS,
            "seed": 0,
            "status": "diverged" if np.isnan(accuracy) else "completed",
            "val_accuracy": accuracy,
            "best_val_accuracy": accuracy,
        }
        for lr, row in enumerate(accuracies)
        for size, accuracy in enumerate(row)
    ]
    return pd.DataFrame(rows)


def shares(accuracies: list[list[float]]) -> dict[str, float]:
    frame = effects.summarise_shares(effects.summarise_effects(grid(accuracies)))
    return dict(zip(frame["term"], frame["share"], strict=True))


def test_a_figure_of_few_marks_is_an_svg_and_one_of_many_a_png() -> None:
    assert render(new_figure(2, 1), 100).content.startswith(b"<?xml")
    assert render(new_figure(2, 1), 100_000).content.startswith(b"\x89PNG")
    assert (render(new_figure(2, 1), 100).width, render(new_figure(2, 1), 1).height) == (192, 96)


def test_the_same_figure_is_the_same_file(trials: pd.DataFrame) -> None:
    frame = sweep.summarise_sweep(trials, None)
    first, second = (render(sweep.draw_sweep(frame), len(frame)) for _ in range(2))
    assert first == second
    assert b"<metadata" not in first.content  # which would hold the time of drawing


def test_labels_that_have_no_room_are_left_out() -> None:
    assert keep_apart([1, 2, 3, 100], [1, 2, 3, 100]) == [1, 100]


def test_the_sweep_has_a_panel_for_each_hyperparameter_that_varies(tmp_path: Path) -> None:
    both = sweep.summarise_sweep(make_record(tmp_path).tables.trials, None)
    assert searched(both) == ["lr", "batch_size"]
    assert len(sweep.draw_sweep(both).axes) == 2
    one = sweep.summarise_sweep(make_record(tmp_path, lrs=(0.1,)).tables.trials, None)
    assert searched(one) == ["batch_size"]
    assert len(sweep.draw_sweep(one).axes) == 1
    assert searched(make_record(tmp_path, lrs=(0.1,), batch_sizes=(32,)).tables.trials) == []


def crosses(figure: Figure) -> list[float]:
    """The heights of the crosses of diverged trials, over all panels."""
    found = [a for axes in figure.axes for a in axes.collections if a.get_label() == "diverged"]
    return [float(y) for artist in found for _, y in np.asarray(artist.get_offsets())]


def test_a_diverged_trial_is_a_cross_at_the_best_it_had_reached(tmp_path: Path) -> None:
    trials = make_record(tmp_path, diverged=[1.0]).tables.trials
    frame = sweep.summarise_sweep(trials, None)
    best = frame.loc[frame["diverged"], "best"]
    assert best.notna().all()
    assert sorted(crosses(sweep.draw_sweep(frame))) == pytest.approx(
        sorted([*best] * 2)
    )  # 2 panels
    assert sweep.describe_sweep(frame).endswith("2 of 6 trials diverged.")


def test_a_diverged_trial_that_had_reached_nothing_is_a_cross_at_the_foot(tmp_path: Path) -> None:
    trials = make_record(tmp_path, diverged=[1.0], epochs=1).tables.trials
    frame = sweep.summarise_sweep(trials, None)
    assert crosses(sweep.draw_sweep(frame)) == [sweep.FOOT] * 4  # two trials in two panels


def test_a_configuration_keeps_its_colour_when_others_are_not_trained(tmp_path: Path) -> None:
    def colours(untrained: list[float]) -> set[tuple[float, ...]]:
        trials = make_record(tmp_path, untrained=untrained).tables.trials
        figure = sweep.draw_sweep(sweep.summarise_sweep(trials, None))
        scatters = [a for a in figure.axes[0].collections if isinstance(a, PathCollection)]
        return {
            tuple(colour)
            for artist in scatters
            for colour, (_, y) in zip(
                np.asarray(artist.get_facecolor()), np.asarray(artist.get_offsets()), strict=True
            )
            if np.isfinite(y)
        }

    assert len(colours([])) == 3
    assert colours([0.01]) < colours([])


def test_an_effect_is_the_mean_over_the_other_hyperparameter() -> None:
    frame = effects.summarise_effects(grid([[0.5, 0.7], [0.8, 1.0]]))
    assert effects.main_effect(frame, "lr") == pytest.approx({1: 0.6, 10: 0.9})
    assert effects.main_effect(frame, "batch_size") == pytest.approx({32: 0.65, 64: 0.85})


def test_what_only_the_rate_decides_is_the_rates() -> None:
    assert shares([[0.5, 0.5], [0.9, 0.9]]) == pytest.approx(
        {"lr": 1, "batch_size": 0, "interaction": 0}
    )


def test_effects_that_add_up_do_not_interact() -> None:
    found = shares([[0.5, 0.6], [0.8, 0.9]])
    assert found["interaction"] == pytest.approx(0)
    assert found["lr"] == pytest.approx(0.9)
    assert sum(found.values()) == pytest.approx(1)


def test_effects_that_cross_are_all_interaction() -> None:
    assert shares([[0.5, 0.9], [0.9, 0.5]])["interaction"] == pytest.approx(1)


def test_a_rate_with_a_diverged_trial_has_no_part_in_the_shares() -> None:
    assert shares([[0.5, 0.6], [0.8, 0.9], [0.1, np.nan]]) == pytest.approx(
        shares([[0.5, 0.6], [0.8, 0.9]])
    )


def test_where_nothing_varies_there_are_no_shares() -> None:
    assert shares([[0.5, 0.5], [0.5, 0.5]]) == {}
    assert shares([[0.5, np.nan], [np.nan, 0.5]]) == {}


def test_the_gap_is_training_minus_validation_accuracy(tmp_path: Path) -> None:
    tables = make_record(tmp_path).tables
    frame = gap.summarise_gap(tables.trials, tables.epochs, "lr1.0-bs32-seed0")
    np.testing.assert_allclose(frame["mean"], -0.02)
    assert "The winner's is -2.00 percentage points." in gap.describe_gap(frame)


def test_the_best_of_all_trials_is_the_best(trials: pd.DataFrame) -> None:
    frame = summarise_best_of_n(trials)
    best = f"{100 * trials['val_accuracy'].max():.2f}% of 6 trials."
    assert best in best_of_n.describe_best_of_n(frame)
    (line,) = best_of_n.draw_best_of_n(frame).axes[0].lines
    assert np.asarray(line.get_xdata()).tolist() == [1, 2, 3, 4, 5, 6]


def test_fresh_seeds_are_no_draws_of_the_best_of_n(tmp_path: Path) -> None:
    def says(**kind: Any) -> str:
        chart = best_of_n.make_best_of_n(FigureInputs(make_record(tmp_path, **kind), None))
        assert isinstance(chart, Chart)
        return chart.says

    assert says(confirmed=[0.1]) == says()


def test_the_parts_of_a_run_keep_their_order() -> None:
    frame = timings.summarise_timings({"train": 3.0, "end Ray": 1.25})
    assert timings.describe_timings(frame) == "Seconds: train 3.0 and end Ray 1.2."
    bars = timings.draw_timings(frame).axes[0].patches
    assert [bar.get_width() for bar in bars] == [3.0, 1.25]  # type: ignore[attr-defined]


def runs_of(*stacks: tuple[int, float, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and trials of stacks of two trials, each given as process, start and end."""
    rows = [
        {
            "trial": f"{place}-{member}",
            "stack": f"stack{place}",
            "node": "node",
            "pid": pid,
            "started": 1e9 + started,
            "ended": 1e9 + ended,
        }
        for place, (pid, started, ended) in enumerate(stacks)
        for member in range(2)
    ]
    runs = pd.DataFrame(rows)
    return runs, runs[["trial"]].assign(batch_size=32, **DEFAULTS)


def test_a_stack_is_one_bar_in_the_row_of_its_worker() -> None:
    frame = timeline.summarise_timeline(*runs_of((7, 0, 2), (8, 0, 3), (7, 2, 4)))
    assert frame["row"].tolist() == [0, 1, 0]
    assert frame["trials"].tolist() == [2, 2, 2]
    assert frame["ended"].tolist() == [2, 3, 4]
    assert timeline.describe_timeline(frame) == (
        "2 workers trained 3 stacks within 4.0 seconds. "
        "They were busy for 7.0 worker-seconds, 88% of their time, and waited for 1.0."
    )


def test_a_long_pause_takes_no_room_in_the_timeline() -> None:
    frame = timeline.summarise_timeline(*runs_of((7, 0, 2), (9, 86_402, 86_405)))
    assert frame["started"].tolist() == [0, 2]
    assert frame["ended"].tolist() == [2, 5]
    assert frame["pause"].tolist() == [0, 86_400]
    assert "1 pause, 24 h 00 min in all" in timeline.describe_timeline(frame)


def test_the_workers_of_one_run_are_not_idle_in_another() -> None:
    frame = timeline.summarise_timeline(
        *runs_of((7, 0, 50), (8, 1, 50), (9, 85, 95), (10, 85, 90), (9, 95, 105))
    )
    assert frame["run"].tolist() == [0, 0, 1, 1, 1]
    assert timeline.describe_timeline(frame) == (
        "In 2 runs, 4 workers trained 5 stacks within 70.0 seconds. They were busy for 124.0 "
        "worker-seconds, 89% of their time, and waited for 16.0. "
        "Left out: 1 pause, 35 s in all, when nothing was trained."
    )


def test_a_short_wait_stays_in_the_timeline() -> None:
    frame = timeline.summarise_timeline(*runs_of((7, 0, 2), (7, 30, 31)))
    assert frame["started"].tolist() == [0, 30]


def test_every_image_is_in_one_cell_of_the_confusion_matrix() -> None:
    frame = confusion.summarise_confusion(labels_of(4, 4, 4, 9, 0), labels_of(9, 9, 4, 4, 0))
    table = frame.pivot(index="label", columns="prediction", values="images")
    assert (table.loc[4, 9], table.loc[4, 4], table.loc[9, 4], table.loc[0, 0]) == (2, 1, 1, 1)
    assert frame["images"].sum() == 5
    assert confusion.describe_confusion(frame) == (
        "3 of 5 images are misread. The most frequent mistakes: "
        "4 read as 9 (2) and 9 read as 4 (1)."
    )


def test_without_a_mistake_the_confusion_matrix_names_none() -> None:
    frame = confusion.summarise_confusion(labels_of(1, 2), labels_of(1, 2))
    assert confusion.describe_confusion(frame) == "0 of 2 images are misread."
    assert confusion.draw_confusion(frame).axes


def test_the_interval_of_a_digit_is_wilsons() -> None:
    frame = classes.summarise_classes(labels_of(*[3] * 10), labels_of(*[3] * 8, 5, 5))
    row = frame.loc[3]
    assert (row["images"], row["correct"]) == (10, 8)
    assert [row["low"], row["high"]] == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_a_digit_without_images_has_no_accuracy() -> None:
    frame = classes.summarise_classes(labels_of(3), labels_of(3))
    assert frame["accuracy"].isna().tolist() == [digit != 3 for digit in range(10)]
    assert classes.draw_classes(frame).axes


def probabilities_of(*confident: tuple[int, float]) -> NDArray[np.float32]:
    rows = np.array([np.full(10, (1 - p) / 9) for _, p in confident], np.float32)
    for row, (digit, p) in zip(rows, confident, strict=True):
        row[digit] = p
    return rows


def test_confidence_that_is_kept_has_no_calibration_error() -> None:
    frame = calibration.summarise_calibration(
        labels_of(1, 1, 1, 1), probabilities_of(*[(1, 0.75)] * 3, (2, 0.75))
    )
    assert calibration.expected_calibration_error(frame) == pytest.approx(0, abs=1e-6)


def test_the_calibration_error_weighs_bins_by_their_images() -> None:
    frame = calibration.summarise_calibration(
        labels_of(1, 1, 1, 1), probabilities_of(*[(1, 0.95)] * 3, (2, 0.55))
    )
    assert frame["images"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert calibration.expected_calibration_error(frame) == pytest.approx(
        (3 * 0.05 + 0.55) / 4, abs=1e-6
    )


def test_full_confidence_is_in_the_last_bin() -> None:
    frame = calibration.summarise_calibration(labels_of(1), probabilities_of((1, 1.0)))
    assert frame["images"].iloc[-1] == 1


def test_a_mistake_is_said_with_row_label_prediction_and_probability(tmp_path: Path) -> None:
    first = draw_mistakes(make_record(tmp_path))[0]
    assert (first.row, first.label, first.prediction) == (1090, 0, 1)
    assert first.probability == pytest.approx(0.82, abs=1e-6)


def test_a_picture_of_a_digit_has_its_pixels() -> None:
    pixels = np.arange(16, dtype=np.uint8) * 17
    picture = mistakes.draw_digit(pixels)
    assert picture is not None
    shown = imread(BytesIO(picture.content))[:, :, 0] * 255
    np.testing.assert_allclose(shown, pixels.reshape(4, 4), atol=0.5)


def test_pixels_that_make_no_square_are_not_drawn() -> None:
    assert mistakes.draw_digit(np.zeros(15, np.uint8)) is None


# --- many hyperparameters


def points(number: int, **values: int) -> pd.DataFrame:
    """Completed trials at random points; each hyperparameter has as many values, from 0 to 1."""
    rng = np.random.default_rng(0)
    drawn = {name: rng.integers(0, most, number) / (most - 1) for name, most in values.items()}
    trials = pd.DataFrame({**DEFAULTS, "lr": 0.1, "batch_size": 32, **drawn})
    trials = trials.assign(seed=0, status="completed", val_accuracy=0.5 + 0.3 * trials["dropout"])
    return trials.drop_duplicates(list(HYPERPARAMETERS)).assign(
        trial=lambda frame: [f"trial{row}" for row in range(len(frame))]
    )


MANY = {"momentum": 4, "weight_decay": 4, "dropout": 4}


def test_a_line_runs_through_the_values_of_its_configuration() -> None:
    frame = parallel.summarise_parallel(points(20, **MANY), None)
    completed = lines(parallel.draw_parallel(frame), "completed")
    assert len(completed) == len(frame)
    for line, row in zip(completed, frame.to_dict("records"), strict=True):
        momentum, _, dropout, accuracy = np.asarray(line.vertices)[:, 1]
        assert momentum == pytest.approx(row["momentum"], abs=parallel.WIDEST_FAN + 1e-9)
        assert dropout == pytest.approx(row["dropout"], abs=parallel.WIDEST_FAN + 1e-9)
        assert 0 <= accuracy <= 1


def lines(figure: Figure, label: str) -> list[Any]:
    """The lines of a figure of parallel coordinates: completed or diverged."""
    found = [artist for artist in figure.axes[0].collections if artist.get_label() == label]
    return [path for artist in found for path in artist.get_paths()]


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 0.5, 1.0), tuple(n / 40 for n in range(41))])
def test_lines_that_share_a_value_stand_apart_and_off_the_next_value(
    values: tuple[float, ...],
) -> None:
    frame = pd.DataFrame({"dropout": sorted(values * 3)})
    heights = parallel.fan_out(frame, ValueScale.of("dropout", values))
    assert (np.diff(heights) > 0).all()


def test_zero_is_the_foot_of_a_log_axis() -> None:
    values = (0.0, 1e-5, 1e-4, 1e-3)
    frame = pd.DataFrame({"weight_decay": values})
    heights = parallel.fan_out(frame, ValueScale.of("weight_decay", values))
    np.testing.assert_allclose(heights, [0, 1 / 3.7, 2.35 / 3.7, 1], atol=0.1)
    axes = new_figure(3, 3).add_subplot()
    ValueScale.of("weight_decay", values).set_upright(axes)
    ends = axes.transAxes.inverted().transform(axes.transData.transform([(0, v) for v in values]))
    np.testing.assert_allclose(ends[:, 1], heights, atol=1e-6)


def test_a_configuration_of_diverged_seeds_alone_ends_at_the_foot() -> None:
    trials = points(20, **MANY)
    trials = pd.concat([trials, trials.assign(seed=1, trial=trials["trial"] + "b")])
    trials.loc[trials["trial"].isin(["trial0", "trial1", "trial1b"]), "status"] = "diverged"
    frame = parallel.summarise_parallel(trials, "trial2")
    assert frame["diverged"].sum() == 1
    figure = parallel.draw_parallel(frame)
    (line,) = lines(figure, "diverged")
    assert np.asarray(line.vertices)[-1, 1] == parallel.FOOT
    assert [line.get_label() for line in figure.axes[0].lines] == ["winner"]
    assert "; 1 diverged. The winner has momentum" in parallel.describe_parallel(frame)


def test_thousands_of_configurations_are_a_handful_of_artists() -> None:
    trials = points(6000, lr=50, **MANY).assign(lr=lambda frame: frame["lr"] + 0.01)
    frame = parallel.summarise_parallel(trials, None)
    assert len(frame) > 2000
    assert len(parallel.draw_parallel(frame).axes[0].collections) == 3  # the axes are the third


def test_what_alone_decides_the_accuracy_is_the_most_important() -> None:
    frame = importance.summarise_importance(effects.summarise_effects(points(40, **MANY)))
    assert frame["name"].iloc[0] == "dropout"
    assert frame["importance"].iloc[0] > 1
    np.testing.assert_allclose(frame["importance"].iloc[1:], 0, atol=0.05)
    assert frame["explained"].iloc[0] > 0.9


def test_an_importance_includes_interactions() -> None:
    trials = points(80, momentum=2, dropout=2, lr=3, batch_size=3)
    trials["val_accuracy"] = 0.5 + 0.3 * (trials["momentum"] != trials["dropout"])
    frame = importance.summarise_importance(effects.summarise_effects(trials))
    assert set(frame["name"].iloc[:2]) == {"momentum", "dropout"}
    assert frame["importance"].iloc[1] > 0.3


def test_the_same_trials_have_the_same_importances() -> None:
    configurations = effects.summarise_effects(points(20, **MANY))
    first, second = (importance.summarise_importance(configurations) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_accuracies_of_pure_chance_are_not_explained() -> None:
    trials = points(40, **MANY)
    trials["val_accuracy"] = np.random.default_rng(1).uniform(size=len(trials))
    frame = importance.summarise_importance(effects.summarise_effects(trials))
    assert frame["explained"].iloc[0] < 0.1


def test_few_configurations_have_no_importances() -> None:
    configurations = effects.summarise_effects(points(12, **MANY))
    assert importance.why_no_importance(configurations) is None
    assert importance.why_no_importance(configurations.iloc[1:]) == (
        "3 hyperparameters take 12 configurations with a trial that completed; there are 11"
    )
    assert importance.why_no_importance(configurations.assign(accuracy=0.5)) == (
        "all configurations have the same accuracy"
    )


def test_many_panels_stand_in_rows() -> None:
    trials = points(50, lr=3, batch_size=3, **MANY).assign(best_val_accuracy=0.5)
    figure = sweep.draw_sweep(sweep.summarise_sweep(trials, None))
    assert len(figure.axes) == 5
    assert [axes.get_position().x0 for axes in figure.axes[:2]] == [
        axes.get_position().x0 for axes in figure.axes[3:]
    ]


KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "one trial": {"lrs": (0.1,), "batch_sizes": (32,)},
    "one epoch": {"epochs": 1},
    "one trial and epoch": {"lrs": (0.1,), "batch_sizes": (32,), "epochs": 1},
    "one rate": {"lrs": (0.1,)},
    "some diverged": {"diverged": [1.0]},
    "all diverged": {"diverged": [0.01, 0.1, 1.0]},
    "all diverged at once": {"diverged": [0.01, 0.1, 1.0], "epochs": 1},
    "unfinished": {"untrained": [0.1], "failed": [1.0]},
    "nothing trained": {"untrained": [0.01, 0.1, 1.0]},
    "confirmed": {"confirmed": [0.1]},
    "no labels": {"with_validation": False},
}
FIGURES = sum(map(len, SECTIONS.values())) - 1  # of a study that is no race
WITHOUT_VALIDATION = ["confusion", "classes", "calibration"]


class Drawn(NamedTuple):
    """The figures of a study, and those that are left out."""

    charts: dict[str, Chart]
    omitted: list[Omission]


class Draw(Protocol):
    def __call__(self, kind: str) -> Drawn: ...


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Draw:
    """Draws the figures of a kind of study, once for all tests."""

    @cache
    def drawn(kind: str) -> Drawn:
        return drawn_of(make_record(tmp_path_factory.mktemp("drawn"), **KINDS[kind]))

    return drawn


def drawn_of(record: StudyRecord) -> Drawn:
    sections = draw_sections(record)
    charts = {chart.name: chart for section in sections for chart in section.charts}
    return Drawn(charts, [each for section in sections for each in section.omissions])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_study_has_figures_or_says_why_not(kind: str, draw: Draw) -> None:
    charts, omitted = draw(kind)
    assert list(charts)[:3] == ["comparison", "heatmap", "updates"]
    assert all(each.says.endswith(".") and each.picture.content for each in charts.values())
    assert all(omission.reason for omission in omitted)
    assert len(charts) + len(omitted) == FIGURES


@pytest.mark.slow
def test_a_study_of_two_hyperparameters_has_every_figure_but_those_of_three(draw: Draw) -> None:
    charts, omitted = draw("whole")
    assert len(charts) == FIGURES - 2
    assert {each.title for each in omitted} == {parallel.TITLE, importance.TITLE}
    assert {each.reason for each in omitted} == {"it takes 3 searched hyperparameters"}


@pytest.mark.slow
def test_only_what_needs_labels_is_missing_without_them(draw: Draw) -> None:
    without = draw("no labels").charts
    assert [name for name in draw("whole").charts if name not in without] == WITHOUT_VALIDATION


# --- other hyperparameters


def declare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare a linear, a category and a log hyperparameter beside the real ones."""
    batch = with_role("batch")
    linear = replace(
        batch, name="drop_share", label="share of dropped units", values=(0.0,), scale="linear",
        divides=False, role=None,
    )  # fmt: skip
    category = replace(
        linear, name="unit_kinds", label="kinds of units", values=("64",), scale="category",
        divides=True,
    )  # fmt: skip
    log = replace(linear, name="penalty", label="penalty of weights", scale="log")
    for declared in (linear, category, log):
        monkeypatch.setitem(HYPERPARAMETERS, declared.name, declared)


class Extend(Protocol):
    def __call__(
        self,
        record: StudyRecord,
        shares: tuple[float, ...] = (0.0,),
        kinds: tuple[str, ...] = ("64",),
        penalties: tuple[float, ...] = (0.0,),
    ) -> StudyRecord: ...


@pytest.fixture
def extend(monkeypatch: pytest.MonkeyPatch) -> Extend:
    """Declare made-up hyperparameters, and repeat each trial of a record for all their values.

    Later values are a little worse.
    """

    def extended(
        record: StudyRecord,
        shares: tuple[float, ...] = (0.0,),
        kinds: tuple[str, ...] = ("64",),
        penalties: tuple[float, ...] = (0.0,),
    ) -> StudyRecord:
        declare(monkeypatch)
        points = pd.DataFrame(
            product(shares, kinds, penalties), columns=["drop_share", "unit_kinds", "penalty"]
        ).reset_index(names="place")
        old = record.tables
        runs = repeat(old.runs, points)[old.runs.columns]
        runs["stack"] += runs["trial"]  # a stack of one each
        tables = Tables(repeat(old.trials, points), repeat(old.epochs, points), runs)
        return replace(record, tables=tables)

    return extended


def repeat(frame: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    rows = frame.merge(points, how="cross")
    for column in {"val_accuracy", "best_val_accuracy"} & set(frame.columns):
        rows[column] -= 0.01 * rows["place"]
    names = rows["trial"] + "-" + rows["place"].astype(str)
    return rows.assign(trial=names.where(rows["place"] > 0, rows["trial"])).drop(columns="place")


MANY_KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "unfinished": {
        "lrs": (0.01, 0.1, 1.0, 10.0), "untrained": [0.1], "diverged": [1.0], "failed": [10.0]
    },
    "nothing trained": KINDS["nothing trained"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", MANY_KINDS)
def test_a_study_of_any_hyperparameters_has_every_figure(
    kind: str, tmp_path: Path, extend: Extend
) -> None:
    one = make_record(tmp_path, **MANY_KINDS[kind])
    charts, omitted = drawn_of(extend(one, shares=(0.0, 0.5), kinds=("64", "128-64")))
    assert all(chart.says.endswith(".") and chart.picture.content for chart in charts.values())
    maps = [name for name in charts if name.startswith("heatmap")]
    assert len(maps) == MOST_PAIRS
    assert "A cell is the best over share of dropped units and kinds of units." in (
        charts["heatmap"].caption
    )
    assert len(charts) - len(maps) + len(omitted) == FIGURES - 1
    if kind == "whole":
        assert omitted == []
        panels = [axes.get_xlabel() for axes in charts["sweep"].figure.axes]
        assert panels[-2:] == ["share of dropped units", "kinds of units"]
        assert "coloured and labelled by batch size and kinds of units" in (
            charts["timeline"].caption
        )


def test_colour_and_dashes_are_the_first_two_hyperparameters_that_vary(
    tmp_path: Path, extend: Extend
) -> None:
    one = make_record(tmp_path, lrs=(0.1,), batch_sizes=(32,))
    record = extend(one, shares=(0.0, 0.5), kinds=("64", "128-64"), penalties=(0.0, 0.1))
    frame = summarise_curves(record.tables.trials, record.tables.epochs, None)
    encoding = Encoding.of(frame)
    assert (encoding.first.name, encoding.second.name) == ("drop_share", "unit_kinds")
    assert describe_encoding(frame) == (
        "Colour is the share of dropped units, dashes and marker are the kinds of units. "
        "Configurations that differ only in penalty of weights look alike."
    )
    (legend,) = draw_comparison(frame).legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["share of dropped\nunits", "0", "0.5", "kinds of units", "64", "128-64"]


def test_a_lone_hyperparameter_that_varies_is_shown_by_colour(
    tmp_path: Path, extend: Extend
) -> None:
    one = make_record(tmp_path, lrs=(0.1,), batch_sizes=(32,))
    trials = extend(one, kinds=("64", "128-64", "256-64")).tables.trials
    encoding = Encoding.of(trials)
    assert encoding.first.values == ("64", "128-64", "256-64")  # by the numbers in them
    assert describe_encoding(trials) == "Colour is the kinds of units."
    assert len({tuple(colour) for colour in encoding.colours(encoding.first.values)}) == 3


def test_a_cell_of_a_heat_map_is_the_best_over_the_other_hyperparameters(
    tmp_path: Path, extend: Extend
) -> None:
    record = extend(make_record(tmp_path), shares=(0.0, 0.5))
    trials = record.tables.trials
    both, one = (
        summarise_heatmap(table, None, ("lr", "batch_size"))
        for table in (trials, trials[trials["drop_share"] == 0])
    )
    pd.testing.assert_frame_equal(both, one)


def test_the_winners_cell_shows_the_winner(tmp_path: Path, extend: Extend) -> None:
    trials = extend(make_record(tmp_path), shares=(0.0, 0.5)).tables.trials
    second = str(trials.loc[trials["drop_share"] == 0.5, "trial"].iloc[-1])
    frame = summarise_heatmap(trials, second, ("lr", "batch_size"))
    assert frame.loc[frame["winner"], "drop_share"].tolist() == [0.5]


@pytest.mark.slow
def test_the_heat_maps_that_are_left_out_are_counted(tmp_path: Path, extend: Extend) -> None:
    record = extend(make_record(tmp_path), (0.0, 0.5), ("64", "128-64"), (0.0, 0.1))
    assert len(pairs(record.tables.trials)) == 10
    maps = make_heatmaps(FigureInputs(record, None))
    assert isinstance(maps, list)
    assert len(maps) == MOST_PAIRS
    assert maps[0].caption.endswith(
        "Heat maps of 6 more pairs of hyperparameters, whose cells differ less, are left out."
    )


def test_the_heat_maps_after_the_first_are_those_whose_cells_differ_most() -> None:
    trials = points(2000, lr=3, batch_size=3, dropout=3, momentum=3, weight_decay=3)
    trials["val_accuracy"] = 0.5 + 0.4 * trials["weight_decay"] + 0.2 * trials["momentum"]
    first, *others = choose_pairs(trials)
    assert first == pairs(trials)[0]
    assert len(others) == MOST_PAIRS - 1
    assert ("momentum", "weight_decay") in others
    assert all("weight_decay" in pair for pair in others)


def test_the_shares_of_any_hyperparameters_sum_to_one(tmp_path: Path, extend: Extend) -> None:
    trials = extend(make_record(tmp_path), shares=(0.0, 0.5)).tables.trials
    found = effects.summarise_shares(effects.summarise_effects(trials))
    assert found["term"].tolist() == ["lr", "batch_size", "drop_share", "interaction"]
    assert found["share"].sum() == pytest.approx(1)
    assert "and their interactions 0%." in effects.describe_shares(found)


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("drop_share", [0.0, 0.1, 0.9], "linear"),
        ("unit_kinds", ["64", "128-64"], "linear"),
        ("penalty", [0.001, 0.1], "log"),
        ("penalty", [0.0, 0.001, 0.1], "symlog"),  # zero has no logarithm
        ("penalty", [0.1, 0.2], "linear"),
    ],
)
def test_the_scale_of_an_axis_is_the_declared_one(
    name: str, values: list[Any], scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch)
    axes = new_figure(3, 3).add_subplot()
    ValueScale.of(name, values).set_axis(axes)
    assert axes.get_xscale() == scale
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == [f"{v:g}" if isinstance(v, float) else v for v in values]


@pytest.mark.parametrize("scale", ["linear", "category", "log"])
def test_many_values_of_any_scale_get_a_colour_bar(
    scale: str, tmp_path: Path, extend: Extend
) -> None:
    many = tuple(round(0.01 * n, 2) for n in range(20))
    values = {
        "linear": {"shares": many},
        "category": {"kinds": tuple(f"{n}-64" for n in range(20))},
        "log": {"penalties": many},
    }
    one = make_record(tmp_path, lrs=(0.1,), batch_sizes=(32,))
    record = extend(one, **values[scale])  # type: ignore[arg-type]
    frame = summarise_curves(record.tables.trials, record.tables.epochs, None)
    encoding = Encoding.of(frame)
    assert len({tuple(colour) for colour in encoding.colours(encoding.first.values)}) == 20
    *_, bar = draw_comparison(frame).axes
    assert bar.get_title("left") == encoding.first.label


def test_a_figure_without_a_winner_says_why(tmp_path: Path) -> None:
    trials = make_record(tmp_path, diverged=[0.01, 0.1, 1.0]).tables.trials
    said = describe_winner(trials.assign(winner=False), ["lr"])
    assert said == "no trial has completed, so there is no winner"

"""The conclusions of studies whose points were drawn from a space."""

import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.contour import QuadContourSet

from digitrec.cli.options import make_parser, make_request
from digitrec.request import Request
from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.rules.importance import judge_importance
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.figures.chart import FigureInputs
from digitrec.results.figures.configurations import many_valued, put_neighbours_together
from digitrec.results.figures.curves import MOST_LEADERS, describe_leaders
from digitrec.results.figures.effects import make_effects
from digitrec.results.figures.heatmap import make_heatmaps
from digitrec.results.figures.parallel import summarise_parallel
from digitrec.results.figures.points import (
    choose_pair,
    describe_points,
    draw_points,
    has_contour,
    local_mean,
    make_points,
)
from digitrec.results.figures.scales import ValueScale
from digitrec.results.figures.sweep import make_sweep
from digitrec.results.figures.updates import make_updates
from digitrec.results.report.sections import draw_sections
from digitrec.results.report.summary import summarise, winning_trial
from digitrec.space.hyperparameters import Configuration
from digitrec.space.points import Space
from digitrec.space.ranges import Range
from digitrec.store.record import StudyRecord
from tests.studies import VAL_ROWS, WIDE, make_drawn_record

Accuracy = Callable[[Configuration], float]


def hill(configuration: Configuration) -> float:
    """Best at a learning rate of 0.05, whatever the other values are."""
    return 0.95 - 0.1 * math.log10(configuration.lr / 0.05) ** 2


def rising(configuration: Configuration) -> float:
    return 0.7 + 0.05 * math.log10(configuration.lr)


def drawn(directory: Path, accuracy: Accuracy = hill, points: int = 60) -> StudyRecord:
    return make_drawn_record(directory, accuracy, Space(WIDE.values, points=points))


def inputs(record: StudyRecord) -> FigureInputs:
    return FigureInputs(record, winning_trial(record))


def found(record: StudyRecord) -> dict[str, Finding]:
    return {finding.rule: finding for finding in reach_verdict(record)}


def request_of(finding: Finding) -> Request:
    assert finding.command is not None
    return make_request(make_parser().parse_args(shlex.split(finding.command)[1:]))


def test_leaders_at_the_upper_end_of_a_range_ask_for_a_wider_one(tmp_path: Path) -> None:
    finding = found(drawn(tmp_path, rising))["edge of a range"]
    assert "lr 2.0, the upper end" in finding.sentence
    space = request_of(finding).space
    assert space.values["lr"] == (Range(1e-3, 10.0, "log"),)
    assert (space.points, space.search_seed) == (60, 0)
    others = [name for name in WIDE.values if name != "lr"]
    assert [space.values[name] for name in others] == [WIDE.values[name] for name in others]


def test_leaders_at_the_lower_end_of_a_range_ask_for_a_wider_one(tmp_path: Path) -> None:
    record = drawn(tmp_path, lambda configuration: 1.4 - rising(configuration))
    finding = found(record)["edge of a range"]
    assert "lr 0.001, the lower end" in finding.sentence
    assert request_of(finding).space.values["lr"] == (Range(0.0002, 2.0, "log"),)


def test_leaders_inside_a_range_are_on_no_edge(tmp_path: Path) -> None:
    assert "edge of a range" not in found(drawn(tmp_path))


def test_a_range_goes_on_only_to_accepted_values(tmp_path: Path) -> None:
    low = drawn(tmp_path, lambda each: 0.9 - 0.5 * each.dropout - 0.1 * each.momentum)
    assert "edge of a range" not in found(low)  # nothing lies below 0
    high = drawn(tmp_path, lambda each: 0.5 - 0.2 * math.log10(1 - each.momentum))
    assert request_of(found(high)["edge of a range"]).space.values["momentum"] == (
        Range(0.0, 0.99, "complement"),
    )


def test_a_range_beside_a_value_is_judged_by_the_leaders_within_it(tmp_path: Path) -> None:
    record = drawn(tmp_path, lambda each: 0.9 + 0.02 * math.log10(each.weight_decay or 1e-9))
    wider = request_of(found(record)["edge of a range"]).space.values["weight_decay"]
    assert wider == (0.0, Range(1e-6, 0.05, "log"))
    none = drawn(tmp_path, lambda each: 0.9 if each.weight_decay == 0 else 0.5)
    assert "edge of a range" not in found(none)


def test_too_few_points_have_no_leaders(tmp_path: Path) -> None:
    assert "edge of a range" not in found(drawn(tmp_path, rising, 9))


def test_a_list_of_a_drawn_space_keeps_the_rule_of_lists(tmp_path: Path) -> None:
    record = drawn(tmp_path, lambda each: hill(each) + 0.02 * (each.batch_size == 128))
    edge = found(record)["edge"]
    assert "batch size 128 is the highest value" in edge.sentence
    assert "trains most of them anew" in edge.sentence
    assert request_of(edge).space.values["batch_size"] == (32, 128, 256)
    assert request_of(edge).space.values["lr"] == WIDE.values["lr"]


def test_a_range_is_cut_where_everything_above_diverged(tmp_path: Path) -> None:
    record = drawn(tmp_path, lambda each: math.nan if each.lr > 0.1 else hill(each))
    space = request_of(found(record)["diverged"]).space
    (cut,) = space.values["lr"]
    highest = record.tables.trials.query("status == 'completed'")["lr"].max()
    assert cut == Range(1e-3, highest, "log")
    assert space.points == 60


def test_where_everything_diverged_a_range_below_is_searched(tmp_path: Path) -> None:
    space = request_of(found(drawn(tmp_path, lambda each: math.nan))["diverged"]).space
    (lower,) = space.values["lr"]
    assert lower.high < 1e-3
    assert space.points == 60


def test_a_drawn_study_that_learned_nothing_searches_its_range_further_down(tmp_path: Path) -> None:
    record = drawn(tmp_path, lambda each: 0.1)
    zeros = {name: np.zeros(VAL_ROWS, np.uint8) for name in record.predictions}
    space = request_of(found(replace(record, predictions=zeros))["chance"]).space
    assert space.values["lr"] == (Range(0.0002, 2.0, "log"),)


def test_every_command_of_a_drawn_study_asks_for_its_points(tmp_path: Path) -> None:
    for accuracy in (hill, rising):
        for finding in reach_verdict(drawn(tmp_path, accuracy)):
            if finding.command is not None:
                assert request_of(finding).space.points == 60


def test_the_report_says_what_was_drawn_from(tmp_path: Path) -> None:
    setup = dict(summarise(drawn(tmp_path), []).setup)
    assert setup["learning rate"] == "0.001 to 2.0"
    assert setup["weight decay"] == "0, 1e-06 to 0.01"
    assert setup["points"] == "60, quasi-random, search seed 0"


def test_drawn_points_have_no_heat_map_but_a_figure_of_the_points(tmp_path: Path) -> None:
    (chart,) = make_heatmaps(inputs(drawn(tmp_path)))
    assert chart.name == "heatmap"  # which is written as plots/heatmap.png
    assert chart.marks == 60
    assert "learning rate" in chart.title
    assert "The best 6 have learning rate 0.0" in chart.says


def test_the_points_are_shown_over_the_hyperparameters_that_matter_most(tmp_path: Path) -> None:
    def other(each: Configuration) -> float:
        return hill(each) - 0.3 * each.dropout

    assert choose_pair(drawn(tmp_path, other, 120).tables.trials) == ("lr", "dropout")
    assert choose_pair(make_grid().tables.trials) is None


def make_grid() -> StudyRecord:
    space = Space.of(lr=tuple(0.001 * 1.5**k for k in range(15)), batch_size=(32, 128))
    return make_drawn_record(Path("grid"), hill, space)


def test_points_over_two_numbers_stand_on_a_contour_of_their_local_mean(tmp_path: Path) -> None:
    frame = summarise_parallel(inputs(drawn(tmp_path)).evenly_trained, None)
    shaded = draw_points(frame, ("lr", "momentum")).axes[0]
    assert any(isinstance(each, QuadContourSet) for each in shaded.collections)
    plain = draw_points(frame, ("lr", "hidden_sizes")).axes[0]
    assert not any(isinstance(each, QuadContourSet) for each in plain.collections)
    assert not has_contour(frame.head(10), ("lr", "momentum"))


def test_a_local_mean_follows_its_points_and_is_missing_far_from_them() -> None:
    points = np.random.default_rng(0).random((400, 2)) / 2
    values = 0.8 + 0.1 * points[:, 0]
    places = np.array([[0.1, 0.25], [0.4, 0.25], [0.95, 0.95]])
    left, right, far = local_mean(points, values, places)
    assert left == pytest.approx(0.81, abs=0.003)
    assert right == pytest.approx(0.84, abs=0.003)
    assert math.isnan(far)


def test_a_grid_of_many_values_keeps_its_heat_map() -> None:
    record = make_grid()
    assert many_valued(record.tables.trials) == []
    assert [chart.title for chart in make_heatmaps(inputs(record))] == ["Accuracy over the grid"]
    assert inputs(record).curves["leads"].all()


def test_no_points_of_a_drawn_study_are_left_out_of_its_figure(tmp_path: Path) -> None:
    record = drawn(tmp_path, lambda each: math.nan if each.lr > 0.5 else hill(each))
    axes, _ = make_points(inputs(record), ("lr", "momentum")).figure.axes
    marks = {
        each.get_label(): len(np.asarray(each.get_offsets()))
        for each in axes.collections
        if isinstance(each, PathCollection)
    }
    statuses = record.tables.trials["status"].value_counts()
    assert marks == {**statuses.to_dict(), "winner": 1}


def test_a_drawn_study_without_a_result_has_its_figures_all_the_same(tmp_path: Path) -> None:
    record = drawn(tmp_path, lambda each: math.nan)
    names = [chart.name for section in draw_sections(record) for chart in section.charts]
    assert {"comparison", "heatmap", "updates"} <= {*names}
    assert describe_points(pd.DataFrame({"accuracy": [math.nan]}), ("lr", "momentum")) == (
        "None of 1 configuration has a trial that completed."
    )


def test_the_best_of_many_points_are_in_colour_and_the_others_grey(tmp_path: Path) -> None:
    record = drawn(tmp_path, hill, 100)
    curves = inputs(record).curves
    rows = curves[curves["metric"] == "val_accuracy"].drop_duplicates("lr")
    last = record.tables.trials.set_index("lr")["val_accuracy"]
    assert set(rows.loc[rows["leads"], "lr"]) == set(last.nlargest(MOST_LEADERS).index)
    assert describe_leaders(curves) == (
        "The best 10 configurations are in colour, all others in grey."
    )
    assert describe_leaders(inputs(drawn(tmp_path, hill, 40)).curves) == ""


def test_after_one_epoch_the_others_are_grey_dots(tmp_path: Path) -> None:
    space = Space(WIDE.values, points=100)
    chart = make_updates(inputs(make_drawn_record(tmp_path, hill, space, epochs=1)))
    marks = chart.figure.axes[0].collections
    (dots,) = [each for each in marks if each.get_label() == "single points"]
    assert len(dots.get_offsets()) == 100 - MOST_LEADERS  # type: ignore[arg-type]


def test_slices_join_the_highest_points_of_lists_alone(tmp_path: Path) -> None:
    chart = make_sweep(inputs(drawn(tmp_path)))
    joined = [
        axes.get_xlabel()
        for axes in chart.figure.axes  # type: ignore[union-attr]
        if any(line.get_label() == "highest" for line in axes.lines)
    ]
    assert joined == ["batch size (log scale)"]


def test_effects_take_neighbouring_values_together(tmp_path: Path) -> None:
    trials = drawn(tmp_path, hill, 100).tables.trials
    together = put_neighbours_together(trials)
    assert together["lr"].nunique() == 8
    assert set(together["batch_size"]) == set(trials["batch_size"])
    assert (together["lr"].rank(method="dense").groupby(trials["lr"].rank()).size() == 1).all()
    chart = make_effects(inputs(drawn(tmp_path, hill, 100)))
    assert "neighbours are taken together" in chart.caption  # type: ignore[union-attr]


def test_many_momenta_stand_on_the_scale_on_which_they_are_drawn() -> None:
    few, many = (ValueScale.of("momentum", np.linspace(0, 0.98, n)) for n in (5, 60))
    assert (few.kind, many.kind) == ("linear", "complement")
    assert many.norm()(0.8586) == pytest.approx(0.5, abs=0.001)


@pytest.mark.slow
def test_every_figure_of_many_points_is_drawn(tmp_path: Path) -> None:
    record = drawn(tmp_path, hill, 243)
    charts = {chart.name: chart for section in draw_sections(record) for chart in section.charts}
    assert {"comparison", "heatmap", "updates", "sweep", "parallel", "importance"} <= {*charts}
    assert not any(name.startswith("heatmap-") for name in charts)
    for chart in charts.values():
        assert chart.picture.content


@pytest.mark.slow
def test_a_hyperparameter_without_effect_is_rarely_said_to_have_mattered(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    studies, named = 100, 0
    for _ in range(studies):
        record = drawn(tmp_path, lambda _: 0.8 + 0.1 * random.random(), points=30)
        finding = judge_importance(Evidence(record))
        assert finding is not None
        named += "no hyperparameter alone" not in finding.sentence
    assert named / studies <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)

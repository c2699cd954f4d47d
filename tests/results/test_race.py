"""What figures, report and verdict show of a race, whose results are artificial."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.analysis.rules.race import judge_audit, judge_race, say_gain
from digitrec.results.analysis.rules.winner import judge_winner
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.figures.best_of_n import make_best_of_n
from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.comparison import make_comparison
from digitrec.results.figures.effects import make_effects, summarise_effects
from digitrec.results.figures.heatmap import make_heatmaps
from digitrec.results.figures.importance import make_importance
from digitrec.results.figures.parallel import make_parallel, summarise_parallel
from digitrec.results.figures.race import make_race, summarise_race
from digitrec.results.figures.sweep import make_sweep, summarise_sweep
from digitrec.results.figures.timeline import make_timeline
from digitrec.results.figures.updates import make_updates
from digitrec.results.report.markdown import make_markdown
from digitrec.results.report.sections import Section, write_plots
from digitrec.results.report.summary import summarise, winning_trial
from digitrec.space.hyperparameters import Configuration
from digitrec.space.race import Cut, Race
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord
from tests.studies import RACED, WIDE, make_raced_record, make_record

STARTED, WENT_ON, LEFT, AUDITED = 24, 8, 3, 4
ENDED = LEFT + AUDITED
DROPPED = STARTED - ENDED


def steady(configuration: Configuration, epoch: int) -> float:
    """The higher the rate and the smaller the batch, the better, in every epoch."""
    best = 0.9 + 0.15 * math.log10(configuration.lr) + 0.1 * configuration.momentum
    return best - 0.001 * configuration.batch_size - 0.2 / epoch


def crossing(configuration: Configuration, epoch: int) -> float:
    """The best after the first epoch are the worst after the last."""
    early = steady(configuration, 1)
    return early if epoch == 1 else 0.98 - 0.5 * early


def unstable(configuration: Configuration, epoch: int) -> float:
    """The highest rate diverges in the second epoch, the lowest at once."""
    if configuration.lr == 0.001 or (configuration.lr == 0.3 and epoch > 1):
        return math.nan
    return steady(configuration, epoch)


def inputs(record: StudyRecord) -> FigureInputs:
    return FigureInputs(record, winning_trial(record))


def found(record: StudyRecord) -> dict[str, Finding]:
    return {finding.rule: finding for finding in reach_verdict(record)}


def fates(record: StudyRecord) -> dict[Any, int]:
    race = record.spec.raced
    assert race is not None
    frame = summarise_race(record.tables.trials, record.tables.epochs, race)
    return frame.drop_duplicates("trial")["fate"].value_counts().to_dict()


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    return make_raced_record(tmp_path_factory.mktemp("raced"), steady)


def the_race(record: StudyRecord) -> Chart:
    (chart,) = make_race(inputs(record))  # type: ignore[misc]
    return chart


def test_each_trial_of_a_race_is_a_line_that_ends_at_its_rung(record: StudyRecord) -> None:
    race = record.spec.raced
    assert race is not None
    frame = summarise_race(record.tables.trials, record.tables.epochs, race)
    ends = frame.groupby(["fate", "trial"])["epoch"].max()
    assert ends["racing"].unique().tolist() == [9]
    assert ends["audited"].unique().tolist() == [9]
    assert set(ends["dropped"]) == {1, 3}
    assert fates(record) == {"racing": LEFT, "audited": AUDITED, "dropped": DROPPED}
    axes = the_race(record).figure.axes[0]
    drawn = {
        each.get_label(): len(each.get_segments())
        for each in axes.collections
        if isinstance(each, LineCollection)
    }
    assert drawn == {"racing": LEFT, "in the audit": AUDITED, "dropped": DROPPED}


def test_the_rungs_say_how_many_went_on(record: StudyRecord) -> None:
    chart = the_race(record)
    texts = [text.get_text() for text in chart.figure.axes[0].texts]
    assert texts == ["winner\n81.73%", "8 of 24\nwent on", "3 of 8\nwent on", "3 finalists"]
    assert chart.figure.axes[0].get_xscale() == "log"
    assert chart.says.startswith("24 trials started. After epoch 1, 8 of 24 went on.")


def test_a_race_that_is_not_decided_shows_who_is_still_racing(tmp_path: Path) -> None:
    undecided = make_raced_record(tmp_path, steady, cuts=0)
    assert fates(undecided) == {"racing": STARTED}
    texts = [text.get_text() for text in the_race(undecided).figure.axes[0].texts]
    assert texts == ["24 racing", "", ""]
    halfway = make_raced_record(tmp_path, steady, cuts=1)
    assert "Those still racing have reached" in the_race(halfway).says


def test_diverged_trials_of_a_race_have_crosses(tmp_path: Path) -> None:
    record = make_raced_record(tmp_path, unstable)
    chart = the_race(record)
    marks = chart.figure.axes[0].collections
    (crosses,) = [each for each in marks if each.get_label() == "diverged"]
    diverged = int((record.tables.trials["status"] == "diverged").sum())
    assert diverged
    assert len(crosses.get_offsets()) == diverged  # type: ignore[arg-type]
    assert f"{diverged} diverged." in chart.says
    (legend,) = chart.figure.legends
    counts = [int(text.get_text().split()[0]) for text in legend.get_texts()[1:]]
    assert sum(counts) == len(record.tables.trials)


def test_the_first_rung_says_which_hyperparameters_mattered(record: StudyRecord) -> None:
    finding = found(record)["importance"]
    assert finding.sentence == (
        "After epoch 1, the first rung, the learning rate alone accounts for 84% of the variance "
        "of the ranks of 24 configurations. Batch size and momentum show no effect of their own."
    )
    assert "batch size" in finding.evidence


def test_where_nothing_mattered_no_hyperparameter_is_named(tmp_path: Path) -> None:
    def by_place(configuration: Configuration, epoch: int) -> float:
        return 0.5 + 0.01 * (crc32(repr(configuration).encode()) % 37) / epoch

    sentence = found(make_raced_record(tmp_path, by_place))["importance"].sentence
    assert sentence == (
        "After epoch 1, the first rung, no hyperparameter alone accounts for the order of "
        "24 configurations."
    )


def test_several_seeds_of_a_configuration_count_once(tmp_path: Path) -> None:
    def by_place(configuration: Configuration, epoch: int) -> float:
        return 0.5 + 0.01 * (crc32(repr(configuration).encode()) % 37) / epoch

    space = replace(RACED, seeds=(0, 1, 2, 3))
    evidence = [
        found(make_raced_record(tmp_path, by_place, space=each))["importance"].evidence
        for each in (RACED, space)
    ]
    assert evidence[0] == evidence[1]


def test_diverged_trials_come_last_in_the_order(tmp_path: Path) -> None:
    def by_momentum(configuration: Configuration, epoch: int) -> float:
        return math.nan if configuration.momentum else 0.5 + configuration.lr / 10

    sentence = found(make_raced_record(tmp_path, by_momentum))["importance"].sentence
    assert "the momentum alone accounts for 85% of" in sentence


def test_an_edge_is_judged_by_the_trials_that_a_race_kept_longest(tmp_path: Path) -> None:
    def rising(configuration: Configuration, epoch: int) -> float:
        return 0.7 + 0.05 * math.log10(configuration.lr) - 0.2 / epoch

    record = make_raced_record(tmp_path, rising, space=WIDE)
    sentence = found(record)["edge of a range"].sentence
    assert sentence.startswith("Most of the best 6 trials of the race lie at the end of a range")
    assert "lr 2.0, the upper end" in sentence


def test_the_first_rung_decides_nothing_about_edges(tmp_path: Path) -> None:
    """What is best at first lies at the upper end, what the race keeps to its end does not."""

    def late(configuration: Configuration, epoch: int) -> float:
        if epoch == 1:
            return 0.6 + 0.05 * math.log10(configuration.lr)
        return 0.95 - 0.1 * math.log10(configuration.lr / 0.3) ** 2

    record = make_raced_record(tmp_path, late, space=WIDE)
    assert "edge of a range" not in found(record)


def test_a_study_without_a_race_has_no_figure_of_one(tmp_path: Path, record: StudyRecord) -> None:
    assert make_race(inputs(make_record(tmp_path))) == []
    plots = Folder.at(tmp_path / "plots")
    kind = {"name": "reached", "title": "", "note": "", "omissions": []}
    write_plots([Section(charts=[the_race(record)], **kind)], plots)  # type: ignore[arg-type]
    assert plots.names(".png") == ["race.png"]
    write_plots([], plots)
    assert plots.names(".png") == []


def test_curves_leave_dropped_trials_out_and_say_so(record: StudyRecord) -> None:
    curves = inputs(record).curves
    drawn = curves.dropna(subset="epoch")
    assert not drawn["dropped"].any()
    assert drawn["leads"].all()
    assert len(drawn.drop_duplicates(["lr", "batch_size", "momentum"])) == ENDED
    for chart in (make_comparison(inputs(record)), make_updates(inputs(record))):
        assert f"{DROPPED} configurations that the race dropped are not drawn." in chart.caption
        (legend,) = chart.figure.legends
        assert legend.get_texts()[-1].get_text() == f"{DROPPED} dropped:\nnot drawn"
    assert f"Trials: {ENDED} completed." in make_comparison(inputs(record)).says


def test_what_compares_all_trials_of_a_race_does_so_at_the_first_rung(record: StudyRecord) -> None:
    epochs = record.tables.epochs
    first = epochs[epochs["epoch"] == 1].set_index("trial")["val_accuracy"]
    even = inputs(record).evenly_trained
    assert even["val_accuracy"].tolist() == first[even["trial"]].tolist()
    assert set(even["status"]) == {"completed"}
    assert summarise_effects(even)["accuracy"].notna().sum() == STARTED
    effects, importance = make_effects(inputs(record)), make_importance(inputs(record))
    maps = make_heatmaps(inputs(record))
    for chart in (effects, importance, *maps):
        assert isinstance(chart, Chart)
        assert "Accuracies are those after epoch 1, the first rung of the race" in chart.caption
    assert "Highest of 12 cells" in maps[0].says


def test_trials_that_diverge_after_the_first_rung_count_there(tmp_path: Path) -> None:
    even = inputs(make_raced_record(tmp_path, unstable)).evenly_trained.set_index("lr")["status"]
    assert set(even[0.3]) == {"completed"}
    assert set(even[0.001]) == {"diverged"}


def test_slices_and_parallel_coordinates_draw_dropped_trials_grey(record: StudyRecord) -> None:
    trials = record.tables.trials
    assert summarise_sweep(trials, None)["dropped"].sum() == DROPPED
    frame = summarise_parallel(trials, None)
    assert frame["dropped"].sum() == DROPPED
    assert (frame["accuracy"].isna() == frame["dropped"]).all()
    assert frame["left"].notna().sum() == DROPPED
    for chart in (make_sweep(inputs(record)), make_parallel(inputs(record))):
        assert isinstance(chart, Chart)
        assert f"{DROPPED} were dropped before the last rung" in chart.says
        assert "that the race dropped" in chart.caption
        labels = {each.get_label() for axes in chart.figure.axes for each in axes.collections}
        assert "dropped" in labels


def test_the_best_of_n_is_left_out_of_a_race(record: StudyRecord) -> None:
    assert isinstance(make_best_of_n(inputs(record)), Omission)


def test_the_timeline_of_a_race_has_the_stacks_of_every_rung(record: StudyRecord) -> None:
    chart = make_timeline(inputs(record))
    assert isinstance(chart, Chart)
    assert f"trained {STARTED + WENT_ON + AUDITED + ENDED} stacks" in chart.says


def test_the_report_says_how_far_the_trials_of_a_race_came(record: StudyRecord) -> None:
    summary = summarise(record, [])
    assert summary.state == "24 of 24 trials trained (17 dropped early)."
    assert ("trained to the end", "7") in summary.facts
    assert ("epochs", "up to 9") in summary.facts
    setup = dict(summary.setup)
    assert setup["race"] == (
        "up to 9 epochs; after 1 and 3, the best one in 3 goes on; 4 dropped trials trained to the "
        "end as an audit"
    )
    assert setup["momentum"] == "0, 0.5"
    names = [column.name for column in summary.columns]
    epochs = [int(row[names.index("epochs")]) for row in summary.rows]
    assert epochs == sorted(epochs, reverse=True)
    statuses = [row[names.index("status")] for row in summary.rows]
    assert statuses == ["completed"] * ENDED + ["dropped"] * DROPPED
    short = make_markdown(summary)
    assert "status" in short
    assert "epochs" in short


def verdict(record: StudyRecord) -> tuple[Finding, Finding]:
    race, audit = (rule(Evidence(record)) for rule in (judge_race, judge_audit))
    assert race is not None
    assert audit is not None
    return race, audit


def test_the_verdict_says_who_went_on_and_what_the_last_rung_brought(record: StudyRecord) -> None:
    race, audit = verdict(record)
    assert race.sentence == (
        "Of 24 trials, 8 went on after epoch 1 and 3 after epoch 3. From there to epoch 9, their "
        "accuracy rose by 4.44 percentage points on average, and the order of the best 3 stayed "
        "the same."
    )
    assert race.evidence == (
        "rank correlation (Spearman) of the trials that went on: 1.00 between epochs 1 and 3, "
        "1.00 between epochs 3 and 9"
    )
    assert audit.level == "good"
    assert "fewer than 53% of the dropped trials would have beaten the winner" in audit.sentence


@pytest.mark.parametrize(("epochs", "rungs"), [(18, "1,3,9,18"), (9, "1,3,9"), (2, "1,2")])
def test_other_epochs_after_a_race_keep_the_rungs_before(
    epochs: int, rungs: str, record: StudyRecord
) -> None:
    command = tune_command(record, {"epochs": epochs})
    assert f"--race --rungs {rungs} --out" in command
    assert "--epochs" not in command


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ([0.9, 0.8, 0.7], [0.92, 0.91, 0.9], "rose by 11.00 percentage points on average, and the"),
        ([0.9, 0.8, 0.7], [0.92, 0.91, 0.9], "order of the best 3 stayed the same."),
        ([0.9, 0.8, 0.7], [0.91, 0.9, 0.92], "best 3 changed: they have another leader."),
        ([0.9, 0.8, 0.7], [0.92, 0.7, 0.8], "best 3 changed: their leader stayed ahead."),
        ([0.9, 0.8], [0.85, 0.75], "fell by 5.00 percentage points on average, and the order of"),
        ([0.9, 0.8], [0.95, math.nan], "rose by 5.00 percentage points on average."),
        ([0.9], [0.95], "rose by 5.00 percentage points on average."),
    ],
)
def test_the_worth_of_the_last_rung_is_a_gain_and_a_change_of_order(
    first: list[float], last: list[float], said: str
) -> None:
    names = [f"trial{k}" for k in range(len(first))]
    rows = [
        {"trial": name, "epoch": epoch, "val_accuracy": accuracy}
        for epoch, accuracies in ((1, first), (3, last))
        for name, accuracy in zip(names, accuracies, strict=True)
    ]
    race = Race((1, 3), cuts=(Cut("", tuple(names)),))
    assert said in say_gain(pd.DataFrame(rows), race)


def test_a_dropped_trial_that_wins_is_a_caution(tmp_path: Path) -> None:
    race, audit = verdict(make_raced_record(tmp_path, crossing))
    assert race.level == "caution"
    assert "says little about how they rank after epoch 3" in race.sentence
    assert audit.level == "caution"
    assert audit.sentence.startswith(
        "The best of 4 dropped trials that the audit trained to the end is the winner. So the race "
        "dropped it too early"
    )
    assert "(--halve 2)" in audit.sentence
    one = verdict(make_raced_record(tmp_path, crossing, race=Race((1, 3, 9), halve=2, audit=1)))[1]
    assert one.sentence.startswith("The dropped trial that the audit trained to the end")
    assert "--halve" not in one.sentence


def test_a_dropped_trial_as_good_as_the_winner_is_not_called_better(tmp_path: Path) -> None:
    record = make_raced_record(tmp_path, lambda *each: 0.8 + 0.001 * steady(*each))
    _, audit = verdict(record)
    assert audit.level == "note"
    assert " and cannot be told apart from the winner. So the race may have " in audit.sentence


def test_of_many_configurations_with_long_names_two_are_named(tmp_path: Path) -> None:
    finding = judge_winner(Evidence(make_raced_record(tmp_path, lambda *_: 0.8)))
    names = finding.sentence.split("are named): ")[1].split(". All of this")[0].split("; ")
    assert len(names) == 3
    assert names[-1].startswith("and ")
    assert "the nearest is lr 0.001, batch size" not in finding.evidence

"""What a study says of its finalists after their cooldown."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.ranking import choose_members, find_finalists, rank
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.figures import importance, parallel
from digitrec.results.figures.chart import FigureInputs
from digitrec.results.figures.heatmap import summarise_heatmap
from digitrec.results.report.sections import draw_sections
from digitrec.results.report.summary import summarise, winning_trial
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.records import EpochRecord
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord
from digitrec.store.stacks import StackResult
from digitrec.store.tables import make_tables
from tests.studies import LABELS, VAL_ROWS, make_result, make_spec

EPOCHS, COOLDOWN = 3, 2
Key = tuple[float, int]  # learning rate and seed
SEARCH = {(0.01, 0): 0.70, (0.1, 0): 0.85, (0.5, 0): 0.88, (1.0, 0): 0.80}
FRESH = {(0.1, 1): 0.84, (0.1, 2): 0.86, (0.5, 1): 0.87, (0.5, 2): 0.89}
NAN = float("nan")


def trial(key: Key, cooldown: int = 0) -> Trial:
    return Trial(Configuration(lr=key[0], batch_size=32), key[1], cooldown)


def study(
    cooled: Mapping[Key, float],
    *,
    fresh: Mapping[Key, float] | None = None,
    best: dict[str, Any] | None = None,
) -> StudyRecord:
    """A study of SEARCH whose trials end with these accuracies; NaN: the trial diverged."""
    again = fresh or {}
    ends = {trial(key): accuracy for key, accuracy in (SEARCH | dict(again)).items()}
    ends |= {trial(key, COOLDOWN): accuracy for key, accuracy in cooled.items()}
    spec = make_spec(
        space={"lr": [0.01, 0.1, 0.5, 1.0], "batch_size": [32], "seed": [0]},
        epochs=EPOCHS,
        confirmed=[trial(key).values() for key in again],
        cooldown=COOLDOWN,
        cooled=[trial(key, COOLDOWN).values() for key in cooled],
    )
    results = [result(each, accuracy, place) for place, (each, accuracy) in enumerate(ends.items())]
    return StudyRecord(
        directory=Folder.at("results/made"),
        spec=spec,
        results=results,
        tables=make_tables(spec.trials(), EPOCHS, results, {}),
        failures={},
        predictions={each.stack.members[0].name: each.predictions[0] for each in results},
        labels=LABELS,
        best=best,
        validation=None,
        timings={},
        damaged=[],
    )


def result(trial: Trial, accuracy: float, place: int) -> StackResult:
    """The result of a trial that recognises this share of the images after each epoch."""
    epochs = [
        [EpochRecord(epoch, 13 * epoch, 1 - accuracy, accuracy, 1 - accuracy, accuracy, 0.5)]
        for epoch in range(1, EPOCHS + trial.cooldown + 1)
    ]
    right = np.arange(VAL_ROWS) < (0 if np.isnan(accuracy) else round(accuracy * VAL_ROWS))
    predictions = np.where(right, LABELS, (LABELS + 1) % 10).astype(np.uint8)[np.newaxis]
    return replace(make_result([trial], epochs, place), predictions=predictions)


def found(record: StudyRecord) -> dict[str, Finding]:
    return {finding.rule: finding for finding in reach_verdict(record)}


def test_the_finalists_are_the_winners_trials_or_those_that_confirm_the_leaders() -> None:
    assert find_finalists(study({}).tables.trials, []) == {"lr0.5-bs32-seed0"}
    record = study({}, fresh=FRESH)
    confirmed = record.spec.confirmed_trials
    assert find_finalists(record.tables.trials, confirmed) == set(confirmed)
    diverged = study({}, fresh=FRESH | {(0.5, 1): NAN})
    names = {"lr0.1-bs32-seed1", "lr0.1-bs32-seed2"}
    assert find_finalists(diverged.tables.trials, confirmed) == names
    nothing = study({}, fresh=dict.fromkeys(FRESH, NAN))
    assert find_finalists(nothing.tables.trials, confirmed) == {"lr0.5-bs32-seed0"}
    assert find_finalists(nothing.tables.trials.head(0), []) == set()


def test_more_finalists_are_the_next_best_configurations_with_all_their_seeds() -> None:
    trials = study({}).tables.trials
    best = [f"lr{lr}-bs32-seed0" for lr in (0.5, 0.1, 1.0, 0.01)]
    for number in range(1, 5):
        assert find_finalists(trials, [], number) == set(best[:number])
    assert find_finalists(trials, [], 9) == set(best)
    record = study({}, fresh=FRESH)
    confirmed = record.spec.confirmed_trials
    assert find_finalists(record.tables.trials, confirmed, 9) == set(confirmed)
    seeds = pd.concat([trials, trials.assign(trial=trials["trial"] + "x", seed=1)])
    assert find_finalists(seeds, [], 3) == {name + seed for name in best[:2] for seed in ("", "x")}


def test_the_members_of_an_average_are_finalists() -> None:
    cooled = {(0.1, 1): 0.94, (0.1, 2): 0.96, (0.5, 1): 0.91, (0.5, 2): NAN}
    for record, finalists in (
        (study({}), None),
        (study({}, fresh=FRESH), set(study({}, fresh=FRESH).spec.confirmed_trials)),
        (study(cooled, fresh=FRESH), set(study(cooled, fresh=FRESH).spec.cooled_trials)),
    ):
        spec = record.spec
        rounds = spec.confirmed_trials, spec.cooled_trials
        ranked = rank(record.tables.trials, *rounds)
        members = choose_members(ranked, *rounds, 9)
        assert members[0] == ranked["trial"].iloc[0]
        expected = ranked["trial"].tolist()
        assert members == [name for name in expected if finalists is None or name in finalists]
        assert choose_members(ranked, *rounds, 2) == members[:2]


def test_a_cooled_trial_comes_before_all_others_however_good_they_are() -> None:
    record = study({(0.5, 0): 0.86})
    ranked = rank(record.tables.trials, (), record.spec.cooled_trials)
    names = ["lr0.5-bs32-seed0-cooldown2", "lr0.5-bs32-seed0", "lr0.1-bs32-seed0"]
    assert ranked["trial"].to_list()[:3] == names
    assert len(ranked) == len(record.tables.trials)


def test_where_every_cooldown_diverged_the_winner_is_that_of_the_search() -> None:
    record = study({(0.5, 0): NAN})
    assert winning_trial(record) == "lr0.5-bs32-seed0"
    findings = found(record)
    said = "The only trial that cooled down diverged, so the winner is chosen without it."
    assert findings["cooldown"].sentence == said
    assert "it recognises 88.00% of the 100" in findings["winner"].sentence


def test_one_finalist_is_compared_with_the_others_by_what_it_was_before() -> None:
    findings = found(study({(0.5, 0): 0.95}))
    said = findings["winner"].sentence
    assert "The winner is lr 0.5, batch size 32: after its cooldown it recognises 95.00%" in said
    assert "The others are compared with what it was before." in said
    plain = found(study({}))["winner"].sentence
    assert said.split("before. ")[1] == plain.split("). ", 1)[1]
    assert findings["cooldown"].level == "good"
    assert findings["cooldown"].sentence == (
        "A cooldown of 2 epochs raised the accuracy of lr 0.5, batch size 32 from 88.00% to 95.00%."
    )


def test_a_cooldown_that_gained_nothing_is_said_to() -> None:
    cooldown = found(study({(0.5, 0): 0.88}))["cooldown"]
    assert cooldown.level == "note"
    assert "did not raise the accuracy of lr 0.5, batch size 32 from 88.00% to 88.00%" in (
        cooldown.sentence
    )


def test_the_winner_is_the_best_mean_of_the_cooled_finalists() -> None:
    cooled = {(0.1, 1): 0.94, (0.1, 2): 0.96, (0.5, 1): 0.91, (0.5, 2): 0.91}
    record = study(cooled, fresh=FRESH)
    assert winning_trial(record) == "lr0.1-bs32-seed2-cooldown2"
    findings = found(record)
    said = findings["winner"].sentence
    assert "lr 0.1, batch size 32: after its cooldown it recognises 95.00%" in said
    assert "mean of 2 fresh seeds" in said
    assert "Not compared: 2 configurations without fresh seeds." in said
    assert findings["cooldown"].sentence == (
        "A cooldown of 2 epochs raised the accuracy of the 2 finalists by 6.50 percentage points "
        "on average: lr 0.1, batch size 32 from 85.00% to 95.00%; lr 0.5, batch size 32 from "
        "88.00% to 91.00%. Before it, lr 0.5, batch size 32 was ahead."
    )
    assert "lr0.1-bs32-seed1 84.00%, 94.00%; lr0.1-bs32-seed2 86.00%, 96.00%; " in (
        findings["cooldown"].evidence
    )


def test_the_search_is_judged_by_what_it_was_before_the_cooldown() -> None:
    before, after = found(study({})), found(study({(0.5, 0): 0.99}))
    assert after.keys() - before.keys() == {"cooldown"}
    for rule in after.keys() - {"cooldown", "winner", "optimism"}:
        assert after[rule].sentence == before[rule].sentence
        assert after[rule].evidence == before[rule].evidence


@pytest.mark.parametrize("fresh", [None, FRESH])
def test_the_figures_of_the_search_are_those_without_a_cooldown(
    fresh: Mapping[Key, float] | None,
) -> None:
    keys = [(0.5, 0)] if fresh is None else list(FRESH)
    records = [study(cooled, fresh=fresh) for cooled in ({}, dict.fromkeys(keys, 0.95))]
    inputs = [FigureInputs(record, winning_trial(record)) for record in records]
    grids = [summarise_heatmap(each.trials, each.marked) for each in inputs]
    without = ["winner"] if fresh else []  # all cooled alike, the first of them wins
    before, after = (grid.drop(columns=without) for grid in grids)
    pd.testing.assert_frame_equal(before, after)
    curves = [each.curves for each in inputs]
    assert curves[0]["epoch"].max() == EPOCHS
    longer = curves[1][curves[1]["epoch"] > EPOCHS]
    assert set(longer["lr"]) == {key[0] for key in keys}
    assert set(longer["mean"]) == {0.95, 1 - 0.95}
    assert (longer["cooldown"] == COOLDOWN).all()


@pytest.mark.slow
def test_every_figure_and_the_summary_can_be_made_of_a_cooled_study() -> None:
    record = study(dict.fromkeys(FRESH, 0.95), fresh=FRESH)
    omitted = [each for section in draw_sections(record)[:2] for each in section.omissions]
    assert {each.title for each in omitted} == {parallel.TITLE, importance.TITLE}
    summary = summarise(record, reach_verdict(record))
    headings = [column.heading for column in summary.columns]
    place = headings.index("cooldown, epochs")
    assert [row[place] for row in summary.rows[:5]] == ["2", "2", "2", "2", "0"]
    assert ("cooldown", "2 epochs, 4 trials of the finalists") in summary.setup
    assert "after their cooldown" in summary.ranking
    assert dict(summary.facts)["validation accuracy"] == "95.00%"
    assert dict(summary.facts)["trials trained"] == "12 of 12"


def test_a_test_is_that_of_the_cooled_winner() -> None:
    test = {"source": "t.csv", "rows": 1000, "accuracy": 0.94, "loss": 0.2}
    best = {"trial": "lr0.5-bs32-seed0-cooldown2", "test": test}
    judged = found(study({(0.5, 0): 0.95}, best=best))["test"]
    assert "validation: 95.00%" in judged.evidence


def test_the_interval_is_that_of_the_cooled_winner() -> None:
    evidence = Evidence(study({(0.5, 0): 0.95}))
    assert evidence.interval.low < 0.95 < evidence.interval.high
    assert evidence.compared[0].accuracy == 0.88
    assert evidence.winner.accuracy == 0.95

"""Every rule of the verdict, on made studies where the right answer is known."""

import math
import re
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from digitrec.cli import options as cli
from digitrec.request import Request
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.report.markdown import make_markdown
from digitrec.results.report.page import make_page
from digitrec.results.report.summary import summarise
from digitrec.space.hyperparameters import (
    HYPERPARAMETERS,
    Configuration,
    Trial,
    with_role,
)
from digitrec.space.points import Space
from digitrec.space.records import EpochRecord
from digitrec.space.stacks import Stack
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord
from digitrec.store.spec import StudySpec
from digitrec.store.stacks import Run, StackResult
from digitrec.store.tables import EPOCH_COLUMNS, RUN_COLUMNS, TRIAL_COLUMNS, Tables, make_tables
from tests.studies import DEFAULTS, to_the_end

IMAGES, TRAIN_ROWS = 2_000, 8_000
DIVERGED, FAILED, STOPPED = "diverged", "failed", "stopped"
Point = tuple[Any, ...]  # the hyperparameters but for DEFAULTS in their order, and the seed
Fate = Sequence[float] | str  # validation accuracy after each epoch, or what became of it


def study(
    fates: Mapping[Point, Fate],
    *,
    epochs: int = 3,
    confirmed: Sequence[Point] = (),
    **changes: Any,
) -> StudyRecord:
    """A study of the grid of all points, in which each met its fate.

    Which images a trial recognises is drawn anew for each, their number is exact. `changes` are
    columns by epoch, such as val_loss, for all trials.
    """
    trial_rows, epoch_rows, predictions = [], [], {}
    labels = np.arange(IMAGES, dtype=np.uint8) % 10
    names = names_of_points()
    for values, fate in fates.items():
        own = dict(zip(names, values, strict=True))
        trial = "-".join(
            f"{HYPERPARAMETERS[name].short if name in HYPERPARAMETERS else name}{value}"
            for name, value in own.items()
        )
        point = DEFAULTS | own
        rows = [] if isinstance(fate, str) else _epochs(trial, point, fate, changes)
        epoch_rows += rows
        last = rows[-1] if rows else dict.fromkeys(["val_accuracy", "val_loss"], math.nan)
        status = fate if isinstance(fate, str) else "completed"
        seconds = 100 / point["batch_size"]
        trial_rows.append({"trial": trial, **point, **last, "status": status, "seconds": seconds})
        if rows:
            random = np.random.default_rng(zlib.crc32(trial.encode()))
            wrong = random.permutation(IMAGES)[round(last["val_accuracy"] * IMAGES) :]
            predictions[trial] = labels.copy()
            predictions[trial][wrong] += 1
    return StudyRecord(
        directory=Folder.at("results/made"),
        spec=_spec([point for point in fates if point not in confirmed], epochs, confirmed),
        results=[],
        tables=Tables(
            pd.DataFrame(trial_rows, columns=[*names, *(set(TRIAL_COLUMNS) - set(names))]),
            pd.DataFrame(epoch_rows, columns=[*names, *(set(EPOCH_COLUMNS) - set(names))]),
            pd.DataFrame(columns=RUN_COLUMNS),
        ),
        failures={
            row["trial"]: "Boom\nout of memory" for row in trial_rows if row["status"] == FAILED
        },
        predictions=predictions,
        labels=labels,
        best=None,
        validation=None,
        timings={},
        damaged=[],
    )


def names_of_points() -> list[str]:
    """The hyperparameters without a default, those that a test makes up, and the seed."""
    return [*(name for name in HYPERPARAMETERS if name not in DEFAULTS), "seed"]


def _epochs(
    trial: str, point: dict[str, Any], accuracies: Sequence[float], changes: dict[str, Any]
) -> list[dict[str, Any]]:
    return [
        {
            "trial": trial,
            **point,
            "epoch": epoch,
            "updates": epoch * -(-TRAIN_ROWS // point["batch_size"]),
            "train_loss": 1 / epoch,
            "train_accuracy": 0.5 + 0.4 * epoch / len(accuracies),
            "val_loss": 1 - accuracy + 0.001 * (len(accuracies) - epoch),
            "val_accuracy": accuracy,
            "seconds": 1.0,
        }
        | {name: values[epoch - 1] for name, values in changes.items()}
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


def _spec(grid: list[Point], epochs: int, confirmed: Sequence[Point]) -> StudySpec:
    names = names_of_points()
    values = (sorted(set(values)) for values in zip(*grid, strict=True))
    return StudySpec(
        data={
            "source": "my digits.csv",
            "fingerprint": "0123",
            "rows": TRAIN_ROWS + IMAGES,
            "train_rows": TRAIN_ROWS,
            "val_rows": IMAGES,
            "pixels": 4,
        },
        space=dict(zip(names, values, strict=True)),
        epochs=epochs,
        val_fraction=0.2,
        split_seed=42,
        precision="float32",
        confirmed=[dict(zip(names, point, strict=True)) for point in confirmed],
    )


def flat(accuracy: float, epochs: int = 3) -> list[float]:
    """A trial that learns nothing more after its first epoch."""
    return [accuracy] * epochs


def line(accuracies: dict[float, float], batch_size: int = 32) -> dict[Point, Fate]:
    """One batch size, one seed: the accuracy of every learning rate."""
    return {(lr, batch_size, 0): flat(accuracy) for lr, accuracy in accuracies.items()}


PLAIN = line({0.01: 0.80, 0.1: 0.95, 1.0: 0.88})


def found(record: StudyRecord) -> dict[str, Finding]:
    findings = reach_verdict(record)
    assert len({finding.rule for finding in findings}) == len(findings)
    return {finding.rule: finding for finding in findings}


def request_of(finding: Finding) -> Request:
    """What the command of a finding asks for; the command line must understand it."""
    assert finding.command is not None
    words = shlex.split(finding.command)
    assert words[0] == "digitrec"
    return cli.make_request(cli.make_parser().parse_args(words[1:]))


# --- the winner


def test_a_winner_far_ahead_is_clear_and_its_interval_holds_its_accuracy() -> None:
    winner = reach_verdict(study(PLAIN))[0]
    assert (winner.rule, winner.level) == ("winner", "note")
    assert "lr 0.1, batch size 32" in winner.sentence
    assert "95.00% of the 2,000 validation images (95% interval 93.96% to 95.87%)" in (
        winner.sentence
    )
    assert "better than each of the other 2 configurations" in winner.sentence


def test_with_one_seed_the_winner_is_said_to_hold_for_this_seed() -> None:
    sentence = found(study(PLAIN))["winner"].sentence
    assert "holds for one seed" in sentence
    assert "how much another seed would change has not been measured" in sentence


def test_only_several_seeds_make_a_clear_winner_good_news() -> None:
    accuracies = {0.01: 0.80, 0.1: 0.95, 1.0: 0.88}
    fates: dict[Point, Fate] = {
        (lr, 32, seed): flat(accuracy + seed / 1e3)
        for lr, accuracy in accuracies.items()
        for seed in range(4)
    }
    winner = found(study(fates))["winner"]
    assert winner.level == "good"
    assert "better than each of the other 2 configurations" in winner.sentence


def test_only_configurations_as_good_as_the_winner_are_named() -> None:
    record = study(line({0.01: 0.5, 0.1: 0.95, 0.2: 0.951, 0.5: 0.949, 1.0: 0.88}))
    winner = found(record)["winner"]
    assert winner.level == "note"
    assert (
        "2 of the other 4 cannot be told apart from it: "
        "lr 0.1, batch size 32 (95.00%); lr 0.5, batch size 32 (94.90%)." in winner.sentence
    )


def test_no_more_than_five_are_named_and_the_rest_are_counted() -> None:
    record = study(line({0.1 + step / 100: 0.95 for step in range(9)}))
    sentence = found(record)["winner"].sentence
    assert "None of the other 8 can be told apart" in sentence
    assert "and 3 more." in sentence


def test_configurations_with_several_seeds_are_compared_by_their_mean() -> None:
    good, lucky = (0.950, 0.951, 0.949, 0.950), (0.960, 0.900, 0.902, 0.898)
    fates = {(0.1, 32, seed): flat(good[seed]) for seed in range(4)}
    fates |= {(0.2, 32, seed): flat(lucky[seed]) for seed in range(4)}
    winner = found(study(fates))["winner"]
    assert "The winner is lr 0.1, batch size 32" in winner.sentence
    assert "mean of 4 seeds" in winner.sentence
    assert "one seed" not in winner.sentence


def test_seeds_that_scatter_keep_a_higher_mean_from_being_clear() -> None:
    wild, calm = (0.98, 0.90, 0.99), (0.93, 0.935, 0.94)
    fates = {(0.1, 32, seed): flat(calm[seed]) for seed in range(3)}
    fates |= {(0.2, 32, seed): flat(wild[seed]) for seed in range(3)}
    winner = found(study(fates))["winner"]
    assert "The winner is lr 0.2" in winner.sentence
    assert "The only other configuration cannot be told apart from it: lr 0.1" in winner.sentence


def test_confirmed_leaders_are_judged_by_their_fresh_seeds_alone() -> None:
    grid = line({0.1: 0.96, 0.2: 0.95, 0.5: 0.5})
    fresh = {(0.1, 32, seed): flat(0.93 + seed / 1e4) for seed in (1, 2, 3)}
    fresh |= {(0.2, 32, seed): flat(0.95 + seed / 1e4) for seed in (1, 2, 3)}
    findings = found(study(grid | fresh, confirmed=list(fresh)))
    winner = findings["winner"]
    assert "The winner is lr 0.2" in winner.sentence
    assert "95.02%" in winner.sentence
    assert "mean of 3 fresh seeds" in winner.sentence
    assert "again with fresh seeds, lr 0.1, batch size 32 was ahead" in winner.sentence
    assert "Not compared: 1 configuration without fresh seeds" in winner.sentence
    assert "seeds" not in findings


def test_a_lone_trial_is_not_compared() -> None:
    findings = found(study({(0.1, 32, 0): flat(0.95)}))
    assert "The only configuration with a result is lr 0.1" in findings["winner"].sentence
    assert set(findings) == {"winner"}


def test_without_labels_nothing_is_compared_and_it_is_said() -> None:
    findings = found(replace(study(PLAIN), labels=None))
    assert "does not hold the validation labels" in findings["winner"].sentence
    assert findings["winner"].level == "note"


def test_a_diverged_trial_is_never_the_winner() -> None:
    record = study(PLAIN | {(5.0, 32, 0): DIVERGED})
    assert "The winner is lr 0.1" in found(record)["winner"].sentence


# --- the next seeds


def test_leaders_with_one_seed_are_to_be_confirmed_in_the_same_study() -> None:
    request = request_of(found(study(line({0.1 * k: 0.95 for k in range(1, 9)})))["seeds"])
    assert (request.confirm, request.confirm_seeds) == (5, 3)
    assert request.data == "my digits.csv"
    assert request.directory == Folder.at("results/made")
    assert request.space.values["batch_size"] == (32,)


def test_no_more_leaders_are_confirmed_than_there_are() -> None:
    assert request_of(found(study(PLAIN))["seeds"]).confirm == 3


def test_several_seeds_ask_for_no_more() -> None:
    fates = {(lr, 32, seed): flat(0.9) for lr in (0.1, 0.2) for seed in (0, 1)}
    assert "seeds" not in found(study(fates))


def confirmed(first: Fate, second: Fate) -> dict[str, Finding]:
    """Two leaders, 0.5 ahead of 0.1; their second fresh seeds meet these fates."""
    grid = line({0.1: 0.95, 0.5: 0.97})
    fresh: dict[Point, Fate] = {(lr, 32, 1): flat(0.95) for lr in (0.1, 0.5)}
    fresh |= {(0.5, 32, 2): first, (0.1, 32, 2): second}
    return found(study(grid | fresh, confirmed=list(fresh)))


def test_a_leader_whose_fresh_seed_diverged_was_lucky() -> None:
    findings = confirmed(DIVERGED, flat(0.95))
    seeds = findings["seeds"]
    assert (seeds.level, seeds.command) == ("caution", None)
    assert seeds.sentence == (
        "1 of the 2 leaders diverged with fresh seeds: lr 0.5, batch size 32. Their earlier "
        "accuracy was luck."
    )
    assert seeds.evidence == "diverged: lr0.5-bs32-seed2"
    winner = findings["winner"].sentence
    assert "The winner is lr 0.1" in winner
    assert "Not compared: 1 configuration that diverged or failed with fresh seeds." in winner


def test_where_all_fresh_seeds_diverged_the_same_confirmation_is_not_advised() -> None:
    grid = line({0.1: 0.95, 0.5: 0.97})
    fresh = dict.fromkeys([(lr, 32, seed) for lr in (0.1, 0.5) for seed in (1, 2)], DIVERGED)
    findings = found(study(grid | fresh, confirmed=list(fresh)))
    seeds = findings["seeds"]
    assert (seeds.level, seeds.command) == ("caution", None)
    assert "edge" not in findings  # no higher rates where the highest does not hold
    assert "The winner is one of them, so nothing confirms it" in seeds.sentence


def test_a_fresh_seed_that_failed_confirms_nothing() -> None:
    seeds = confirmed(flat(0.97), FAILED)["seeds"]
    assert seeds.evidence == "failed: lr0.1-bs32-seed2"
    assert "luck" not in seeds.sentence


def test_leaders_that_complete_with_fresh_seeds_need_no_mention() -> None:
    assert "seeds" not in confirmed(flat(0.97), flat(0.95))


# --- nothing learned


@pytest.mark.parametrize("accuracy", [0.05, 0.1, 0.11])
def test_a_winner_at_chance_has_learned_nothing(accuracy: float) -> None:
    findings = found(study(line({0.01: accuracy, 0.3: accuracy}) | {(2.0, 32, 0): DIVERGED}))
    assert set(findings) == {"winner", "chance", "diverged"}
    chance = findings["chance"]
    assert chance.level == "caution"
    assert "is right for 10.15% of them" in chance.sentence
    request = request_of(chance)
    assert request.epochs == 6
    assert request.space.values["lr"] == (0.001, 0.01, 0.1, 0.3, 0.5, 1.0)


def test_where_the_usual_rates_learned_nothing_lower_ones_are_tried() -> None:
    fates = line(dict.fromkeys(Space().values["lr"], 0.1))
    assert request_of(found(study(fates))["chance"]).space.values["lr"][:2] == (0.0002, 0.0005)


def test_a_winner_above_chance_has_learned_something() -> None:
    assert "chance" not in found(study(line({0.1: 0.13, 0.2: 0.1})))


# --- the edge of the space


@pytest.mark.parametrize(
    ("accuracies", "lrs"),
    [
        ({0.1: 0.8, 0.5: 0.85, 1.0: 0.9}, (0.1, 0.5, 1.0, 2.0, 5.0)),
        ({0.001: 0.9, 0.01: 0.8}, (0.0002, 0.0005, 0.001, 0.01)),
        ({0.03: 0.8, 0.3: 0.9}, (0.03, 0.3, 0.5, 1.0)),
    ],
)
def test_a_winner_on_the_edge_of_the_rates_asks_for_the_rates_beyond(
    accuracies: dict[float, float], lrs: tuple[float, ...]
) -> None:
    edge = found(study(line(accuracies)))["edge"]
    assert edge.level == "caution"
    assert request_of(edge).space.values["lr"] == lrs


def test_batch_sizes_go_on_by_halves_and_doubles() -> None:
    small = study({(0.1, 8, 0): flat(0.9), (0.1, 16, 0): flat(0.8)})
    large = study({(0.1, 1500, 0): flat(0.8), (0.1, 3000, 0): flat(0.9)})
    assert request_of(found(small)["edge"]).space.values["batch_size"] == (2, 4, 8, 16)
    # No batch is larger than the 8,000 training rows.
    assert request_of(found(large)["edge"]).space.values["batch_size"] == (1500, 3000, 6000)


def test_both_edges_make_one_command() -> None:
    fates = {(lr, size, 0): flat(0.8) for lr in (0.1, 1.0) for size in (32, 64)}
    edge = found(study(fates | {(1.0, 32, 0): flat(0.9)}))["edge"]
    space = request_of(edge).space
    assert space == Space.of(lr=(0.1, 1.0, 2.0, 5.0), batch_size=(8, 16, 32, 64), seeds=(0,))


def test_a_winner_inside_the_space_is_on_no_edge() -> None:
    assert "edge" not in found(study(PLAIN))


def test_a_hyperparameter_with_one_value_has_no_edge() -> None:
    assert "edge" not in found(study({(0.1, 32, seed): flat(0.9) for seed in (0, 1)}))


def test_an_edge_matters_less_where_something_inside_is_as_good() -> None:
    edge = found(study(line({0.01: 0.5, 0.1: 0.949, 1.0: 0.95})))["edge"]
    assert edge.level == "note"
    assert "lr 0.1, batch size 32, which is not on this edge, cannot be told apart" in edge.sentence


def test_where_all_rates_above_the_winner_diverged_it_is_the_edge_of_stability() -> None:
    fates = line({0.1: 0.8, 0.5: 0.9}) | {(5.0, 32, 0): DIVERGED, (10.0, 32, 0): DIVERGED}
    findings = found(study(fates))
    assert "edge" not in findings
    stable = findings["edge of stability"]
    assert "lr 0.5 is the highest learning rate that does not diverge" in stable.sentence
    assert request_of(stable).space.values["lr"] == (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)


# --- other hyperparameters


@pytest.fixture
def four_hyperparameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside learning rate and batch size a made-up share, which is linear, and a category."""
    share = replace(
        with_role("batch"),
        name="drop_share",
        label="share of dropped units",
        is_right=lambda value: 0 <= value < 1,
        values=(0.0,),
        scale="linear",
        role=None,
        beyond=lambda values, up: [round(max(values) + 0.1, 1)] if up else [],
    )
    shape = replace(
        share, name="unit_kind", label="kind of units", values=("relu",), scale="category",
        is_right=lambda value: value in ("relu", "tanh"), beyond=None,
    )  # fmt: skip
    for made_up in (share, shape):
        monkeypatch.setitem(HYPERPARAMETERS, made_up.name, made_up)


def four(accuracies: Mapping[tuple[float, float, str], Fate]) -> StudyRecord:
    """A study over rate, share and kind, all with batch size 32 and seed 0."""
    return study({(lr, 32, share, kind, 0): fate for (lr, share, kind), fate in accuracies.items()})


@pytest.mark.usefixtures("four_hyperparameters")
def test_the_edge_of_any_hyperparameter_is_found_and_a_category_has_none() -> None:
    edge = found(
        four(
            {
                (lr, share, kind): flat(0.9 + share / 10 - (kind == "tanh") / 5 - abs(lr - 0.1))
                for lr in (0.05, 0.1, 0.2)
                for share in (0.0, 0.5)
                for kind in ("relu", "tanh")
            }
        )
    )["edge"]
    assert "drop share 0.5 is the highest value that was searched" in edge.sentence
    assert "unit kind" not in edge.sentence
    assert edge.evidence == "drop share 0 90.00%, drop share 0.5 95.00%"


@pytest.mark.usefixtures("four_hyperparameters")
def test_trials_are_neighbours_only_where_all_other_hyperparameters_agree() -> None:
    fates: dict[tuple[float, float, str], Fate] = {
        (lr, share, "relu"): flat(0.9 + share / 10 - abs(lr - 0.1))
        for lr in (0.1, 0.5)
        for share in (0.0, 0.5)
    }
    assert "edge of stability" not in found(four(fates | {(0.5, 0.0, "relu"): DIVERGED}))
    stable = found(four(fates | {(0.5, 0.5, "relu"): DIVERGED}))["edge of stability"]
    assert "with the same batch size and drop share, every higher one" in stable.sentence


@pytest.mark.usefixtures("four_hyperparameters")
@pytest.mark.parametrize(
    ("best", "named", "headings"),
    [
        ((0.9, 0.0, "relu"), "", []),
        ((0.9, 0.5, "relu"), ", drop share 0.5", ["share of dropped units"]),
        ((0.9, 0.0, "tanh"), ", unit kind tanh", ["kind of units"]),
    ],
)
def test_sentences_and_tables_have_the_hyperparameters_that_vary(
    best: tuple[float, float, str], named: str, headings: list[str]
) -> None:
    fates: dict[tuple[float, float, str], Fate] = {
        (lr, 0.0, "relu"): flat(lr) for lr in (0.7, 0.8, 0.9)
    }
    record = four(fates | {best: flat(0.95)})
    findings = reach_verdict(record)
    summary = summarise(record, findings)
    for text in (make_markdown(summary), make_page(summary, [], [])):
        assert f"The winner is lr 0.9, batch size 32{named}: " in text
        heads = [
            line for line in text.splitlines() if re.match(r" *(\| rank|<th scope=.col)", line)
        ]
        made_up = [name for name in ("share of dropped units", "kind of units")
                   if name in " ".join(heads)]  # fmt: skip
        assert made_up == headings
        assert "learning rate" in " ".join(heads)


# --- the training curves


def test_a_winner_that_still_improves_asks_for_twice_the_epochs() -> None:
    unconverged = found(study({(0.1, 32, 0): [0.5, 0.7, 0.8], (0.2, 32, 0): flat(0.4)}))
    assert "10.00 percentage points in its last epoch" in unconverged["unconverged"].sentence
    assert request_of(unconverged["unconverged"]).epochs == 6


@pytest.mark.parametrize(
    "accuracies",
    [[0.5, 0.9, 0.9], [0.5, 0.9, 0.905], [0.5, 0.9, 0.88], [0.9]],
    ids=["flat", "within noise", "falling", "one epoch"],
)
def test_a_winner_that_does_not_improve_beyond_noise_is_converged(accuracies: list[float]) -> None:
    record = study({(0.1, 32, 0): accuracies}, epochs=len(accuracies))
    assert "unconverged" not in found(record)


def test_over_many_epochs_the_last_quarter_counts() -> None:
    slow = [0.5 + 0.01 * epoch for epoch in range(20)]
    unconverged = found(study({(0.1, 32, 0): slow}, epochs=20))["unconverged"]
    assert "5.00 percentage points in its last 5 epochs" in unconverged.sentence


def test_a_loss_that_rises_for_long_while_training_goes_on_is_overfitting() -> None:
    losses = [0.5, 0.2, 0.3, 0.4, 0.5]
    fates: dict[Point, Fate] = {(0.1, 32, 0): [0.8, 0.95, 0.93, 0.92, 0.9]}
    overfitting = found(study(fates, epochs=5, val_loss=losses))["overfitting"]
    assert "risen by 150% since epoch 2" in overfitting.sentence
    assert overfitting.level == "caution"
    assert request_of(overfitting).epochs == 2


def test_a_loss_that_rises_beside_a_steady_accuracy_is_a_note() -> None:
    losses = [0.5, 0.2, 0.3, 0.4, 0.5]
    record = study({(0.1, 32, 0): flat(0.95, 5)}, epochs=5, val_loss=losses)
    overfitting = found(record)["overfitting"]
    assert (overfitting.level, overfitting.command) == ("note", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"val_loss": [0.5, 0.3, 0.2, 0.2, 0.2]},
        {"val_loss": [0.5, 0.3, 0.25, 0.2, 0.4]},
        {"val_loss": [0.5, 0.2, 0.3, 0.4, 0.5], "train_accuracy": [0.9, 0.9, 0.8, 0.7, 0.6]},
    ],
    ids=["steady", "one epoch", "training gets worse as well"],
)
def test_no_overfitting_is_seen_where_there_is_none(changes: dict[str, Any]) -> None:
    record = study({(0.1, 32, 0): flat(0.95, 5)}, epochs=5, **changes)
    assert "overfitting" not in found(record)


# --- divergence, failures, unfinished studies


def test_the_share_of_diverged_trials_is_said_with_their_rates() -> None:
    fates: dict[Point, Fate] = {(lr, s, 0): flat(0.9) for lr in (0.1, 0.2, 0.3) for s in (32, 64)}
    fates |= {(5.0, 32, 0): DIVERGED, (5.0, 64, 0): flat(0.5)}
    diverged = found(study(fates))["diverged"]
    assert "1 of 8 trials diverged (12%), at lr 5.0 (1 of 2)." in diverged.sentence
    assert (diverged.level, diverged.command) == ("note", None)


def test_many_diverged_trials_ask_for_a_grid_without_their_rates() -> None:
    fates = PLAIN | {(lr, 32, 0): DIVERGED for lr in (5.0, 10.0)}
    diverged = found(study(fates))["diverged"]
    assert diverged.level == "caution"
    assert request_of(diverged).space.values["lr"] == (0.01, 0.1, 1.0)


def test_a_study_in_which_all_diverged_asks_for_lower_rates() -> None:
    record = study({(lr, 32, 0): DIVERGED for lr in (2.0, 5.0)})
    (finding,) = reach_verdict(record)
    assert finding.level == "caution"
    assert "All 2 trials diverged" in finding.sentence
    assert request_of(finding).space.values["lr"] == (0.02, 0.2)


def test_where_rates_far_too_high_diverged_the_usual_ones_are_tried() -> None:
    (finding,) = reach_verdict(study({(1e20, 32, 0): DIVERGED}))
    assert "The only trial diverged" in finding.sentence
    assert request_of(finding).space.values["lr"] == (0.1, 1.0)


def test_failed_trials_are_named_with_their_error_and_tried_again() -> None:
    failed = found(study(PLAIN | {(0.5, 32, 0): FAILED}))["failed"]
    assert "1 of 4 trials failed" in failed.sentence
    assert failed.evidence == "lr0.5-bs32-seed0: out of memory"
    assert request_of(failed).space.values["lr"] == (0.01, 0.1, 0.5, 1.0)


def test_an_unfinished_study_is_provisional_and_goes_on() -> None:
    findings = found(study(PLAIN | {(0.5, 32, 0): STOPPED}))
    assert "1 of 4 trials is not trained yet" in findings["unfinished"].sentence
    assert request_of(findings["unfinished"]).space.values["lr"] == (0.01, 0.1, 0.5, 1.0)
    assert "seeds" not in findings  # first things first


def test_a_study_without_any_result_says_only_that() -> None:
    (finding,) = reach_verdict(study(dict.fromkeys(PLAIN, STOPPED)))
    assert finding.rule == "unfinished"
    assert "No trial is finished yet" in finding.sentence


def test_a_finished_study_is_neither_unfinished_nor_failed() -> None:
    assert not {"unfinished", "failed", "diverged"} & set(found(study(PLAIN)))


# --- stability


def test_a_rate_at_which_accuracy_collapses_is_unstable() -> None:
    unstable = found(study(line({0.1: 0.95, 0.5: 0.94, 1.0: 0.6})))["unstable"]
    assert "Training is unstable at lr 1.0." in unstable.sentence
    assert "60.00% against 95.00% at lr 0.1" in unstable.evidence


def test_a_rate_that_is_too_low_is_slow_and_not_unstable() -> None:
    assert "unstable" not in found(study(line({0.001: 0.2, 0.1: 0.95, 0.5: 0.94})))


def test_seeds_that_end_far_apart_are_unstable() -> None:
    ends = (0.95, 0.5, 0.94)
    fates: dict[Point, Fate] = {(1.0, 32, seed): flat(end) for seed, end in enumerate(ends)}
    fates |= {(0.1, 32, seed): flat(0.9) for seed in range(3)}
    unstable = found(study(fates))["unstable"]
    assert "its seeds end between 50.00% and 95.00%" in unstable.evidence


def test_a_winner_that_fell_back_within_an_epoch_is_unstable() -> None:
    unstable = found(study({(0.1, 32, 0): [0.9, 0.6, 0.92]}))["unstable"]
    assert unstable.level == "caution"
    assert "it fell from 90.00% to 60.00% within an epoch" in unstable.evidence


def test_what_only_diverged_is_not_said_twice() -> None:
    findings = found(study(PLAIN | {(5.0, 32, 0): DIVERGED}))
    assert "diverged" in findings
    assert "unstable" not in findings


# --- updates and seconds


def test_a_small_batch_that_leads_only_by_its_updates_is_seen_through() -> None:
    # 64 ends with half the updates of 32, at which 32 was no better.
    fates: dict[Point, Fate] = {(0.1, 32, 0): [0.80, 0.87, 0.95], (0.1, 64, 0): [0.7, 0.8, 0.86]}
    updates = found(study(fates))["updates"]
    assert "batch size 32 had 2 times as many updates as 64" in updates.sentence
    assert "so its lead comes from more updates" in updates.sentence
    assert "after 375 updates" in updates.evidence


def test_a_small_batch_that_leads_at_equal_updates_is_ahead() -> None:
    fates: dict[Point, Fate] = {(0.1, 32, 0): [0.9, 0.95, 0.95], (0.1, 64, 0): [0.3, 0.4, 0.5]}
    assert "the winner's batch size 32 is ahead of batch size 64 as well" in (
        found(study(fates))["updates"].sentence
    )


def test_a_lead_that_is_the_same_at_equal_updates_does_not_come_from_more_updates() -> None:
    fates: dict[Point, Fate] = {(0.1, 32, 0): flat(0.95), (0.1, 64, 0): flat(0.94)}
    updates = found(study(fates))["updates"]
    assert "curves cannot tell" in updates.sentence
    assert "(95.00% and 94.00%, a difference within noise)" in updates.sentence
    assert "comes from more updates" not in updates.sentence


def test_a_lead_that_is_none_beyond_noise_is_not_explained() -> None:
    fates: dict[Point, Fate] = {(0.1, 32, 0): [0.92, 0.9277, 0.95], (0.1, 64, 0): [0.8, 0.9, 0.939]}
    record = study(fates)
    updates = found(record)["updates"]
    assert "cannot be told apart" in found(record)["winner"].sentence
    assert "curves cannot tell" in updates.sentence


def test_a_batch_size_that_is_behind_at_equal_updates_leads_by_its_updates() -> None:
    fates: dict[Point, Fate] = {(0.1, 32, 0): [0.5, 0.6, 0.96], (0.1, 64, 0): [0.3, 0.4, 0.95]}
    updates = found(study(fates))["updates"]
    assert "batch size 64 is ahead of the winner's batch size 32" in updates.sentence


def test_between_epochs_accuracy_is_read_off_the_curve() -> None:
    # 375 updates of 32 are one and a half epochs: between 0.6 and 0.9, at log2(1.5) of the way.
    fates: dict[Point, Fate] = {(0.1, 32, 0): [0.6, 0.9, 0.95], (0.1, 64, 0): [0.3, 0.4, 0.5]}
    expected = 0.6 + 0.3 * math.log2(1.5)
    assert f"batch size 32 {expected:.2%}" in found(study(fates))["updates"].evidence


def test_curves_that_do_not_overlap_say_nothing() -> None:
    fates: dict[Point, Fate] = {(0.1, 32, 0): flat(0.95), (0.1, 512, 0): flat(0.5)}
    assert "updates" not in found(study(fates))


def test_a_winner_with_the_largest_batch_had_no_more_updates_than_others() -> None:
    fates: dict[Point, Fate] = {(0.1, 32, 0): flat(0.5), (0.1, 64, 0): flat(0.95)}
    assert "updates" not in found(study(fates))


Stacks = Sequence[tuple[Sequence[Point], float, float]]  # its trials, its start, seconds of a trial
TWO_SIZES = {(lr, size, 0): flat(0.951 - size / 1e5) for lr in (0.1, 0.2) for size in (32, 64)}


def timed(record: StudyRecord, stacks: Stacks) -> StudyRecord:
    """The record with what its stacks took; runs that begin far apart have other workers."""
    results = []
    for points, started, took in stacks:
        members = tuple(
            Trial(Configuration(lr=lr, batch_size=size), seed) for lr, size, seed in points
        )
        epochs = record.spec.epochs
        history = [EpochRecord(e, e, 0.1, 0.9, 0.1, 0.9, took / epochs) for e in (1, 2, 3)]
        run = Run(
            node="node",
            pid=int(started // 1000),
            started=started,
            ended=started + took * len(points),
        )
        predictions = np.zeros((len(points), IMAGES), np.uint8)
        epoch_rows = [[one] * len(points) for one in history]
        stack = Stack(members)
        results.append(
            StackResult(stack=stack, epochs=epoch_rows, predictions=predictions, run=run)
        )
    trained = [member for result in results for member in result.stack.members]
    made = make_tables(to_the_end(trained, record.spec.epochs), results, {})
    seconds = record.tables.trials["trial"].map(made.trials.set_index("trial")["seconds"])
    trials = record.tables.trials.assign(seconds=seconds)
    return replace(record, tables=replace(record.tables, trials=trials, runs=made.runs))


def alone(seconds: Mapping[Point, float]) -> Stacks:
    """Every trial in a stack of its own, all in one run."""
    return [([point], 10.0 * place, took) for place, (point, took) in enumerate(seconds.items())]


def test_a_faster_batch_size_that_is_as_good_is_named_with_its_price() -> None:
    took = {(0.1, 32, 0): 4.0, (0.1, 64, 0): 2.0, (0.2, 32, 0): 5.0, (0.2, 64, 0): 2.0}
    price = found(timed(study(TWO_SIZES), alone(took)))["price"]
    assert (
        "takes at least 2.0 times as long to train as lr 0.1, batch size 64, which cannot be told "
        "apart from it, and is 0.03 percentage points better" in price.sentence
    )
    assert "2.00 to 2.50 times as long as 64 in 2 pairs" in price.evidence


def test_a_batch_size_that_is_dearer_only_in_one_pair_has_no_price() -> None:
    took = {(0.1, 32, 0): 6.0, (0.1, 64, 0): 2.0, (0.2, 32, 0): 2.0, (0.2, 64, 0): 2.0}
    assert "price" not in found(timed(study(TWO_SIZES), alone(took)))


def test_seconds_of_different_runs_are_not_compared() -> None:
    slow, fast = (
        [([(lr, size, 0)], started + 10 * lr, took) for lr in (0.1, 0.2)]
        for size, started, took in ((32, 0.0, 6.0), (64, 50_000.0, 2.0))
    )
    assert "price" not in found(timed(study(TWO_SIZES), slow + fast))


def test_seconds_of_stacks_of_different_width_are_not_compared() -> None:
    slow = [([(lr, 32, 0)], 10 * lr, 6.0) for lr in (0.1, 0.2)]
    fast = [([(lr, 64, 0), (lr + 1, 64, 0)], 10 + 10 * lr, 2.0) for lr in (0.1, 0.2)]
    assert "price" not in found(timed(study(TWO_SIZES), slow + fast))


def test_a_faster_batch_size_that_is_worse_has_no_price() -> None:
    fates = {(lr, size, 0): flat(0.95 - size / 1e3) for lr in (0.1, 0.2) for size in (32, 64)}
    took = {(lr, size, 0): 100 / size for lr, size, _ in fates}
    assert "price" not in found(timed(study(fates), alone(took)))


def test_the_fastest_winner_has_no_price() -> None:
    took = {(lr, size, 0): size / 10 for lr, size, _ in TWO_SIZES}
    assert "price" not in found(timed(study(TWO_SIZES), alone(took)))


# --- optimism and test data


def test_the_accuracy_of_the_best_of_many_equals_is_too_high() -> None:
    optimism = found(study(line({0.01 * k: 0.9 + k / 2e4 for k in range(1, 40)})))["optimism"]
    assert "too high" in optimism.sentence


def test_a_winner_far_ahead_was_not_chosen_by_luck() -> None:
    assert "optimism" not in found(study(PLAIN))


def test_what_test_data_says_takes_the_place_of_the_estimate() -> None:
    record = study(line({0.01 * k: 0.9 for k in range(1, 40)}))
    winner = found(record)["winner"].sentence.split("is lr ")[1].split(",")[0]
    test = {"source": "test.csv", "rows": 10_000, "accuracy": 0.89, "loss": 0.3}
    tested = replace(record, best={"trial": f"lr{winner}-bs32-seed0", "test": test})
    findings = found(tested)
    assert "optimism" not in findings
    assert "On 10,000 test digits" in findings["test"].sentence
    assert "89.00%" in findings["test"].sentence


def test_one_validation_image_is_one_image() -> None:
    record = study({(0.1, 32, 0): flat(1.0), (0.2, 32, 0): flat(1.0)})
    assert record.labels is not None
    one = replace(
        record,
        labels=record.labels[:1],
        predictions={trial: labels[:1] for trial, labels in record.predictions.items()},
        spec=replace(record.spec, data=record.spec.data | {"val_rows": 1}),
    )
    findings = found(one)
    assert "of the 1 validation image (" in findings["winner"].sentence
    assert "on the same 1 image," in findings["winner"].evidence
    assert "optimism" not in findings


def test_a_test_of_another_trial_says_nothing_about_the_winner() -> None:
    test = {"source": "test.csv", "rows": 10_000, "accuracy": 0.89, "loss": 0.3}
    record = replace(study(PLAIN), best={"trial": "lr0.01-bs32-seed0", "test": test})
    assert "test" not in found(record)


@pytest.mark.parametrize(
    ("accuracy", "level"), [(0.6, "caution"), (0.93, "caution"), (0.945, "good"), (0.99, "good")]
)
def test_a_test_that_falls_short_of_validation_is_a_caution(accuracy: float, level: str) -> None:
    test = {"source": "test.csv", "rows": 10_000, "accuracy": accuracy, "loss": 0.3}
    finding = found(replace(study(PLAIN), best={"trial": "lr0.1-bs32-seed0", "test": test}))["test"]
    assert finding.level == level
    assert ("less than validation promised" in finding.sentence) == (level == "caution")
    assert "validation: 95.00% (95% interval 93.96% to 95.87%)" in finding.evidence


def test_a_few_test_digits_that_go_wrong_are_no_caution() -> None:
    test = {"source": "test.csv", "rows": 20, "accuracy": 0.85, "loss": 0.3}
    record = replace(study(PLAIN), best={"trial": "lr0.1-bs32-seed0", "test": test})
    assert found(record)["test"].level == "good"


def test_the_saved_models_seed_need_not_be_one_that_confirmed_its_configuration() -> None:
    fresh: dict[Point, Fate] = {
        (lr, 32, seed): flat(0.95 if lr == 0.1 else 0.9) for lr in (0.1, 1.0) for seed in (1, 2)
    }
    test = {"source": "test.csv", "rows": 10_000, "accuracy": 0.95, "loss": 0.3}
    record = study(PLAIN | fresh, confirmed=list(fresh))
    findings = found(replace(record, best={"trial": "lr0.1-bs32-seed0", "test": test}))
    assert "test" in findings
    assert "optimism" not in findings


# --- the commands, and studies of every kind


def test_a_command_asks_the_question_of_its_study_again() -> None:
    record = study(PLAIN, epochs=5)
    spec = replace(record.spec, val_fraction=0.25, precision="bf16")
    words = shlex.split(tune_command(replace(record, spec=spec)))
    request = cli.make_request(cli.make_parser().parse_args(words[1:]))
    assert request == Request(
        data="my digits.csv",
        space=Space.of(lr=(0.01, 0.1, 1.0), batch_size=(32,), seeds=(0,)),
        epochs=5,
        val_fraction=0.25,
        precision="bf16",
        out=str(record.directory),
    )


def test_options_at_their_defaults_are_left_out() -> None:
    record = study(PLAIN)
    default = Request()
    spec = replace(
        record.spec,
        data=record.spec.data | {"source": default.data},
        space=default.space.to_json(),
        epochs=default.epochs,
        val_fraction=default.val_fraction,
        precision=default.precision,
    )
    command = tune_command(replace(record, spec=spec))
    assert shlex.split(command) == ["digitrec", "tune", "--out", str(record.directory)]


def test_a_confirmed_study_is_gone_on_with_as_such() -> None:
    fresh: dict[Point, Fate] = {(0.1, 32, 1): flat(0.9), (0.1, 32, 2): STOPPED}
    record = study(PLAIN | fresh, confirmed=list(fresh))
    request = request_of(found(record)["unfinished"])
    assert (request.confirm, request.confirm_seeds) == (1, 2)
    assert request.space.seeds == (0,)


@pytest.mark.parametrize(
    "record",
    [
        study({(0.1, 32, 0): flat(0.9)}),
        study({(0.1, 32, 0): [0.9]}, epochs=1),
        study({(lr, size, 0): [0.9] for lr in (0.1, 1.0) for size in (32, 64)}, epochs=1),
        study({(0.1, 32, 0): flat(1.0), (0.2, 32, 0): flat(1.0)}),
        study({(0.1, 32, 0): flat(0.0), (0.2, 32, 0): flat(0.0)}),
        study({(lr, 32, s): flat(1.0) for lr in (0.1, 0.2) for s in (0, 1)}),
        study({(0.1, 32, 0): DIVERGED, (0.2, 32, 0): FAILED, (0.3, 32, 0): STOPPED}),
        study({(0.1, 32, 0): flat(0.9), (0.1, 32, 1): DIVERGED, (0.2, 32, 0): STOPPED,
               (0.2, 32, 1): FAILED}),
        study({(0.1, 32, 0): flat(0.9), (0.1, 32, 1): flat(0.9), (0.2, 32, 0): flat(0.9),
               (0.2, 32, 1): STOPPED}),
    ],
    ids=["one trial", "one epoch", "one epoch of a grid", "all right", "all wrong",
         "all right, seeds", "nothing completed", "one of each", "uneven seeds"],
)  # fmt: skip
def test_every_study_gets_a_verdict_of_plain_lines(record: StudyRecord) -> None:
    findings = reach_verdict(record)
    assert findings
    for finding in findings:
        assert finding.sentence.endswith((".", ".)"))
        assert "\n" not in finding.sentence + finding.evidence
        assert "nan" not in (finding.sentence + finding.evidence).replace("finance", "")
        assert finding.evidence
        if finding.command is not None:
            request_of(finding)


@pytest.mark.slow
def test_a_verdict_on_two_thousand_trials_names_few_and_counts_all() -> None:
    fates = {(round(0.001 * k, 3), 32, 0): flat(0.9 + k / 1e5) for k in range(1, 2001)}
    winner = found(study(fates))["winner"]
    assert "of the other 1,999" in winner.sentence
    assert len(winner.sentence) < 700

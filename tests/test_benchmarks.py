"""The benchmark programs compute what they say; no timing is asserted."""

import argparse
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from digitrec.cli.options import make_parser, make_request
from digitrec.engine.model import StackedMLP, init_mlp
from digitrec.engine.products import OneDNNProducts, Products, TorchProducts
from digitrec.engine.step import make_step
from digitrec.engine.train import Totals, TrainingData, train_on
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.shape import layer_sizes
from digitrec.space.stacks import Stack
from tests.benchmarks import bench, cluster, engine, gpu, machine, plain_loop, race, timeline
from tests.benchmarks.data_file import csv_of
from tests.benchmarks.peers import points, studies, table
from tests.benchmarks.peers.events import (
    Event,
    EventLog,
    epochs_trained,
    incumbent,
    reached,
    read_events,
)
from tests.benchmarks.peers.points import Point
from tests.benchmarks.peers.scores import Score
from tests.benchmarks.peers.training import load, train_one, val_accuracies
from tests.head import ONE_CORE

PIXELS = 784


@pytest.fixture
def digits_csv(tmp_path: Path) -> Path:
    """300 made rows in the Kaggle layout: the label shows as a bright row of pixels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 300)
    images = generator.integers(0, 60, (300, PIXELS))
    for row, label in enumerate(labels):
        images[row, 28 * label : 28 * label + 28] = 255
    table = pd.DataFrame(images).add_prefix("pixel")
    table.insert(0, "label", labels)
    file = tmp_path / "digits.csv"
    table.to_csv(file, index=False)
    return file


def made_result() -> dict[str, Any]:
    seconds = {"digitrec": [10.0, 12.0, 11.0], "plain": [50.0, 72.0, 44.0]}
    agreement = bench.Agreement(4, 0.001, (0.1, 64), -0.004, 0.02)
    return {
        "machine": {"processor": "made", "cores": "2"},
        "question": {
            "data": "train.csv",
            "rows": 42000,
            "epochs": 3,
            "rounds": 3,
            "lr": [0.1, 0.5],
            "batch_size": [32, 64],
        },
        "seconds": seconds,
        "times_digitrec": bench.ratios(seconds),
        "peak_memory_bytes": {"digitrec": 2**30, "plain": 3 * 2**29},
        "agreement": {"plain": bench.describe_agreement(agreement)},
        "parts": {"digitrec": [{"parts": {"read": 0.5, "plots": 1.5}, "trial_seconds": 9.0}] * 3},
        "limit": {
            "operations": 2_540_000_000_000,
            "one_core_seconds": {"oneDNN": [15.0, 15.0], engine.LIMIT: [10.0, 12.0]},
            "share": {"oneDNN": [1.5, 1.25], engine.LIMIT: [1.0, 1.0]},
            "study_share": [],
        },
    }


def measurement(accuracies: bench.Cells) -> bench.Measurement:
    return bench.Measurement(1.0, accuracies, {})


@pytest.mark.slow
def test_the_plain_loop_writes_a_row_per_configuration_and_epoch(
    digits_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--lr", "0.1", "--batch-size", "64", "--epochs", "2", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["plain_loop", "--data", str(digits_csv), *options])
    runpy.run_path(plain_loop.__file__, run_name="__main__")
    results = pd.read_csv(tmp_path / "out" / "results.csv")
    assert list(results.columns) == plain_loop.COLUMNS
    assert results["epoch"].tolist() == [1, 2]
    assert results["val_accuracy"].between(0, 1).all()
    assert (tmp_path / "out" / "figure.png").stat().st_size > 0
    parts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(parts) == ["read", "prepare", "grid", "figure"]


def test_the_plain_loop_starts_from_the_weights_that_digitrec_starts_from() -> None:
    torch.manual_seed(3)
    plain = plain_loop.DigitRecModel(PIXELS, 256, 128, 10)
    ours = init_mlp(layer_sizes(PIXELS), seed=3).member(0)
    for theirs, own in zip(plain.parameters(), ours.values(), strict=True):
        torch.testing.assert_close(theirs.detach(), own, rtol=0, atol=0)


@pytest.mark.slow
def test_the_plain_loop_learns_what_digitrec_learns(digits_csv: Path) -> None:
    arrays = plain_loop.prepare(pd.read_csv(digits_csv))
    *_, last = plain_loop.train_configuration(arrays, 0.05, 16, epochs=5, seed=0)
    assert last["val_accuracy"] > 0.9


def test_the_first_rows_are_the_first_rows_of_the_file(digits_csv: Path, tmp_path: Path) -> None:
    first = csv_of(str(digits_csv), tmp_path, rows=20)
    pd.testing.assert_frame_equal(pd.read_csv(first), pd.read_csv(digits_csv).head(20))
    assert csv_of(str(digits_csv), tmp_path) == digits_csv


def test_the_limit_counts_every_product_of_the_step() -> None:
    # One trial, B images: 2 B for each weight, forward and in its gradient; and once more below
    # all layers but the first, for the input's gradient.
    weights = (784 * 256, 256 * 128, 128 * 10)
    one = 2 * 32 * (2 * sum(weights) + weights[1] + weights[2])
    assert engine.operations({engine.Shape(32, 1): 1}) == one
    assert engine.operations({engine.Shape(32, 5): 7}) == 35 * one
    assert engine.operations({engine.Shape(32, 1): 1, engine.Shape(64, 1): 1}) == 3 * one


def test_the_bare_products_have_the_shapes_that_they_count() -> None:
    for product in engine.products_of(engine.Shape(8, 3), sizes=(20, 6, 10)):
        left, right = engine.operands(product)
        product_of_both = left @ right
        operations = 2 * product_of_both.numel() * left.shape[2]
        assert operations == product.operations


@pytest.mark.parametrize("products", [TorchProducts(), OneDNNProducts()])
def test_the_autograd_step_is_digitrecs_step(products: Products) -> None:
    if isinstance(products, OneDNNProducts) and not engine.has_onednn():
        pytest.skip("this PyTorch has no oneDNN linear layer")
    data = engine.made_digits(48)
    batches = torch.arange(48).split(16)
    rates = torch.tensor([0.01, 0.1, 0.5]).view(-1, 1, 1)
    ours, theirs = (init_mlp(engine.SIZES, seed=0, members=3) for _ in range(2))
    trials = (Trial(Configuration(lr=lr, batch_size=16), 0) for lr in (0.01, 0.1, 0.5))
    step = make_step(Stack(tuple(trials)), ours, {}, products)
    train_on(step, data, torch.arange(48), Totals(ours), epoch=1)
    engine.train_epoch_by_autograd(theirs, rates, data, batches, engine.autograd_loss)
    for own, other in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(own, other.detach(), rtol=1e-4, atol=1e-5)


def parameters(model: StackedMLP) -> list[torch.Tensor]:
    return [*model.weights, *model.biases]


def test_the_engine_measures_every_form_at_every_shape() -> None:
    shapes = {engine.Shape(16, 2): 10, engine.Shape(32, 1): 5}
    measured = engine.measure(shapes, rounds=2, images=64)
    assert {"torch", "autograd", engine.LIMIT} <= set(measured.seconds)
    for form in measured.seconds:
        assert all(len(measured.per_trial(form, shape)) == 2 for shape in shapes)
    assert measured.shares(engine.LIMIT, shapes) == [1.0, 1.0]
    assert len(engine.shape_table(measured)) == 4 + len(shapes)


def test_every_extra_is_measured_beside_the_plain_step() -> None:
    measured = engine.measure_extras(2, [16, 32], rounds=2, images=64)
    assert set(measured.seconds) == set(engine.EXTRAS)
    assert len(engine.extras_table(measured)) == 4 + 2


def test_a_grids_time_weighs_each_shape_by_its_updates() -> None:
    small, large = engine.Shape(32, 2), engine.Shape(64, 2)
    measured = engine.Measured(
        {"step": {small: [2.0, 3.0], large: [4.0, 5.0]}, engine.LIMIT: {small: [1.0], large: [2.0]}}
    )
    assert measured.grid_seconds("step", {small: 10, large: 1}) == [24.0, 35.0]


def test_ratios_are_taken_round_by_round() -> None:
    found = bench.ratios({"plain": [50.0, 72.0], "digitrec": [10.0, 12.0]})
    assert found == {"plain": [5.0, 6.0]}
    assert bench.ratios({"plain": [50.0]}) == {}
    assert engine.spread([5.0, 6.0, 4.0]) == "5.00 (4.00 to 6.00)"


def test_contenders_agree_within_noise_and_disagree_beyond_it() -> None:
    ours = measurement({(0.1, 32): 0.967, (0.1, 64): 0.95, (1.0, 32): 0.75})
    near = measurement({(0.1, 32): 0.969, (0.1, 64): 0.948, (1.0, 32): 0.10})
    far = measurement({(0.1, 32): 0.967, (0.1, 64): 0.90, (1.0, 32): 0.75})
    assert bench.compare(ours, near, 8400).agrees
    found = bench.compare(ours, far, 8400)
    assert not found.agrees
    assert found.worst_cell == (0.1, 64)
    assert found.worst_difference == pytest.approx(0.05)
    assert found.cells == 2


def test_tolerance_is_widest_half_way_and_narrows_with_more_rows() -> None:
    assert bench.tolerance(0.5, 1000) > bench.tolerance(0.97, 1000) > bench.tolerance(0.97, 9000)
    assert bench.tolerance(1.0, 1000) == pytest.approx(1 / 1000)


def test_the_page_shows_ratios_agreement_parts_and_limit() -> None:
    page = bench.markdown(made_result())
    assert "| digitrec | 11.0 (10.0 to 12.0) |  | 1.0 GiB |" in page
    assert "| plain loop | 50.0 (44.0 to 72.0) | 5.0 (4.0 to 6.0) | 1.5 GiB |" in page
    assert "worst -0.0040 at lr 0.1, batch size 64, where 0.0200 is allowed" in page
    assert "they agree" in page
    assert "read 0.50, plots 1.50" in page
    assert "summed over the workers: 9.00" in page
    assert "11.0 (10.0 to 12.0) s on one core. Times that: oneDNN 1.38." in page


def test_the_page_needs_no_timings_file_and_no_digitrec() -> None:
    result = made_result() | {"parts": {"digitrec": [{}]}, "limit": None, "agreement": {}}
    assert "Parts" not in bench.markdown(result)


def test_every_contender_is_given_the_same_question() -> None:
    options = argparse.Namespace(epochs=2, lr=[0.1, 0.5], batch_size=[32])
    for contender in bench.CONTENDERS:
        command = bench.command_of(contender, options, Path("train.csv"), Path("out"))
        asked = " ".join(command)
        assert "--data train.csv --out out --epochs 2 --lr 0.1,0.5 --batch-size 32" in asked


@pytest.mark.slow
def test_a_childs_memory_is_sampled() -> None:
    code = "import time; held = bytes([1]) * 2**26; time.sleep(1)"
    with machine.PeakMemory() as memory:
        subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
    assert memory.bytes > 2**26


def test_the_description_of_the_machine_names_no_path() -> None:
    described = machine.describe_machine()
    assert {"processor", "cores", "memory", "torch", "ray", "numpy", "date"} <= set(described)
    assert not any("/" in value for value in described.values())


def test_the_gpu_program_says_in_a_line_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no NVIDIA GPU" in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.slow
def test_the_gpu_program_measures_on_a_cpu_what_needs_no_gpu(
    digits_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "cpu", "--data", str(digits_csv), "--images", "64", "--lr", "0.1"]
    options += ["--batch-size", "16,32", "--stack-sizes", "1,2", "--epochs", "1", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["gpu", *options])
    assert gpu.main() == 0
    page = capsys.readouterr().out
    assert "| batch size | stack size | step float32 | step bf16 |" in page
    for size in (16, 32):
        for members in (1, 2):
            assert f"| {size} | {members} | " in page
    for program in ("digitrec, float32", "digitrec, bf16", "plain loop"):
        assert f"| {program} | " in page
    assert "out of memory" not in page


def test_what_the_gpu_program_captures_is_digitrecs_step() -> None:
    shape, data = engine.Shape(16, 2), engine.made_digits(64)
    logits = torch.empty(2, 10, 16)
    steps = [engine.made_step(shape, data, TorchProducts()) for _ in range(2)]

    def capture(update: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        return lambda: logits.copy_(update()), logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "made_step", lambda *_: steps[0])
        patch.setattr(gpu, "choose_products", lambda *_: TorchProducts())
        gpu.captured_form(shape, data, capture)()
    train_on(steps[1], data, torch.arange(64), Totals(steps[1].model), epoch=1)
    for own, other in zip(*(parameters(step.model) for step in steps), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


def test_a_stack_too_large_for_a_gpus_memory_has_a_row_that_says_so() -> None:
    def make(shape: engine.Shape, data: TrainingData) -> engine.Form:
        if shape.members > 1:
            raise torch.OutOfMemoryError("too large")
        return lambda: None

    options = gpu.parse_options(["--device", "cpu", "--images", "64", "--stack-sizes", "1,1024"])
    shapes = gpu.shapes_of(options)
    steps = gpu.measure_steps({"eager": make, "graph": make}, shapes, options)
    large = [line for line in gpu.times_table(steps) if "| 1024 |" in line]
    assert len(large) == 2
    assert all(line.count("out of memory") == 4 for line in large)
    assert [line.count("out of memory") for line in gpu.ratio_table(steps)[2:]] == [0, 2] * 2
    assert all("1: " in line for line in gpu.best_table(steps)[2:])


def test_the_gpu_program_runs_commands_that_digitrec_understands() -> None:
    options = gpu.parse_options([])
    parse = make_parser().parse_args
    for share in gpu.GPU_SHARES:
        request = make_request(parse(gpu.sharing_command(Path("train.csv"), options, share)))
        assert request.gpus_per_stack == share
        assert len(request.space.trials()) == 25
    request = make_request(parse(gpu.race_command(Path("train.csv"), 1000, 256)))
    assert (request.gpus_per_stack, request.stack_size) == (1, 256)
    assert len(request.space.trials()) == 1000


def test_the_training_of_a_command_is_between_its_first_stack_and_its_last(tmp_path: Path) -> None:
    times = pd.DataFrame({"started": [10.0, 5.0, 12.0], "ended": [11.0, 7.5, 20.0]})
    times.to_csv(tmp_path / "runs.csv")
    assert gpu.training_seconds(tmp_path) == 15
    page = gpu.command_table("stacks at a time", {"2": [gpu.Command(30.0, 15.0)]})
    assert page[-1] == "| 2 | 30.0 (30.0 to 30.0) | 15.0 (15.0 to 15.0) |"


def test_the_parts_of_a_run_end_where_its_stacks_begin_and_end() -> None:
    used = {timeline.DRIVER: 0.5, timeline.WORKERS: 1.0, timeline.RAY: 0.25}
    looks = [timeline.Look(float(second), [1.0, 0.5], used) for second in range(1, 11)]
    runs = pd.DataFrame({"pid": [1, 1, 2], "started": [102, 104, 102], "ended": [104, 107, 106]})
    parts = timeline.parts_of(looks, runs, started=100.0)
    assert parts["seconds"].tolist() == [2, 4, 1, 3]
    assert parts["core 1"].tolist() == ["50%"] * 4
    assert parts[timeline.WORKERS].tolist() == [2, 4, 1, 3]


@pytest.mark.slow
def test_a_run_is_watched_with_the_processes_it_starts() -> None:
    work = "sum(i * i for i in range(10_000_000))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{work}'])"
    looks = timeline.watch([sys.executable, "-c", child])
    driver, workers = (
        sum(look.used[kind] for look in looks) for kind in (timeline.DRIVER, timeline.WORKERS)
    )
    assert workers > driver > 0
    assert all(0 <= share <= 1 for look in looks for share in look.busy)


def test_a_command_that_fails_has_no_timeline() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        timeline.watch([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_simulated_worker_takes_the_next_stack_when_it_is_free() -> None:
    assert cluster.schedule([5.0, 3.0, 3.0], workers=2, driver_seconds=0.0) == 6.0
    assert cluster.schedule([1.0] * 6, workers=100, driver_seconds=1.0) == 7.0


def test_a_simulated_race_is_never_faster_than_its_work_shared_evenly() -> None:
    trials = cluster.made_trials(81)
    alone = cluster.simulate(trials, 1, 0.0)
    assert alone.seconds == pytest.approx(alone.work)
    for workers in (2, 10, 100):
        assert alone.work / workers < cluster.simulate(trials, workers, 0.0).seconds < alone.seconds


def point(lr: float = 0.1, **values: Any) -> Point:
    drawn = {"lr": lr, "kept": 0.1, "weight_decay": 1e-5, "dropout": 0.1}
    return Point.of(drawn | {"batch_size": 32, "hidden_sizes": "256-128"} | values)


def made_events() -> list[Event]:
    return [
        Event(10, "a", point(0.1), 1, 0.90),
        Event(20, "b", point(0.2), 1, 0.95),
        Event(30, "a", point(0.1), 2, 0.94),
        Event(40, "b", point(0.2), 3, 0.97),
    ]


@pytest.mark.parametrize("augmentation", [False, True])
def test_a_race_searches_the_space_that_the_peers_search(augmentation: bool) -> None:
    options = ["tune", *points.tune_options(augmentation=augmentation), "--points", "300"]
    space = make_request(make_parser().parse_args(options)).space
    drawn = [studies.point_of(Trial(each, 0)) for each in space.configurations()]
    assert {each.batch_size for each in drawn} == {*points.BATCH_SIZES}
    assert {each.hidden_sizes for each in drawn} == {*points.HIDDEN}
    assert len({each.augmentation for each in drawn}) == 1 + augmentation
    for name, ends in (
        ("lr", points.LRS),
        ("momentum", (0.0, 1 - points.KEPT[0])),
        ("weight_decay", points.WEIGHT_DECAYS),
        ("dropout", points.DROPOUTS),
    ):
        values = [getattr(each, name) for each in drawn]
        assert ends[0] <= min(values)
        assert max(values) <= ends[1] + 1e-9


def test_a_race_gets_the_most_points_that_fit_its_time() -> None:
    rate = studies.Rate(start=10, epochs=2)
    rungs, halve, groups = (3, 9, 27), 3, 10
    fits = studies.points_for(110, rungs, halve, rate, augmentation=False)
    assert studies.epochs_of(fits, rungs, halve, groups) <= 200
    assert studies.epochs_of(fits + 1, rungs, halve, groups) > 200
    # 20 points in groups of 2, of which each keeps 1; of those 10, 4 go on, and 2 that are alike.
    assert studies.epochs_of(20, rungs, halve, groups) == 20 * 3 + 10 * 6 + (4 + 2) * 18


def test_an_incumbent_is_the_most_accurate_so_far() -> None:
    events = made_events()
    assert incumbent(events, 5) is None
    assert incumbent(events, 35) == events[1]
    assert incumbent(events, 40) == events[3]
    assert reached(events, 0.94) == 20
    assert reached(events, 0.98) is None
    assert epochs_trained(events, 39) == 2 + 1


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    for worker in ("0", "1"):
        EventLog(tmp_path, worker, begun=0).add(worker, point(kept=0.02), 3, 0.5)
    read = read_events(tmp_path)
    assert [event[1:] for event in read] == [
        ("0", point(kept=0.02), 3, 0.5),
        ("1", point(kept=0.02), 3, 0.5),
    ]
    assert read[0].seconds <= read[1].seconds
    assert read[0].point.momentum == pytest.approx(0.98)


def test_the_race_table_shows_each_search_at_each_time() -> None:
    short = table.Run("race", 0, 60, 50.0, 12, made_events()[:2])
    long = table.Run("race", 0, 120, 110.0, 30, made_events())
    peer = table.Run("peer", 0, 120, 121.0, None, made_events()[:1])
    runs = [short, long, peer]
    assert table.incumbents(runs, [60, 120]) == [point(0.2), point(0.1)]
    page = table.markdown(runs, {point(0.2): Score(0.96, 0.955)}, [60, 120])
    assert "| race (120 s) | 94.00" not in page
    assert "| race (60 s) | 95.00 | 95.00 |  |" in page
    assert "| race (120 s) | 30 | 5 | 0.05 | 110 | 40 |  |" in page
    assert "| peer (120 s) | 1 | 1 | 0.01 | 121 | never |  |" in page
    assert "| race | 96.00 / 95.50 | 96.00 / 95.50 |" in page


def test_a_run_is_read_as_it_was_written() -> None:
    run = table.Run("race", 0, 60, 50.0, 12, made_events())
    assert race.from_json(json.loads(json.dumps(race.as_json(run)))) == run


@pytest.mark.parametrize("augmentation", points.AUGMENTATIONS)
def test_the_peers_training_learns(digits_csv: Path, augmentation: str) -> None:
    found = point(lr=0.03, augmentation=augmentation, batch_size=16)
    *_, last = val_accuracies(found, load(digits_csv), epochs=6)
    assert last > 0.5


def test_the_peers_training_cools_down_in_its_last_epochs(digits_csv: Path) -> None:
    def weights_after_each_epoch(**values: Any) -> list[Tensor]:
        models = train_one(point(lr=0.03, batch_size=16, **values), load(digits_csv), epochs=2)
        return [next(model.parameters()).detach().clone() for model in models]

    plain, cooling = weights_after_each_epoch(), weights_after_each_epoch(cooldown=1)
    assert torch.equal(plain[0], cooling[0])
    moved, moved_less = ((last - first).norm() for first, last in (plain, cooling))
    assert 0.2 * moved < moved_less < 0.9 * moved


@pytest.mark.ray
def test_a_comparison_needs_no_peers(tmp_path: Path) -> None:
    options = ["--data", "sample", "--out", str(tmp_path), "--seconds", "60", "--no-scores"]
    options += ["--unseen-rows", "4000", "--search-seeds", "0", "--points", "3"]
    command = [sys.executable, "-m", "tests.benchmarks.race", *options]
    command += ["--contenders", "race to 9 epochs"]
    done = subprocess.run(
        command,
        env=os.environ | ONE_CORE,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert "| race to 9 epochs (60 s) | 3 |" in done.stdout
    (run,) = json.loads((tmp_path / "race.json").read_text())["runs"]
    assert max(epoch for _, _, _, epoch, _ in run["events"]) == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "package"), [("optuna_processes", "optuna"), ("syne_tune_asha", "syne_tune")]
)
def test_a_peer_trains_the_trials_asked_for(
    module: str, package: str, digits_csv: Path, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    options = ["--data", str(digits_csv), "--out", str(tmp_path / "out"), "--trials", "3"]
    command = [sys.executable, "-m", f"tests.benchmarks.peers.{module}", *options]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert len({event.trial for event in read_events(tmp_path / "out")}) >= 3

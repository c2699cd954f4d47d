"""How fast is digitrec on an NVIDIA GPU, and which settings suit it? One command measures it all.

It prints Markdown tables, each as soon as it is measured; --sections chooses among them:

- steps: the step by stack size and batch size in float32 and bf16, and the memory that it takes;
- graph: the step as a CUDA graph against the step as digitrec makes it;
- grid: training the grid in stacks against the plain loop on the same GPU;
- sharing: `digitrec tune` with one, two and four stacks at a time on one GPU;
- race: `digitrec tune --race`, from command to prompt.

    python -m tests.benchmarks.gpu --data train.csv [--sections steps,graph] [--rounds 3]

Only one GPU is used. With --device cpu, the sections that need none run in small, which shows that
the program works and nothing else.

Letters: K trials of a stack, B images of a batch, C = 10 classes.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pandas as pd
import torch
from torch import Tensor

from digitrec.data.digits import SharedData, fit_scaler, read_digits, split_rows
from digitrec.engine.model import init_mlp
from digitrec.engine.products import choose_products
from digitrec.engine.resident import prepare
from digitrec.engine.step import Place
from digitrec.engine.train import Totals, TrainingData, epochs
from digitrec.space.hyperparameters import Precision
from digitrec.space.points import Space
from digitrec.space.shape import CLASSES, layer_sizes
from digitrec.space.stacks import MAX_STACK_SIZE, plan_stacks
from tests.benchmarks import plain_loop
from tests.benchmarks.bench import CHAOTIC_LR, VAL_FRACTION
from tests.benchmarks.data_file import csv_of
from tests.benchmarks.engine import (
    Form,
    Measured,
    Shape,
    explicit_form,
    made_digits,
    made_step,
    spread,
)
from tests.benchmarks.machine import describe_gpu, describe_machine
from tests.benchmarks.plain_loop import floats, integers

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
GPU_SHARES = (1, 0.5, 0.25)  # of a stack
RACE = [
    *("--race", "--rungs", "1,3,9,27"),
    *("--lr", "1e-3..2", "--momentum", "0..0.98", "--batch-size", "32,128"),
]
TIMEOUT = 3600  # seconds, of one command
OUT_OF_MEMORY = "out of memory"

FULL = {
    **{"rounds": 3, "epochs": 3, "images": 16_384},
    **{"lr": [0.001, 0.01, 0.1, 0.5, 1.0], "batch_size": [32, 64, 128, 256, 512]},
    "stack_sizes": [1, 4, 16, 64, 256, 1024],
}
SMALL = {
    **{"rounds": 1, "epochs": 1, "images": 1024},
    **{"lr": [0.1, 0.5], "batch_size": [32, 64], "stack_sizes": [1, 4]},
}

Maker = Callable[[Shape, TrainingData], Form]
Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


class Steps(NamedTuple):
    """What forms of the step cost; a shape that does not fit into memory has no times."""

    times: Measured
    peaks: dict[str, dict[Shape, int]]  # bytes beside the images; empty on a CPU


class Command(NamedTuple):
    """How long a command took."""

    seconds: float  # from start to exit
    training: float  # of them from the start of the first stack to the end of the last


def eager_form(shape: Shape, data: TrainingData) -> Form:
    """Return the step as digitrec makes it: a kernel after the other, launched by Python."""
    products = choose_products(data.pixels.device, torch.float32, data.train_images.dtype)
    return explicit_form(shape, data, products)


def graph_form(shape: Shape, data: TrainingData) -> Form:
    """Return the step as a CUDA graph, which is launched as a whole."""
    return captured_form(shape, data, cuda_graph)


def captured_form(shape: Shape, data: TrainingData, capture: Capture) -> Form:
    """Return the step with its batch in a fixed place, as a CUDA graph needs it.

    Only full batches are trained: another size would need a graph of its own.

    Args:
        shape: of the stack.
        data: what to train on.
        capture: takes an update of the model; returns how to repeat it, and the logits (K, C, B)
            that each repetition overwrites.
    """
    device = data.pixels.device
    products = choose_products(device, torch.float32, data.train_images.dtype)
    step = made_step(shape, data, products)
    one_hot = torch.nn.functional.one_hot(data.train_labels, CLASSES).t().to(step.model.dtype)
    order = torch.arange(len(data.train_labels), device=device)
    rows = order[: shape.batch_size].clone()  # of the batch
    place = Place(epoch=1, batch=0, updates=0)

    def update() -> Tensor:
        images = data.train_images.index_select(0, rows)
        return step.update(images, one_hot.index_select(1, rows), place)

    with torch.inference_mode():
        repeat, logits = capture(update)

    def run() -> None:
        totals = Totals(step.model)
        with torch.inference_mode():
            for batch in order.split(shape.batch_size):
                if len(batch) == len(rows):
                    rows.copy_(batch)
                    repeat()
                    totals.add(logits.clone(), data.train_labels.index_select(0, batch))

    return run


def cuda_graph(update: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Capture an update as a CUDA graph; see `captured_form`.

    Source: "Whole-network capture" in PyTorch's notes on CUDA semantics.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # makes the libraries' handles and workspaces
            update()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = update()
    return graph.replay, logits


def measure_steps(
    makers: dict[str, Maker], shapes: Sequence[Shape], options: argparse.Namespace
) -> Steps:
    """Time forms of the step at every shape and in both precisions, in turn, so many rounds."""
    device = torch.device(options.device)
    data = {each: digits_on(device, each, options.images) for each in PRECISIONS}
    seconds: dict[str, dict[Shape, list[float]]] = {}
    peaks: dict[str, dict[Shape, int]] = {}
    cases = list(itertools.product(shapes, PRECISIONS, makers.items()))
    too_large = set()
    for case in cases * options.rounds:
        if case in too_large:
            continue
        shape, precision, (name, make) = case
        form = f"{name} {precision}"
        of_shape = seconds.setdefault(form, {}).setdefault(shape, [])
        found = time_form(make, shape, data[precision])
        if found is None:
            too_large.add(case)
            of_shape.clear()
        else:
            of_shape.append(found.seconds)
            peaks.setdefault(form, {})[shape] = found.peak
    return Steps(Measured(seconds), peaks)


class Timed(NamedTuple):
    """What one form of the step costs."""

    seconds: float  # of an update
    peak: int  # bytes, beside the images


def time_form(make: Maker, shape: Shape, data: TrainingData) -> Timed | None:
    """Return what a form costs that is made, warmed up and removed here; None: no memory for it."""
    on_gpu = data.pixels.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()  # so that an earlier form's blocks do not fragment the memory
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    try:
        form = make(shape, data)
        form()
        wait(data.pixels.device)
        start = time.perf_counter()
        form()
        wait(data.pixels.device)
        seconds = time.perf_counter() - start
    except torch.OutOfMemoryError:
        return None
    updates = len(data.train_labels) // shape.batch_size
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    return Timed(seconds / updates, peak)


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def digits_on(device: torch.device, precision: Precision, images: int) -> TrainingData:
    """Return random digits on a device, in the type of a precision."""
    made = made_digits(images)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return TrainingData(
        train_images=made.train_images.to(device, dtype),
        train_labels=made.train_labels.to(device),
        pixels=made.pixels.to(device),
        val_images=made.val_images.to(device, dtype),
        val_labels=made.val_labels.to(device),
    )


def shapes_of(options: argparse.Namespace) -> list[Shape]:
    """Return the shapes of stacks to measure, those of a batch size in a row."""
    return [Shape(size, members) for size in options.batch_size for members in options.stack_sizes]


def times_table(steps: Steps) -> list[str]:
    """Return a Markdown table, a row per shape: times and, on a GPU, memory."""
    forms = list(steps.times.seconds)
    with_memory = any(any(peaks.values()) for peaks in steps.peaks.values())
    memory = [f"{form}, GiB" for form in forms] if with_memory else []
    lines = table_head(["batch size", "stack size", *forms, *memory])
    for shape in steps.times.seconds[forms[0]]:
        cells = [time_cell(steps, form, shape) for form in forms]
        if with_memory:
            cells += [memory_cell(steps, form, shape) for form in forms]
        lines.append(row(shape.batch_size, shape.members, *cells))
    return lines


def time_cell(steps: Steps, form: str, shape: Shape) -> str:
    """Return microseconds per trial and update."""
    values = steps.times.per_trial(form, shape)
    return spread(values, 1) if values else OUT_OF_MEMORY


def memory_cell(steps: Steps, form: str, shape: Shape) -> str:
    """Return the peak in GiB."""
    measured = steps.times.seconds[form][shape]
    return f"{steps.peaks[form][shape] / 2**30:.2f}" if measured else OUT_OF_MEMORY


def best_table(steps: Steps) -> list[str]:
    """Return a Markdown table: the stack size with the lowest time per trial, by batch size."""
    forms = list(steps.times.seconds)
    lines = table_head(["batch size", *forms])
    for size in dict.fromkeys(shape.batch_size for shape in steps.times.seconds[forms[0]]):
        cells = []
        for form, of_shapes in steps.times.seconds.items():
            medians = {
                shape: statistics.median(steps.times.per_trial(form, shape))
                for shape, seconds in of_shapes.items()
                if seconds and shape.batch_size == size
            }
            best = min(medians, key=lambda shape: medians[shape], default=None)
            cells.append(f"{best.members}: {medians[best]:.1f}" if best else OUT_OF_MEMORY)
        lines.append(row(size, *cells))
    return lines


def ratio_table(steps: Steps) -> list[str]:
    """Return a Markdown table: the eager step's time over the graph's, round by round."""
    lines = table_head(["batch size", "stack size", *PRECISIONS])
    for shape in steps.times.seconds[f"eager {PRECISIONS[0]}"]:
        cells = []
        for precision in PRECISIONS:
            eager, graph = (
                steps.times.seconds[f"{form} {precision}"][shape] for form in ("eager", "graph")
            )
            measured = bool(eager and graph)
            ratios = [a / b for a, b in zip(eager, graph, strict=True)] if measured else []
            cells.append(spread(ratios) if measured else OUT_OF_MEMORY)
        lines.append(row(shape.batch_size, shape.members, *cells))
    return lines


def steps_section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Measure the step by stack size, batch size and precision."""
    steps = measure_steps({"step": eager_form}, shapes_of(options), options)
    yield "Microseconds per trial and update; on a GPU, also the peak memory beside the images:"
    yield from ["", *times_table(steps), ""]
    yield "The best stack size, and its microseconds per trial and update:"
    yield from ["", *best_table(steps), ""]


def graph_section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Measure the step as a CUDA graph."""
    forms: dict[str, Maker] = {"eager": eager_form, "graph": graph_form}
    steps = measure_steps(forms, shapes_of(options), options)
    yield "The step as digitrec makes it (eager) and as a CUDA graph, with the batch taken from"
    yield "the images. Microseconds per trial and update, and the peak memory beside the images:"
    yield from ["", *times_table(steps), "", "The eager step's time over the graph's:"]
    yield from ["", *ratio_table(steps), ""]


class Trained(NamedTuple):
    """A grid that has been trained."""

    seconds: float
    accuracy: float  # of validation: mean over the configurations whose training is not chaotic


def grid_section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Measure the training of the grid in stacks and in the plain loop, on the same device."""
    file = csv_of(options.data, folder, options.rows)
    device = torch.device(options.device)
    arrays = plain_loop.prepare(pd.read_csv(file))
    shared = shared_data(file)
    forms: dict[str, Callable[[], float]] = {
        **{f"digitrec, {p}": in_stacks(shared, device, p, options) for p in PRECISIONS},
        "plain loop": lambda: train_plainly(arrays, device, options),
    }
    for precision in PRECISIONS:  # makes the libraries' handles, which the plain loop uses too
        forms[f"digitrec, {precision}"]()
    runs: dict[str, list[Trained]] = {name: [] for name in forms}
    for _ in range(options.rounds):
        for name, train in forms.items():
            start = time.perf_counter()
            accuracy = train()
            runs[name].append(Trained(time.perf_counter() - start, accuracy))
    yield f"Training {len(options.lr) * len(options.batch_size)} configurations,"
    yield f"epochs: {options.epochs}, {len(shared.split.train):,} images to train on and"
    yield f"{len(shared.split.val):,} to validate on; from arrays in memory, in one process:"
    yield from ["", *grid_table(runs), ""]


def shared_data(file: Path) -> SharedData:
    """Return the digits of a file, split as digitrec splits them."""
    digits = read_digits(str(file))
    split = split_rows(digits.labels, VAL_FRACTION, random_state=42)
    scaler = fit_scaler(digits.images[split.train])
    return SharedData(
        key="grid", images=digits.images, labels=digits.labels, split=split, scaler=scaler
    )


def in_stacks(
    shared: SharedData, device: torch.device, precision: Precision, options: argparse.Namespace
) -> Callable[[], float]:
    """Return a function that trains the grid one stack after the other.

    It scales the images and moves them to the device first, and returns the accuracy.
    """
    space = Space.of(lr=tuple(options.lr), batch_size=tuple(options.batch_size))
    images = len(shared.split.train) * options.epochs
    stacks = plan_stacks(space.trials(), workers=1, images=images, stack_size=MAX_STACK_SIZE)
    sizes = layer_sizes(shared.images.shape[1])

    def train() -> float:
        data = prepare(shared, device, precision, stacks[0])
        found = {}
        for stack in stacks:
            model = init_mlp(sizes, seed=0, members=len(stack.members), device=device)
            *_, last = epochs(model, stack, data, epochs=options.epochs)
            for lr, record in zip(stack.values("lr"), last, strict=True):
                found[lr, stack.configuration.batch_size] = record.val_accuracy
        return mean_accuracy(found)

    return train


def train_plainly(
    arrays: plain_loop.Arrays, device: torch.device, options: argparse.Namespace
) -> float:
    """Train the grid in the plain loop; return the accuracy."""
    found = {}
    for lr in options.lr:
        for size in options.batch_size:
            *_, last = plain_loop.train_configuration(
                arrays, lr, size, options.epochs, seed=0, device=device
            )
            found[lr, size] = last["val_accuracy"]
    return mean_accuracy(found)


def mean_accuracy(found: dict[tuple[float, int], float]) -> float:
    """Return the mean over the cells whose training does not amplify rounding (all, if all do)."""
    calm = [accuracy for (lr, _), accuracy in found.items() if lr < CHAOTIC_LR]
    return statistics.fmean(calm or found.values())


def grid_table(runs: dict[str, list[Trained]]) -> list[str]:
    """Return a Markdown table, a row per program, the plain loop last."""
    *_, plain = runs.values()
    lines = table_head(["program", "seconds", "the plain loop's over it", "mean accuracy"])
    for name, own in runs.items():
        ratios = [theirs.seconds / each.seconds for theirs, each in zip(plain, own, strict=True)]
        accuracies = spread([each.accuracy for each in own], 4)
        lines.append(row(name, spread([each.seconds for each in own]), spread(ratios), accuracies))
    return lines


def sharing_section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Measure the grid from command to prompt, with several stacks on the GPU at a time."""
    file = csv_of(options.data, folder, options.rows)
    commands = {f"{1 / share:.0f}": sharing_command(file, options, share) for share in GPU_SHARES}
    runs = time_commands(commands, folder, options.rounds)
    yield "The grid from command to prompt, by the number of stacks on the GPU at a time:"
    yield from ["", *command_table("stacks at a time", runs), ""]


def sharing_command(file: Path, options: argparse.Namespace, share: float) -> list[str]:
    """Return the options of `digitrec` that train the grid with this share of a GPU per stack."""
    return [
        *("tune", "--data", str(file), "--epochs", str(options.epochs)),
        *("--lr", ",".join(map(str, options.lr))),
        *("--batch-size", ",".join(map(str, options.batch_size))),
        *("--gpus-per-stack", str(share)),
    ]


def race_section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Measure a race from command to prompt, by the size of its stacks."""
    file = csv_of(options.data, folder, options.rows)
    commands = {
        f"{size}": race_command(file, options.points, size) for size in options.race_stack_sizes
    }
    runs = time_commands(commands, folder, options.rounds)
    yield f"A race of {options.points:,} points from command to prompt (`{' '.join(RACE)}`):"
    yield from ["", *command_table("most trials of a stack", runs), ""]


def race_command(file: Path, points: int, stack_size: int) -> list[str]:
    """Return the options of `digitrec` that run a race of so many points."""
    return [
        *("tune", "--data", str(file), *RACE, "--points", str(points)),
        *("--gpus-per-stack", "1", "--stack-size", str(stack_size)),
    ]


def time_commands(
    commands: dict[str, list[str]], folder: Path, rounds: int
) -> dict[str, list[Command]]:
    """Run each command of `digitrec` in turn, so many rounds, on one GPU."""
    found: dict[str, list[Command]] = {name: [] for name in commands}
    one_gpu = os.environ | {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    }
    for _ in range(rounds):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                words = [sys.executable, "-m", "digitrec", *command, "--out", f"{out}/study"]
                start = time.perf_counter()
                done = subprocess.run(
                    words, capture_output=True, text=True, timeout=TIMEOUT, env=one_gpu, check=False
                )
                seconds = time.perf_counter() - start
                if done.returncode:
                    said = (done.stderr or done.stdout)[-2000:]
                    raise RuntimeError(f"digitrec {' '.join(command)} failed: {said}")
                found[name].append(Command(seconds, training_seconds(Path(out) / "study")))
    return found


def training_seconds(study: Path) -> float:
    """Return the seconds from the start of a study's first stack to the end of its last."""
    runs = pd.read_csv(study / "runs.csv")
    return float(runs["ended"].max() - runs["started"].min())


def command_table(what: str, runs: dict[str, list[Command]]) -> list[str]:
    """Return a Markdown table, a row per command."""
    lines = table_head([what, "seconds", "of them training"])
    for name, own in runs.items():
        parts = (spread([each[part] for each in own], 1) for part in range(2))
        lines.append(row(name, *parts))
    return lines


def table_head(columns: Sequence[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [row(*columns), "|" + " ---: |" * len(columns)]


def row(*cells: Any) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


Section = Callable[[argparse.Namespace, Path], Iterable[str]]
SECTIONS: dict[str, Section] = {
    "steps": steps_section,
    "graph": graph_section,
    "grid": grid_section,
    "sharing": sharing_section,
    "race": race_section,
}
ON_A_CPU = ("steps", "grid")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, defaults filled in for a GPU or for a CPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="sample", help="'sample' or a file as digitrec takes it")
    parser.add_argument("--rows", type=int, help="only the first so many")
    parser.add_argument("--sections", type=lambda text: text.split(","), help="default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lr", type=floats)
    parser.add_argument("--batch-size", type=integers)
    parser.add_argument("--stack-sizes", type=integers, help="of the sections steps and graph")
    parser.add_argument("--images", type=int, help="of a measurement in these sections")
    parser.add_argument("--points", type=int, default=1000, help="of the race")
    parser.add_argument("--race-stack-sizes", type=integers, default=[MAX_STACK_SIZE, 256])
    options = parser.parse_args(arguments)
    there = ON_A_CPU if options.device == "cpu" else tuple(SECTIONS)
    options.sections = options.sections or list(there)
    for name in options.sections:
        if name not in there:
            parser.error(f"no section {name!r} on this device; there are {', '.join(there)}")
    for name, value in (SMALL if options.device == "cpu" else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> int:
    """Measure and print the sections; return the exit code."""
    options = parse_options()
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} finds no NVIDIA GPU on this machine; "
            "--device cpu runs parts of this program in small",
            file=sys.stderr,
        )
        return 2
    machine = (describe_gpu() if on_gpu else {}) | describe_machine()
    print("Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ".")
    print(f"Median (lowest to highest) of {options.rounds} alternating rounds.\n", flush=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        for name in options.sections:
            try:
                print("\n".join(SECTIONS[name](options, Path(folder))), flush=True)
            except (RuntimeError, subprocess.TimeoutExpired) as error:  # the others may work
                failed = True
                print(f"The section {name} failed: {error}\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

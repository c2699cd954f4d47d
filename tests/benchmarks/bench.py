"""How much faster is `digitrec tune` than the plain loop and than the usual Ray Tune program?

The contenders take turns (A B C A B C ...), each in a fresh process with a fresh directory, and
are timed from start to exit. An extra first round is not timed: it warms the page cache and samples
the memory of each contender's whole process tree. All contenders read the same CSV file.

A quick run on the packaged sample takes about a minute; three full rounds take about 20 minutes:

    python -m tests.benchmarks.bench --quick
    python -m tests.benchmarks.bench --data train.csv --rounds 3

Writes bench.json and bench.md, a table for a README, to the directory of --out.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from digitrec.space.points import Space
from digitrec.space.stacks import plan_stacks
from tests.benchmarks import engine
from tests.benchmarks.data_file import csv_of
from tests.benchmarks.machine import PeakMemory, describe_machine
from tests.benchmarks.plain_loop import floats, integers

CONTENDERS = ("digitrec", "plain", "ray-tune")
NAMES = {"digitrec": "digitrec", "plain": "plain loop", "ray-tune": "usual Ray Tune program"}
TIMEOUT = 3600  # seconds, of one run
VAL_FRACTION = 0.2
CHAOTIC_LR = 1.0  # from here on training amplifies rounding: correct programs differ by points
DEVIATIONS = 4  # that two correct programs stay within, in each of some dozens of cells
TRAINING_NOISE = 0.1  # see `tolerance`

QUICK = {"epochs": 1, "rounds": 1, "lr": [0.1, 0.5], "batch_size": [32, 64]}
FULL = {
    **{"epochs": 3, "rounds": 3},
    **{"lr": [0.001, 0.01, 0.1, 0.5, 1.0], "batch_size": [32, 64, 128, 256, 512]},
}

Cells = dict[tuple[float, int], float]  # final validation accuracy by lr and batch size


class Measurement(NamedTuple):
    """One run of one contender."""

    seconds: float  # wall clock, from start to exit
    accuracies: Cells
    timings: dict[str, Any]  # the parts that the contender itself names; may be empty


class Agreement(NamedTuple):
    """How two contenders' final validation accuracies compare, chaotic cells left out."""

    cells: int
    mean_difference: float  # digitrec's less the other's, over the cells
    worst_cell: tuple[float, int]  # lr and batch size
    worst_difference: float
    worst_tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the worst cell is within its tolerance."""
        return abs(self.worst_difference) <= self.worst_tolerance


def main() -> None:
    """Run the contenders in turn, then the engine; print and write what was found."""
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = csv_of(options.data, Path(folder), options.rows)
        rows = len(pd.read_csv(file, usecols=["label"]))
        memory = warm_up(options, file, Path(folder))
        rounds = [run_round(options, file, Path(folder), n) for n in range(options.rounds)]
    result = summarise(options, rows, rounds, memory)
    (options.out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "bench.md").write_text(markdown(result))
    print(markdown(result))


def warm_up(options: argparse.Namespace, file: Path, folder: Path) -> dict[str, int]:
    """Run each contender once; returns the peak bytes of its process tree."""
    peaks = {}
    for contender in options.contenders:
        with PeakMemory() as memory:
            run_contender(contender, options, file, folder / f"warm-{contender}")
        peaks[contender] = memory.bytes
    return peaks


def run_round(
    options: argparse.Namespace, file: Path, folder: Path, number: int
) -> dict[str, Measurement]:
    """Run each contender once, in the order given."""
    measurements = {}
    for contender in options.contenders:
        out = folder / f"{number}-{contender}"
        measurements[contender] = run_contender(contender, options, file, out)
        seconds = measurements[contender].seconds
        print(f"round {number + 1}: {NAMES[contender]} {seconds:.1f} s", file=sys.stderr)
    return measurements


def run_contender(
    contender: str, options: argparse.Namespace, file: Path, out: Path
) -> Measurement:
    """Run a contender in a fresh process."""
    command = command_of(contender, options, file, out)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{contender} exited with {done.returncode}:\n{done.stderr[-2000:]}")
    if contender != "digitrec":
        parts = json.loads(done.stdout.splitlines()[-1])
        return Measurement(seconds, last_accuracies(out / "results.csv"), {"parts": parts})
    named = json.loads((out / "timings.json").read_text())
    named["trial_seconds"] = float(pd.read_csv(out / "trials.csv")["seconds"].sum())
    return Measurement(seconds, last_accuracies(out / "epochs.csv"), named)


def command_of(contender: str, options: argparse.Namespace, file: Path, out: Path) -> list[str]:
    """Return a contender's command line."""
    programs = {
        "digitrec": ["digitrec", "tune"],
        "plain": ["tests.benchmarks.plain_loop"],
        "ray-tune": ["tests.benchmarks.usual_ray_tune"],
    }
    return [
        *(sys.executable, "-m", *programs[contender]),
        *("--data", str(file), "--out", str(out), "--epochs", str(options.epochs)),
        *("--lr", ",".join(map(str, options.lr))),
        *("--batch-size", ",".join(map(str, options.batch_size))),
    ]


def last_accuracies(table: Path) -> Cells:
    """Return the validation accuracy of each cell after its last epoch."""
    epochs = pd.read_csv(table).sort_values("epoch")
    last = epochs.drop_duplicates(["lr", "batch_size"], keep="last")
    cells = zip(last["lr"], last["batch_size"], last["val_accuracy"], strict=True)
    return {(float(lr), int(size)): float(accuracy) for lr, size, accuracy in cells}


def summarise(
    options: argparse.Namespace,
    rows: int,
    rounds: Sequence[Mapping[str, Measurement]],
    memory: Mapping[str, int],
) -> dict[str, Any]:
    """Return everything found, ready for JSON."""
    seconds = {name: [each[name].seconds for each in rounds] for name in options.contenders}
    val_rows = math.ceil(rows * VAL_FRACTION)
    first = rounds[0]
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "question": {
            "data": Path(options.data).name,
            "rows": rows,
            "epochs": options.epochs,
            "rounds": options.rounds,
            "lr": options.lr,
            "batch_size": options.batch_size,
        },
        "seconds": seconds,
        "times_digitrec": ratios(seconds),
        "peak_memory_bytes": dict(memory),
        "parts": {name: [each[name].timings for each in rounds] for name in options.contenders},
    }
    if "digitrec" in first:
        result["agreement"] = {
            name: describe_agreement(compare(first["digitrec"], first[name], val_rows))
            for name in options.contenders
            if name != "digitrec"
        }
        timings = [each["digitrec"].timings for each in rounds]
        result["limit"] = measure_limit(options, rows - val_rows, timings)
    return result


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return each other contender's seconds over digitrec's, round by round."""
    ours = seconds.get("digitrec")
    if ours is None:
        return {}
    return {
        name: [theirs / own for theirs, own in zip(others, ours, strict=True)]
        for name, others in seconds.items()
        if name != "digitrec"
    }


def compare(ours: Measurement, theirs: Measurement, val_rows: int) -> Agreement:
    """Compare the cells of two contenders that are not chaotic (all, if all are)."""
    cells = [cell for cell in ours.accuracies if cell[0] < CHAOTIC_LR] or list(ours.accuracies)
    differences = {cell: ours.accuracies[cell] - theirs.accuracies[cell] for cell in cells}
    tolerances = {
        cell: tolerance((ours.accuracies[cell] + theirs.accuracies[cell]) / 2, val_rows)
        for cell in cells
    }
    worst = max(cells, key=lambda cell: abs(differences[cell]) / tolerances[cell])
    return Agreement(
        cells=len(cells),
        mean_difference=statistics.fmean(differences.values()),
        worst_cell=worst,
        worst_difference=differences[worst],
        worst_tolerance=tolerances[worst],
    )


def tolerance(accuracy: float, val_rows: int) -> float:
    """Return how far two correct programs' accuracies may be apart in one cell.

    Each has binomial noise, of the images, and training noise, of their order: the latter is
    largest half-way up the learning curve, and its standard deviation is taken as
    TRAINING_NOISE * p * (1 - p). One image is always allowed.

    Source: over three seeds, the plain loop's final accuracies on 42,000 rows have a standard
    deviation of about 0.002 at 0.97, 0.01 at 0.9 and 0.05 at 0.5.
    """
    variance = accuracy * (1 - accuracy) / val_rows
    variance += (TRAINING_NOISE * accuracy * (1 - accuracy)) ** 2
    return DEVIATIONS * math.sqrt(2 * variance) + 1 / val_rows


def describe_agreement(agreement: Agreement) -> dict[str, Any]:
    """Return an agreement ready for JSON."""
    return agreement._asdict() | {"agrees": agreement.agrees}


def measure_limit(
    options: argparse.Namespace, train_rows: int, timings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the grid's training time, one core, in digitrec's step and in bare products."""
    torch.set_num_threads(1)
    space = Space.of(lr=tuple(options.lr), batch_size=tuple(options.batch_size))
    workers = len(os.sched_getaffinity(0))
    stacks = plan_stacks(space.trials(), workers=workers, images=train_rows * options.epochs)
    updates = engine.updates_of(stacks, train_rows, options.epochs)
    images = 2048 if options.quick else engine.IMAGES
    measured = engine.measure(updates, rounds=max(2, options.rounds), images=images)
    work = [work_seconds(each) for each in timings if work_seconds(each)]
    bare = statistics.median(measured.grid_seconds(engine.LIMIT, updates))
    return {
        "operations": engine.operations(updates),
        "one_core_seconds": {
            form: measured.grid_seconds(form, updates) for form in measured.seconds
        },
        "share": {form: measured.shares(form, updates) for form in measured.seconds},
        "study_share": [seconds / bare for seconds in work],  # with validation, all workers busy
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a short page."""
    question = result["question"]
    cells = len(question["lr"]) * len(question["batch_size"])
    lines = [
        f"{question['rows']:,} rows of {question['data']}, {cells} configurations, "
        f"{question['epochs']} epochs; {question['rounds']} rounds in turn, each in a fresh "
        "process, start to exit. Median (lowest to highest).",
        "",
        "| program | seconds | times digitrec, round by round | peak memory, all processes |",
        "| --- | ---: | ---: | ---: |",
        *(contender_row(result, name) for name in result["seconds"]),
        "",
        *agreement_lines(result.get("agreement", {})),
        *part_lines(result["parts"].get("digitrec", [])),
        *limit_lines(result.get("limit")),
        "Machine: " + ", ".join(f"{key} {value}" for key, value in result["machine"].items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def contender_row(result: Mapping[str, Any], name: str) -> str:
    """Return a contender's row of the table."""
    seconds = engine.spread(result["seconds"][name], 1)
    ratio = (
        engine.spread(result["times_digitrec"][name], 1) if name in result["times_digitrec"] else ""
    )
    memory = result["peak_memory_bytes"][name] / 2**30
    return f"| {NAMES[name]} | {seconds} | {ratio} | {memory:.1f} GiB |"


def agreement_lines(agreements: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a paragraph per contender that digitrec was compared with."""
    lines = []
    for name, found in agreements.items():
        lr, batch_size = found["worst_cell"]
        lines += [
            f"Final validation accuracy, digitrec less {NAMES[name]}, over {found['cells']} "
            f"configurations (lr below {CHAOTIC_LR}): mean {found['mean_difference']:+.4f}; worst "
            f"{found['worst_difference']:+.4f} at lr {lr}, batch size {batch_size}, where "
            f"{found['worst_tolerance']:.4f} is allowed ({DEVIATIONS} standard deviations of "
            f"sampling and training noise): "
            f"{'they agree' if found['agrees'] else 'THEY DO NOT AGREE'}.",
            "",
        ]
    return lines


def part_lines(timings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return where digitrec's time goes, by the parts that it names itself."""
    parts = [each["parts"] for each in timings if "parts" in each]
    if not parts:
        return []
    medians = {name: statistics.median(each[name] for each in parts) for name in parts[0]}
    named = ", ".join(f"{name} {seconds:.2f}" for name, seconds in medians.items())
    line = f"Parts of digitrec in seconds, medians: {named}."
    work = [work_seconds(each) for each in timings if work_seconds(each)]
    if work:
        line += f" Training and validation, summed over the workers: {engine.spread(work)}."
    return [line, ""]


def work_seconds(timings: Mapping[str, Any]) -> float:
    """Return the seconds that digitrec's workers trained and validated; 0 if it does not say."""
    return float(timings.get("trial_seconds", 0))


def limit_lines(limit: Mapping[str, Any] | None) -> list[str]:
    """Return how near the training step is to the bare products of the same shapes."""
    if limit is None:
        return []
    steps = {form: statistics.median(share) for form, share in limit["share"].items()}
    bare = engine.spread(limit["one_core_seconds"][engine.LIMIT], 1)
    shares = ", ".join(
        f"{form} {share:.2f}" for form, share in steps.items() if form != engine.LIMIT
    )
    study = limit["study_share"]
    lines = [
        f"The grid's {limit['operations']:.3g} operations as bare float32 matrix products of the "
        f"same shapes: {bare} s on one core. Times that: {shares}.",
    ]
    if study:
        lines.append(
            f"The study's own trials, validation included: {engine.spread(study)} times; "
            "they leave out most pixels that are constant over the training rows."
        )
    return [*lines, ""]


def parse_options() -> argparse.Namespace:
    """Return the options, defaults filled in for the quick or the full form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="sample", help="'sample' or a file as digitrec takes it")
    parser.add_argument("--rows", type=int, help="only the first so many")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--lr", type=floats)
    parser.add_argument("--batch-size", type=integers)
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=[*CONTENDERS])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--quick", action="store_true", help="1 epoch, 4 configurations, 1 round")
    options = parser.parse_args()
    unknown = sorted(set(options.contenders) - set(CONTENDERS))
    if unknown:
        parser.error(f"no contender {unknown[0]!r}; there are {', '.join(CONTENDERS)}")
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()

"""A fuzz run: damages the files of a study one at a time and checks how the readers react.

    python -m tests.fuzz --files 20000 --seed 0

A damaged file may be refused in one line, named and set aside, or left out. It must not raise any
other error, and no result may change: measurements, predictions and weights of stacks, checkpoints,
labels, and the winner's predictions. (The spec, the records of failures, the timings and the saved
model are for people and other programs to read and write, and carry no digest: a changed number in
them that is still valid cannot be detected.)
"""

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from digitrec.engine.checkpoint import read_checkpoint, write_checkpoint
from digitrec.engine.model import init_mlp
from digitrec.engine.train import Training
from digitrec.errors import DamagedError, InputError
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.outcome import conclude
from digitrec.results.report.summary import summarise
from digitrec.space.hyperparameters import Configuration, Trial
from digitrec.space.records import EpochRecord
from digitrec.space.stacks import Stack
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord, read_record
from digitrec.store.spec import StudySpec, write_spec
from digitrec.store.stacks import read_weights, write_failure, write_stack
from digitrec.store.timings import Timings
from digitrec.store.validation import write_labels, write_validation
from digitrec.study import claim
from digitrec.winner.classifier import load_classifier
from tests.saved_model import make_tensors, write_model
from tests.studies import LABELS, make_record

DRAWN_EVERY = 500  # of the damaged studies; a report takes as long as many readings
SIZES = (6, 4, 10)  # of the models whose weights and checkpoints are kept
STACK = Stack(
    tuple(
        Trial(Configuration(lr=lr, batch_size=4, momentum=0.9, dropout=0.2), 0) for lr in (0.1, 0.5)
    )
)


class Wrong(Exception):
    """A promise was not kept; the text says which."""


def make_study(directory: Path) -> tuple[Folder, StudyRecord]:
    """Write a study with a file of every kind; returns it and what it holds."""
    alike = {"momentum": 0.9, "dropout": 0.2}
    made = make_record(directory, batch_sizes=(32,), failed=(1.0,), best={}, alike=alike)
    study, key = Folder.at(directory), made.spec.key
    study.prepare()
    write_spec(study, made.spec)
    for result in made.results:
        weights = {member.name: weights_of(member.name) for member in result.stack.members}
        write_stack(study, key, result, weights)
    write_checkpoint(study, key, "in-training", make_training())
    write_failure(study, "lost", list(made.failures), "RuntimeError: no room")
    write_labels(study, made.spec, LABELS, np.arange(len(LABELS)))
    assert made.validation is not None, "it was asked for"
    write_validation(study, made.spec, made.validation)
    about = {"format": 1, "activation": "relu", "layer_sizes": [6, 5, 4, 10]}
    write_model(
        directory / "best", about=json.dumps(about | {"trial": made.validation.trial}).encode()
    )
    timings = Timings()
    timings.parts["train"] = 1.5
    timings.write(study)
    return study, read_record(study)


def weights_of(trial: str) -> dict[str, Any]:
    """Return weights that no other trial has."""
    own = {name: values + len(trial) / 64 for name, values in make_tensors().items()}
    kept = {f"velocity.{name}": values / 2 for name, values in own.items()}
    return own | kept | {"name": np.frombuffer(trial.encode(), np.uint8).astype(np.float32)}


def make_training() -> Training:
    """Return two trials in the middle of their second epoch."""
    model = init_mlp(SIZES, seed=0, members=2)
    training = Training.of(STACK, model)
    moving = training.state["velocity"]
    for values in (*model.weights, *model.biases, *moving.weights, *moving.biases):
        values[1] += 1
    training.history.append([EpochRecord(1, 5, 0.5, 0.8, 0.6, 0.7, 0.1) for _ in range(2)])
    training.totals.loss += 3
    training.totals.correct += 4
    training.totals.images, training.seconds = 8, 0.25
    return training


def state_of(training: Training) -> Any:
    """Return all of a training that its checkpoint keeps."""
    model, totals = training.model, training.totals
    moving = [training.state["velocity"].weights, training.state["velocity"].biases]
    kept = [model.weights, model.biases, *moving, training.history, totals.loss, totals.correct]
    return content_of([*kept, totals.images, training.seconds])


def damage(content: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Return a file's content with one kind of damage."""
    place = chance.randrange(len(content) + 1)
    length = chance.choice([1, 2, 8, 64, len(content)])
    noise = chance.randbytes(min(length, 4096))
    kinds: list[Callable[[], bytes]] = [
        lambda: content[:place],
        lambda: content[:place] + content[place + length :],
        lambda: content[:place] + noise + content[place:],
        lambda: content[:place] + noise + content[place + len(noise) :],
        lambda: flip(content, chance),
        lambda: b"",
        lambda: noise,
        lambda: chance.choice(others),
        lambda: content + content,
        lambda: change_value(content, chance),
        lambda: chance.choice([b"[", b'{"a":']) * 100_000,
    ]
    return chance.choice(kinds)()


def flip(content: bytes, chance: random.Random) -> bytes:
    """Return the content with some bits changed."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 3, 20]) if content else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def change_value(content: bytes, chance: random.Random) -> bytes:
    """Return JSON with one value exchanged for another; other content as it is."""
    try:
        values = json.loads(content)
    except ValueError:
        return content
    new: Any = chance.choice(
        [None, -1, 0, 1e308, "", "x", [], [[]], {}, True, 10**30, float("nan")]
    )
    inner = values
    while isinstance(inner, dict | list) and inner:
        place = chance.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not isinstance(inner[place], dict | list) or chance.random() < 0.3:
            inner[place] = new
            break
        inner = inner[place]
    return json.dumps(values).encode()


def read_all(study: Folder, whole: StudyRecord, *, text: bool, draw: bool) -> str:
    """Read a study as `digitrec report`, `predict` and `tune` do; returns what came of it.

    Args:
        study: with a damaged file.
        whole: what it held before.
        text: whether to reach the verdict and write the report's text as well.
        draw: whether to draw the figures as well.

    Raises:
        Wrong: what was read is not what was written.
    """
    told = [
        check_record(study, whole, draw=draw, text=text),
        check_model(study),
        check_weights(study, whole),
        check_opening(study, whole.spec),
    ]
    return next((outcome for outcome in told if outcome), "of no consequence")


def check_record(study: Folder, whole: StudyRecord, *, text: bool, draw: bool) -> str:
    """Read the record; returns what is said of it."""
    try:
        record = read_record(study)
    except InputError as error:
        check_line(error)
        return "refused in one line"
    compare(record, whole)
    if len(record.results) + len(record.damaged) < len(whole.results):
        raise Wrong("a stack is missing, and nothing is said of it")
    if text:
        summarise(record, reach_verdict(record))
    if draw:
        conclude(study)
    if record.damaged:
        return "named"
    gone = [record.labels is None, record.validation is None, record.best is None]
    gone += [not record.timings, record.failures != whole.failures]
    return "left out" if any(gone) else ""


def compare(record: StudyRecord, whole: StudyRecord) -> None:
    """Check that what is read of the results is what was written."""
    written = {result.key: result for result in whole.results}
    for result in record.results:
        same = content_of(result) == content_of(written[result.key])
        if not same:
            raise Wrong(f"{result.key} was read with other content")
    if record.labels is not None and not np.array_equal(record.labels, LABELS):
        raise Wrong("labels were read with other content")
    ours, theirs = record.validation, whole.validation
    if ours is not None and theirs is not None and content_of(ours) != content_of(theirs):
        raise Wrong("the winner's validation was read with other content")


def check_model(study: Folder) -> str:
    """Read the model; returns what is said of it."""
    try:
        load_classifier(study / "best")
    except InputError as error:
        check_line(error)
        return "refused in one line"
    return ""


def check_weights(study: Folder, whole: StudyRecord) -> str:
    """Read every trial's weights and the checkpoint, as a study that grows does."""
    key = whole.spec.key
    said = ""
    for result in whole.results:
        trials = [member.name for member in result.stack.members]
        try:
            found = read_weights(study, key, result.key, trials)
        except DamagedError as error:
            check_line(error)
            said = "named"
            continue
        if content_of(found) != content_of([weights_of(trial) for trial in trials]):
            raise Wrong(f"weights of {result.key} were read with other content")
    try:
        begun = Training.of(STACK, init_mlp(SIZES, seed=1, members=2))
        training = read_checkpoint(study, key, "in-training", begun)
    except DamagedError as error:
        check_line(error)
        return "named"
    if state_of(training) != state_of(make_training()):
        raise Wrong("a checkpoint was read with other content")
    return said


def check_opening(study: Folder, spec: StudySpec) -> str:
    """Open the study to train what is missing; nothing may be damaged afterwards."""
    before = {str(path) for path in Path(str(study)).rglob("*") if path.is_file()}
    try:
        claim(study, spec, Console(quiet=True))
    except InputError as error:
        check_line(error)
        return "refused in one line"
    write_spec(study, spec)
    if left := read_record(study).damaged:
        raise Wrong(f"still damaged after it was opened: {left}")
    after = {str(path) for path in Path(str(study)).rglob("*") if path.is_file()}
    return "set aside" if before - after else ""


def content_of(thing: Any) -> Any:
    """Return something that is equal for equal content, NaN included."""
    if is_dataclass(thing) and not isinstance(thing, type):
        return content_of(asdict(thing))
    if isinstance(thing, dict):
        return {name: content_of(value) for name, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [content_of(value) for value in thing]
    if hasattr(thing, "shape"):
        array = np.asarray(thing)
        return array.dtype.str, array.shape, array.tobytes()
    return repr(thing)


def check_line(error: Exception) -> None:
    """Check that an error is one line."""
    if not str(error) or len(str(error).splitlines()) != 1:
        raise Wrong(f"{error!r} is not one line")


def fuzz(files: int, seed: int, folder: Path) -> Counter[str]:
    """Damage so many files; returns how often came what.

    Raises:
        Wrong: a damaged file was used, or not refused in one line.
    """
    _study, whole = make_study(folder / "whole")
    names = sorted(
        path.relative_to(folder / "whole")
        for path in (folder / "whole").rglob("*")
        if path.is_file()
    )
    contents = {name: (folder / "whole" / name).read_bytes() for name in names}
    chance, outcomes, others = random.Random(seed), Counter[str](), list(contents.values())
    for number in range(files):
        name = chance.choice(names)
        while (damaged := damage(contents[name], chance, others)) == contents[name]:
            continue
        place = folder / "damaged"
        shutil.copytree(folder / "whole", place)
        (place / name).write_bytes(damaged)
        try:
            came = read_all(
                Folder.at(place),
                whole,
                text=name.suffix == ".json",
                draw=number % DRAWN_EVERY == 0,
            )
        except Exception as error:
            kept = Path(tempfile.mkdtemp(prefix="fuzz-")) / name.name
            kept.write_bytes(damaged)
            raise Wrong(f"file {number}, {name}, kept as {kept}: {error!r}") from error
        outcomes[f"{name.parts[0]}: {came}"] += 1
        shutil.rmtree(place)
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and print what came; an exception says what went wrong."""
    parser = argparse.ArgumentParser(description="Damage a study's files, and read them.")
    parser.add_argument("--files", type=int, default=20_000, help="how many to damage")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of damage")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        outcomes = fuzz(options.files, options.seed, Path(folder))
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:7,} {outcome}")
    print(f"{outcomes.total():7,} damaged files: no result changed, no traceback")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Predictions of a saved model: written to a file, and scored if the labels are known.

Letters: B images of a block, D pixels of an image, C = 10 classes.
"""

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from digitrec.data.blocks import Block, spell_size
from digitrec.data.readers import read_blocks
from digitrec.errors import InputError
from digitrec.space.shape import CLASSES
from digitrec.winner.classifier import Classifier
from digitrec.winner.output import check_target, written_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The comparison of predictions with labels."""

    confusion: NDArray[np.int64]
    """Number of images by label, the row, and predicted label, the column; (C, C)."""

    @property
    def right(self) -> int:
        """The number of images that were recognised."""
        return int(self.confusion.trace())

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The size and the score of a file of predictions."""

    images: int
    score: Score | None  # None: the images have no labels


def write_predictions(
    classifier: Classifier,
    source: str,
    target: str,
    *,
    directory: Path | None,
    probabilities: bool,
    console: Console,
) -> Predictions:
    """Predict the digits of a source, write them to a file, and score them if there are labels.

    The file is in the format of Kaggle's Digit Recognizer, `ImageId,Label`, ids from 1. Memory
    does not grow with the number of images.

    Args:
        classifier: the model.
        source: a source that `readers.read_blocks` reads.
        target: the file to write, whole or not at all.
        directory: of the study, where the target must not be; None: not on this machine.
        probabilities: whether to add columns `probability0` to `probability9`.
        console: for the progress bar, shown in a terminal only.

    Raises:
        InputError: the source cannot be read, its images do not fit the model, or the target
            cannot be written.
    """
    path = check_target(target)
    _check_is_another_file(source, path, target)
    if directory is not None and path.is_relative_to(directory.resolve()):
        raise InputError(
            f"{target}: this lies in the study directory, whose files are the study's own; give "
            "--to a name elsewhere"
        )
    images, confusion, labelled = 0, np.zeros((CLASSES, CLASSES), np.int64), False
    with (
        closing(read_blocks(source, labels_required=False)) as blocks,
        closing(_shown(blocks, console)) as shown,
        written_whole(path) as file,
    ):
        file.write(_header(probabilities))
        for block in shown:
            _check_pixels(source, block, classifier)
            scores = classifier.log_probabilities(block.images)  # (B, C)
            predicted = scores.argmax(axis=1)
            _write_rows(file, images, predicted, np.exp(scores) if probabilities else None)
            images += len(predicted)
            if block.labels is not None:
                labelled = True
                np.add.at(confusion, (block.labels, predicted), 1)
    return Predictions(images=images, score=Score(confusion=confusion) if labelled else None)


def _check_is_another_file(source: str, path: Path, target: str) -> None:
    images = os.path.expanduser(source)
    if path.exists() and os.path.exists(images) and os.path.samefile(path, images):
        raise InputError(f"{target}: this is the file of images; give --to another name")
    if os.path.isdir(images) and path.is_relative_to(Path(images).resolve()):
        raise InputError(f"{target}: this lies among the images; give --to a name elsewhere")


def _check_pixels(source: str, block: Block, classifier: Classifier) -> None:
    pixels = block.images.shape[1]
    if pixels != classifier.pixels:
        raise InputError(
            f"{source}: images of {spell_size(pixels)}; the model takes "
            f"{spell_size(classifier.pixels)}"
        )


def _shown(blocks: Generator[Block, None, None], console: Console) -> Generator[Block, None, None]:
    """Yield the blocks; in a terminal, show the share of the source that has been read."""
    columns = (
        TextColumn("{task.fields[images]:,} images"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    images = 0
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=1.0, images=0)
        for block in blocks:
            yield block
            images += len(block.images)
            progress.update(task, completed=block.share, images=images)


def _header(probabilities: bool) -> bytes:
    names = ["ImageId", "Label"]
    if probabilities:
        names += [f"probability{digit}" for digit in range(CLASSES)]
    return f"{','.join(names)}\n".encode()


def _write_rows(
    file: BinaryIO,
    rows_before: int,
    predicted: NDArray[np.int64],
    probabilities: NDArray[np.float32] | None,
) -> None:
    ids = range(rows_before + 1, rows_before + len(predicted) + 1)
    lines = [f"{number},{digit}" for number, digit in zip(ids, predicted.tolist(), strict=True)]
    if probabilities is not None:
        texts = [",".join(f"{p:.6g}" for p in row) for row in probabilities.tolist()]
        lines = [f"{line},{text}" for line, text in zip(lines, texts, strict=True)]
    file.write("".join(f"{line}\n" for line in lines).encode())

"""The options of the peers' programs, and when they are to stop."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch

WORKERS = 2  # processes that train, one thread each


@dataclass(frozen=True, slots=True)
class Question:
    """A search that a peer is asked for."""

    data: Path  # the rows to search with
    out: Path  # where events and the peer's own files go
    seed: int
    seconds: float | None  # since `begun`; None: no limit
    trials: int | None  # None: no limit
    begun: float  # when the search's command was started, in Unix seconds
    augmentation: bool
    worker: int
    method: str

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.seconds is not None and time.time() - self.begun >= self.seconds

    @property
    def left(self) -> float | None:
        """The seconds that are left; None: there is no limit."""
        return None if self.seconds is None else self.seconds - (time.time() - self.begun)


def parse_question(description: str | None, methods: tuple[str, ...] = ("",)) -> Question:
    """Return the question on the command line, and let PyTorch use one thread."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a file of labelled digits")
    parser.add_argument("--out", type=Path, required=True, help="folder for events and logs")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--seconds", type=float, help="stop after so many")
    parser.add_argument("--trials", type=int, help="stop after so many")
    parser.add_argument("--begun", type=float, default=time.time(), help="when the clock started")
    parser.add_argument("--augmentation", action="store_true", help="search it as well")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=methods, default=methods[0])
    torch.set_num_threads(1)
    return Question(**vars(parser.parse_args()))

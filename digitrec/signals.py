"""SIGTERM, which a cluster or an operating system sends, treated as a person's Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Let SIGTERM do in this block what Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    take_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def take_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does, again after somebody else has taken it, as Ray does."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)

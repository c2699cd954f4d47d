"""SIGTERM treated as a person's Ctrl-C, and Ctrl-C put off where it would do harm.

Ray's core has a handler of its own for SIGTERM, which aborts the process, and it is in force for a
part of Ray's start; any thread may be the one that it runs in. So SIGTERM is blocked in all threads
and a thread of ours waits for it.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import FrameType


@contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Let SIGTERM do in this block what Ctrl-C does.

    To be entered before threads are started. Those that there are already do not block SIGTERM: one
    of them may get it, run whatever handler is in force, and not wake the main thread.

    Where Ctrl-C is ignored, as scripts have it for what they start in the background, it no longer
    is: SIGTERM could not be told from it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _unblock_in_children()
    handler = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ended, woken = threading.Event(), threading.Event()
    waiter = threading.Thread(target=_pass_on, args=(ended, woken), daemon=True)
    waiter.start()
    try:
        yield
    finally:
        ended.set()
        assert waiter.ident is not None, "a thread that was started has one"
        signal.pthread_kill(waiter.ident, signal.SIGTERM)
        woken.set()
        waiter.join()
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Interrupted(Exception):
    """A Ctrl-C, at a point where it is safe to stop."""


@dataclass(slots=True)
class Interruption:
    """Whether there was a Ctrl-C that has yet to take effect."""

    came: bool = False

    def check(self) -> None:
        """Let a Ctrl-C take effect here.

        Raises:
            Interrupted: there was one.
        """
        if self.came:
            raise Interrupted


@contextmanager
def sigint_noted() -> Iterator[Interruption]:
    """Only note the first Ctrl-C in this block; the second has its effect at once.

    Outside the main thread, which is the one that signals interrupt, there is nothing to note.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        interruption.came = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def sigint_put_off() -> Iterator[None]:
    """Put the first Ctrl-C in this block off until its end; the second has its effect at once."""
    with sigint_noted() as interruption:
        yield
    if interruption.came:
        signal.raise_signal(signal.SIGINT)


def _pass_on(ended: threading.Event, woken: threading.Event) -> None:
    """Turn every SIGTERM into a SIGINT of the main thread, which its system calls notice."""
    main = threading.main_thread().ident
    assert main is not None, "the main thread runs"
    while True:
        signal.sigwait({signal.SIGTERM})
        if ended.is_set():
            woken.wait()  # a thread that has ended must not be sent a signal
            return
        signal.pthread_kill(main, signal.SIGINT)


@cache
def _unblock_in_children() -> None:
    """Let the processes that are forked from this one, as Ray's are, end on SIGTERM."""
    os.register_at_fork(
        after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    )

"""SIGTERM treated like Ctrl-C, and Ctrl-C deferred where it would do harm.

During part of its start, Ray's core handles SIGTERM itself and aborts the process; any thread may
run that handler. So SIGTERM is blocked in all threads, and a thread of this module waits for it.
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
    """Give SIGTERM the effect of Ctrl-C in this block.

    Enter this before starting threads: existing threads do not block SIGTERM, so one of them may
    receive it, run the current handler and not wake the main thread.

    If Ctrl-C was ignored, as shells do for background processes of scripts, it no longer is:
    otherwise SIGTERM would be ignored too.
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
        assert waiter.ident is not None, "a started thread has an identifier"
        signal.pthread_kill(waiter.ident, signal.SIGTERM)
        woken.set()
        waiter.join()
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Interrupted(Exception):
    """A Ctrl-C that takes effect at a point where it is safe to stop."""


@dataclass(slots=True)
class Interruption:
    """Whether a Ctrl-C came that has not taken effect yet."""

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
    """Only note the first Ctrl-C in this block; the second takes effect at once.

    Outside the main thread this does nothing, since signals interrupt the main thread only.
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
    """Defer the first Ctrl-C in this block until its end; the second takes effect at once."""
    with sigint_noted() as interruption:
        yield
    if interruption.came:
        signal.raise_signal(signal.SIGINT)


def _pass_on(ended: threading.Event, woken: threading.Event) -> None:
    """Turn every SIGTERM into a SIGINT to the main thread, which interrupts its system calls."""
    main = threading.main_thread().ident
    assert main is not None, "the main thread runs"
    while True:
        signal.sigwait({signal.SIGTERM})
        if ended.is_set():
            woken.wait()  # a thread that has ended must not be sent a signal
            return
        signal.pthread_kill(main, signal.SIGINT)


@contextmanager
def sigterm_unblocked() -> Iterator[None]:
    """Let processes that this thread starts in this block receive SIGTERM.

    `subprocess` does not run what `os.register_at_fork` registers.
    """
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@cache
def _unblock_in_children() -> None:
    """Unblock SIGTERM in processes forked from this one, such as Ray's, so that it ends them."""
    os.register_at_fork(
        after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    )

"""The live page from a process of its own, beside a study."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from digitrec.results.live.server import NICENESS, LiveServer
from digitrec.store.folder import Folder

PATIENCE = 5.0  # seconds that the process has to end


@contextmanager
def served_beside(directory: Folder) -> Iterator[str]:
    """Serve the live page for the length of the block; yield its address.

    The process ends when this one does, even if this one is killed.

    Raises:
        OSError: it did not start.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(directory, theirs), daemon=True)
    with _sigint_ignored():  # a Ctrl-C is for the study, which then ends the page
        process.start()
    theirs.close()
    try:
        try:
            url = ours.recv()
        except EOFError as error:
            raise OSError("the live page did not start") from error
        yield url
    finally:
        ours.close()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()


def _serve(directory: Folder, pipe: Connection) -> None:
    """Serve until the other end of the pipe is closed."""
    os.nice(NICENESS)
    with LiveServer(directory) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pipe.send(server.url)
        with suppress(EOFError, OSError):
            pipe.recv()


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Ignore Ctrl-C in this block and in the processes that it starts."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

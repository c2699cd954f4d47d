"""One run at a time in a study directory.

On a file system the operating system holds the lock, and lets go of it when the process ends,
however it ends. An object store has no locks: there a run keeps an object alive by writing it anew
every few seconds, and one that stands still is that of a run that has died.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from digitrec.errors import InputError
from digitrec.storage import Storage

NAME = ".lock"
BEAT_SECONDS = 5.0  # between two signs of life
STALE_SECONDS = 20.0  # without a sign of life, after which a run counts as dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who works in a study directory."""

    host: str
    pid: int
    since: str  # local time
    token: str  # of the run
    beat: int = 0  # signs of life given

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def locked(study: Storage) -> Iterator[None]:
    """Hold a study directory, which exists, for the length of the block.

    Raises:
        InputError: another run holds it.
    """
    me = Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=f"{time.strftime('%Y-%m-%d %H:%M:%S')}",
        token=uuid.uuid4().hex,
    )
    with _file_lock(study, study.path, me) if study.path else _object_lock(study, me):
        yield


def check_free(study: Storage) -> None:
    """Check at little cost that no run on this machine holds a directory, which need not exist.

    Raises:
        InputError: another run holds it.
    """
    if study.path is None or not (study.path / NAME).exists():
        return
    try:
        file = os.open(study.path / NAME, os.O_RDONLY)
    except OSError:  # what is wrong with it is told when the directory is opened
        return
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held(study, _read(study)) from error
    finally:
        os.close(file)


@contextmanager
def _file_lock(study: Storage, path: Path, me: Holder) -> Iterator[None]:
    file = os.open(path / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    with ExitStack() as closing:
        closing.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(study, _read(study)) from error
        os.truncate(file, 0)
        os.write(file, json.dumps(asdict(me)).encode())
        yield
        os.truncate(file, 0)


@contextmanager
def _object_lock(study: Storage, me: Holder) -> Iterator[None]:
    _wait_until_stale(study)
    _write(study, me, beat=0)
    holder = _read(study)
    if holder is None or holder.token != me.token:  # somebody else wrote at the same moment
        raise _held(study, holder)
    ended = threading.Event()

    def keep_alive() -> None:
        beat = 0
        while not ended.wait(BEAT_SECONDS):
            beat += 1
            _write(study, me, beat)

    heart = threading.Thread(target=keep_alive, daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        study.remove(NAME)


def _wait_until_stale(study: Storage) -> None:
    first = _read(study)
    deadline = time.monotonic() + STALE_SECONDS
    while first is not None and not _is_dead(first) and time.monotonic() < deadline:
        time.sleep(1)
        now = _read(study)
        if now is None:
            return
        if now != first:
            raise _held(study, now)


def _is_dead(holder: Holder) -> bool:
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _read(study: Storage) -> Holder | None:
    try:
        return Holder(**json.loads(study.read(NAME)))
    except (FileNotFoundError, ValueError, TypeError):  # none, or being written
        return None


def _write(study: Storage, me: Holder, beat: int) -> None:
    study.write(NAME, json.dumps(asdict(me) | {"beat": beat}).encode())


def _held(study: Storage, holder: Holder | None) -> InputError:
    who = holder or "another run"
    return InputError(
        f"{study} is in use by {who}. Wait for it to end, or stop it; then give the command again"
    )

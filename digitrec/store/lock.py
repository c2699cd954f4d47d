"""One run at a time in a study directory.

On a file system the operating system holds the lock, and lets go of it when the process ends,
however it ends. An object store has no locks: there a run keeps an object alive by writing it anew
every few seconds, and one that stands still is that of a run that has died.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from digitrec.errors import InputError
from digitrec.store.folder import Folder

NAME = ".lock"
BEAT_SECONDS = 5.0  # between two signs of life
STALE_SECONDS = 20.0  # without a sign of life, after which a run counts as dead
SETTLING_SECONDS = 1.0  # in which two runs that write at the same moment see each other


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOwner:
    """Who works in a study directory."""

    host: str
    pid: int
    since: str  # local time
    token: str  # of the run
    beat: int = 0  # signs of life given

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Lock(ABC):
    """The hold on a study directory."""

    @abstractmethod
    def check(self) -> None:
        """Check that the directory is still there, and still ours.

        Raises:
            OSError: it is not.
        """


@contextmanager
def locked(study: Folder) -> Iterator[Lock]:
    """Hold a study directory, which exists, for the length of the block.

    Raises:
        InputError: another run holds it.
    """
    me = LockOwner(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=f"{time.strftime('%Y-%m-%d %H:%M:%S')}",
        token=uuid.uuid4().hex,
    )
    with _file_lock(study, study.path, me) if study.path else _object_lock(study, me) as lock:
        yield lock


def check_free(study: Folder) -> None:
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


class FileLock(Lock):
    """A lock of the operating system on a file that stays open."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file

    def check(self) -> None:
        """Check that the file in the directory is the one that is open."""
        try:
            there = os.path.samestat(os.stat(self._path / NAME), os.fstat(self._file))
        except FileNotFoundError:
            there = False
        if not there:
            raise FileNotFoundError(
                errno.ENOENT, "the study directory was removed or replaced", str(self._path)
            )


@contextmanager
def _file_lock(study: Folder, path: Path, me: LockOwner) -> Iterator[Lock]:
    file = os.open(path / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    with ExitStack() as closing:
        closing.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(study, _read(study)) from error
        os.truncate(file, 0)
        os.write(file, json.dumps(asdict(me)).encode())
        yield FileLock(path, file)
        os.truncate(file, 0)


class ObjectLock(Lock):
    """An object that is written anew every few seconds."""

    def __init__(self, study: Folder, me: LockOwner) -> None:
        self._study = study
        self._me = me
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._keep_alive, daemon=True)
        self._lost: OSError | None = None

    def check(self) -> None:
        """Check that nobody else has written the object."""
        if self._lost:
            raise self._lost

    def __enter__(self) -> "ObjectLock":
        _write(self._study, self._me, beat=0)
        time.sleep(SETTLING_SECONDS)
        holder = _read(self._study)
        if holder is None or holder.token != self._me.token:
            raise _held(self._study, holder)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heart.join()
        if self._lost is None:
            self._study.remove(NAME)

    def _keep_alive(self) -> None:
        beat = 0
        while self._lost is None and not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                holder = _read(self._study)
                if holder is not None and holder.token != self._me.token:
                    self._lost = OSError(f"{_held(self._study, holder)}")
                else:
                    _write(self._study, self._me, beat)
            except OSError as error:  # after a minute's attempts
                self._lost = error


@contextmanager
def _object_lock(study: Folder, me: LockOwner) -> Iterator[Lock]:
    _wait_until_stale(study)
    with ObjectLock(study, me) as lock:
        yield lock


def _wait_until_stale(study: Folder) -> None:
    first = _read(study)
    deadline = time.monotonic() + STALE_SECONDS
    while first is not None and not _is_dead(first) and time.monotonic() < deadline:
        time.sleep(1)
        now = _read(study)
        if now is None:
            return
        if now != first:
            raise _held(study, now)


def _is_dead(holder: LockOwner) -> bool:
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _read(study: Folder) -> LockOwner | None:
    try:
        return LockOwner(**study.read_json(NAME))
    except (FileNotFoundError, ValueError, TypeError):  # none, or being written
        return None


def _write(study: Folder, me: LockOwner, beat: int) -> None:
    study.write(NAME, json.dumps(asdict(me) | {"beat": beat}).encode())


def _held(study: Folder, holder: LockOwner | None) -> InputError:
    who = holder or "another run"
    return InputError(
        f"{study} is in use by {who}. Wait for it to end, or stop it; then give the command again"
    )

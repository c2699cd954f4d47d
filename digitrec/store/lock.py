"""A lock that admits one run at a time to a study directory.

On a file system the operating system holds the lock and releases it whenever and however the
process ends. An object store has no locks: there a run rewrites an object every few seconds, and
an object that no longer changes belongs to a dead run.
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

from digitrec.errors import DamagedError, InputError, visible
from digitrec.store.folder import Folder, open_regular

NAME = ".lock"
BEAT_SECONDS = 5.0  # between two heartbeats
STALE_SECONDS = 20.0  # without a heartbeat until a run counts as dead
SETTLING_SECONDS = 1.0  # until two runs that write at the same moment see each other
MOST_BYTES = 4096  # of the file
MOST_PID = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOwner:
    """The run that holds the lock on a study directory."""

    host: str
    pid: int
    since: str  # local time
    token: str  # of the run
    beat: int = 0  # heartbeats so far

    def __str__(self) -> str:
        return visible(f"process {self.pid} on {self.host} since {self.since}")


class Lock(ABC):
    """A held lock on a study directory."""

    @abstractmethod
    def check(self) -> None:
        """Check that the directory still exists and this run still holds the lock.

        Raises:
            OSError: the directory is gone, or another run holds the lock.
        """


@contextmanager
def locked(directory: Folder) -> Iterator[Lock]:
    """Lock an existing study directory for the length of the block.

    Raises:
        InputError: another run holds the lock, or something else has the name of its file.
    """
    me = LockOwner(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        token=uuid.uuid4().hex,
    )
    path = directory.path
    with _file_lock(directory, path, me) if path else ObjectLock(directory, me) as lock:
        yield lock


def check_free(directory: Folder) -> None:
    """Check quickly that no run on this machine holds a directory, which need not exist.

    Raises:
        InputError: another run holds the lock, or something else has the name of its file.
    """
    if directory.path is None:
        return
    try:
        file = _open(directory.path, os.O_RDONLY)
    except OSError:  # no lock, or an error that is reported when the directory is opened
        return
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held(directory, _read(directory)) from error
    finally:
        os.close(file)


class FileLock(Lock):
    """A lock of the operating system on an open file."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file

    def check(self) -> None:
        """Check that the lock file in the directory is still the open one."""
        try:
            there = os.path.samestat(os.lstat(self._path / NAME), os.fstat(self._file))
        except FileNotFoundError:
            there = False
        if not there:
            raise FileNotFoundError(
                errno.ENOENT, "the study directory was removed or replaced", str(self._path)
            )


@contextmanager
def _file_lock(directory: Folder, path: Path, me: LockOwner) -> Iterator[Lock]:
    file = _open(path, os.O_RDWR | os.O_CREAT)
    with ExitStack() as closing:
        closing.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(directory, _read(directory)) from error
        _check_ours(path / NAME, file)
        os.truncate(file, 0)
        os.write(file, json.dumps(asdict(me)).encode())
        yield FileLock(path, file)
        os.truncate(file, 0)


def _open(path: Path, flags: int) -> int:
    """Open the lock file of a directory; return its descriptor.

    Raises:
        InputError: it is a link, a pipe, a device or a directory.
        OSError: it cannot be opened.
    """
    try:
        return open_regular(path / NAME, flags)
    except DamagedError as error:
        raise _foreign(path / NAME, str(error)) from error


def _check_ours(path: Path, file: int) -> None:
    """Check that a file is empty or holds the owner of a lock, before it is overwritten.

    Raises:
        InputError: it belongs to another program, or has a second name.
    """
    content = os.pread(file, MOST_BYTES + 1, 0).strip(b"\0")  # zeros: the machine lost power
    if len(content) > MOST_BYTES or (content and not content.startswith(b'{"host": ')):
        raise _foreign(path, "it is not a lock of digitrec")
    if os.fstat(file).st_nlink > 1:
        raise _foreign(path, "it is a hard link to another file")


def _foreign(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}. Remove it, or give --out another directory")


class ObjectLock(Lock):
    """A lock in an object store: an object that is rewritten every few seconds."""

    def __init__(self, directory: Folder, me: LockOwner) -> None:
        self._directory = directory
        self._me = me
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._keep_alive, daemon=True)
        self._lost: OSError | None = None

    def check(self) -> None:
        """Check that no other run has written the object."""
        if self._lost:
            raise self._lost

    def __enter__(self) -> "ObjectLock":
        _wait_until_stale(self._directory)
        _write(self._directory, self._me, beat=0)
        time.sleep(SETTLING_SECONDS)
        holder = _read(self._directory)
        if holder is None or holder.token != self._me.token:
            raise _held(self._directory, holder)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heart.join()
        if self._lost is None:
            self._directory.remove(NAME)

    def _keep_alive(self) -> None:
        beat = 0
        while self._lost is None and not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                holder = _read(self._directory)
                if holder is not None and holder.token != self._me.token:
                    self._lost = OSError(f"{_held(self._directory, holder)}")
                else:
                    _write(self._directory, self._me, beat)
            except OSError as error:  # after a minute of attempts
                self._lost = error


def _wait_until_stale(directory: Folder) -> None:
    first = _read(directory)
    deadline = time.monotonic() + STALE_SECONDS
    while first is not None and not _is_dead(first) and time.monotonic() < deadline:
        time.sleep(1)
        now = _read(directory)
        if now is None:
            return
        if now != first:
            raise _held(directory, now)


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


def _read(directory: Folder) -> LockOwner | None:
    try:
        values = directory.read_json(NAME)
    except (FileNotFoundError, DamagedError):  # no lock, or one that is being written
        return None
    try:
        owner = LockOwner(**values)
    except TypeError:
        return None
    texts, pid = (owner.host, owner.since, owner.token), owner.pid
    is_ours = all(isinstance(text, str) for text in texts) and isinstance(pid, int)
    return owner if is_ours and 0 < pid < MOST_PID else None


def _write(directory: Folder, me: LockOwner, beat: int) -> None:
    directory.write(NAME, json.dumps(asdict(me) | {"beat": beat}).encode())


def _held(directory: Folder, holder: LockOwner | None) -> InputError:
    who = holder or "another run"
    return InputError(
        f"{directory} is in use by {who}. Wait for it to end or stop it, then run the command again"
    )

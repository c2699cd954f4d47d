"""Folders that hold a study: directories of a file system, or prefixes of an object store.

A file is written whole or not at all. On a file system it is written under a temporary name,
flushed to the disk and renamed; an object store shows an object once all of it has arrived.

Someone who can write into a study directory must not be able to redirect, block or exhaust the
program that reads it. So below the study directory no symbolic link is followed, only regular
files are opened, and a file is read only if its size is plausible.
"""

import json
import os
import re
import stat
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from digitrec.errors import DamagedError, InputError

PATIENCE = (0.5, 1, 2, 4, 8, 15, 30)  # seconds between the attempts to reach an object store
OBJECT_STORES = ("s3://", "gs://", "gcs://")
NO_PLACE = f"neither a path nor one of {', '.join(OBJECT_STORES)}"
SHARE_IT = "give --out a directory that all nodes share, or a URI such as s3://bucket/study"

MIB = 2**20
MOST_BYTES = 4096 * MIB  # of a file; the weights of a stack of 4,000 trials take this much
TENSORS = ".safetensors"  # how the names of files of tensors end
NOT_OURS = "it is cut short, damaged or not a file of digitrec"
MOST_JSON_BYTES = 8 * MIB  # the largest study.json has 1 MiB; parsing takes 30 times as much

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")

# Words of an object store's errors that another attempt would not resolve.
_FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE", "HTTP status 403")

Result = TypeVar("Result")


class Folder(ABC):
    """A folder. Names refer to files directly in it; `folder / name` is a folder within it."""

    @staticmethod
    def at(place: str | Path) -> "Folder":
        """Return the folder at a path or a URI; it need not exist.

        Raises:
            InputError: the URI is malformed, or pyarrow does not know its object store.
        """
        text = str(place)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
            if not text:
                raise InputError(f"{place}: a path is missing behind file://")
        if text.startswith(OBJECT_STORES):
            return BucketFolder(text)
        if "://" in text:
            raise InputError(f"{text}: {NO_PLACE}")
        return LocalFolder(Path(text).expanduser().resolve())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """The last part of its path or URI."""
        return str(self).partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def path(self) -> Path | None:
        """Its path on the local file system; None on an object store."""
        return None

    @abstractmethod
    def __truediv__(self, name: str) -> "Folder":
        """Return the folder of this name within this one."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder, and check that it can be written to.

        Raises:
            OSError: it cannot be made or written to.
        """

    @abstractmethod
    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: no file has this name.
            DamagedError: it has more than `most` bytes, or is a link, a pipe, a device or a
                directory.
            OSError: it cannot be read.
        """

    def read_json(self, name: str) -> Any:
        """Return the value in a JSON file.

        Raises:
            FileNotFoundError: no file has this name.
            DamagedError: it is not a JSON file of a plausible size.
            OSError: it cannot be read.
        """
        content = self.read(name, MOST_JSON_BYTES)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DamagedError("it is cut short, damaged or not JSON") from error

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, in place of an earlier one."""

    @abstractmethod
    def names(self, suffix: str = "") -> list[str]:
        """Return the names of the files that end in `suffix`, sorted, without hidden ones.

        A folder that does not exist has none. A directory whose name ends in a suffix is listed
        too, so that it is reported as damage: it takes the place of a file.
        """

    @abstractmethod
    def entries(self) -> list[str]:
        """Return the names of files and folders, sorted, without hidden ones.

        A folder's name ends in `/`.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    @abstractmethod
    def move(self, name: str, folder: "Folder", to: str) -> None:
        """Move a file to a folder of the same storage, in place of an earlier one."""


class LocalFolder(Folder):
    """A directory, or a directory below it that is reached without following a link."""

    def __init__(self, root: Path, inner: tuple[str, ...] = ()) -> None:
        self._root = root
        self._inner = inner

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(self._root, (*self._inner, name))

    @property
    def path(self) -> Path:
        """Its path."""
        return self._root.joinpath(*self._inner)

    def prepare(self) -> None:
        """Make the directory, and check that it can be written to."""
        self._root.mkdir(parents=True, exist_ok=True)
        with _named(self.path), self._opened(make=True) as directory:
            temporary = _temporary_name()
            os.close(open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, directory))
            os.unlink(temporary, dir_fd=directory)

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return the content of a file."""
        with (
            _named(self.path / name),
            self._opened() as directory,
            open(open_regular(name, os.O_RDONLY, directory), "rb") as file,
        ):
            size = os.fstat(file.fileno()).st_size
            _check_size(size, most)
            if name.endswith(TENSORS):
                _check_tensors(file, size)
            return file.read(size)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Missing directories are made, but not the parent of the study directory: if a study's disk
        disappears, the study must not start again on another one.
        """
        with _named(self.path / name), self._opened(make=True) as directory:
            temporary = _temporary_name()  # short, and unique to this writer
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            try:
                with open(open_regular(temporary, flags, directory), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            finally:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)

    def names(self, suffix: str = "") -> list[str]:
        """Return the names of the files that end in `suffix`, sorted, without hidden ones."""
        return [
            name.removesuffix("/")
            for name in self.entries()
            if name.removesuffix("/").endswith(suffix) and (suffix or not name.endswith("/"))
        ]

    def entries(self) -> list[str]:
        """Return the names of files and folders, sorted, without hidden ones."""
        try:
            with (
                _named(self.path),
                self._opened() as directory,
                os.scandir(directory) as found,
            ):
                names = [
                    entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                    for entry in found
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with suppress(FileNotFoundError), _named(self.path / name), self._opened() as directory:
            os.unlink(name, dir_fd=directory)

    def move(self, name: str, folder: Folder, to: str) -> None:
        """Move a file to another directory, in place of an earlier one."""
        assert isinstance(folder, LocalFolder), "a directory's files move to directories"
        with (
            _named(self.path / name),
            self._opened() as here,
            folder._opened(make=True) as there,
        ):
            os.replace(name, to, src_dir_fd=here, dst_dir_fd=there)

    def remove_temporaries(self) -> None:
        """Remove the temporary files of killed writers; no other process may be writing here."""
        with suppress(FileNotFoundError), _named(self.path), self._opened() as directory:
            with os.scandir(directory) as found:
                left = [
                    entry.name
                    for entry in found
                    if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                ]
            for name in left:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int]:
        """Open the directory without following a link below the root; yield its descriptor."""
        if make and not self._inner:
            self._root.mkdir(exist_ok=True)
        directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in self._inner:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=directory)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                inner = os.open(name, flags, dir_fd=directory)
                os.close(directory)
                directory = inner
            yield directory
        finally:
            os.close(directory)


class BucketFolder(Folder):
    """A prefix of a bucket, reached through pyarrow.

    Only the URI is pickled: a worker finds the credentials in its own environment. A failed
    operation is retried for a minute, so that a study survives when the store does not answer for
    some seconds.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._opened: tuple[Any, str] | None = None

    def __reduce__(self) -> tuple[type["BucketFolder"], tuple[str]]:
        return BucketFolder, (self.uri,)

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "BucketFolder":
        place, question_mark, options = self.uri.partition("?")
        inner = BucketFolder(f"{place.rstrip('/')}/{name}{question_mark}{options}")
        if self._opened:
            filesystem, path = self._opened
            inner._opened = filesystem, f"{path}/{name}"
        return inner

    def prepare(self) -> None:
        """Check in a single attempt that the prefix can be written to."""
        self._attempt(lambda filesystem, path: _put(filesystem, f"{path}/.probe", b""), patience=())
        self.remove(".probe")

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return the content of an object."""

        def get(filesystem: Any, path: str) -> bytes:
            with filesystem.open_input_file(f"{path}/{name}") as file:
                size = file.size()
                _check_size(size, most)
                content: bytes = file.read(size)
            return content

        return self._attempt(get)

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        self._attempt(lambda filesystem, path: _put(filesystem, f"{path}/{name}", content))

    def names(self, suffix: str = "") -> list[str]:
        """Return the names of the objects that end in `suffix`, sorted, without hidden ones."""
        return [name for name in self.entries() if name.endswith(suffix) and name[-1] != "/"]

    def entries(self) -> list[str]:
        """Return the names of objects and prefixes, sorted, without hidden ones."""

        def find(filesystem: Any, path: str) -> list[str]:
            from pyarrow.fs import FileSelector

            found = filesystem.get_file_info(FileSelector(path, allow_not_found=True))
            names = (info.base_name + ("" if info.is_file else "/") for info in found)
            return sorted(name for name in names if not name.startswith("."))

        return self._attempt(find)

    def remove(self, name: str) -> None:
        """Remove an object if it exists."""

        def delete(filesystem: Any, path: str) -> None:
            try:
                filesystem.delete_file(f"{path}/{name}")
            except FileNotFoundError:
                return

        self._attempt(delete)

    def move(self, name: str, folder: Folder, to: str) -> None:
        """Move an object to another prefix, in place of an earlier one."""
        folder.write(to, self.read(name))
        self.remove(name)

    def _attempt(
        self, operation: Callable[[Any, str], Result], patience: Sequence[float] = PATIENCE
    ) -> Result:
        filesystem, path = self._open()
        for pause in (*patience, None):
            try:
                return operation(filesystem, path)
            except FileNotFoundError:
                raise
            except OSError as error:
                if pause is None or any(word in str(error) for word in _FINAL):
                    raise OSError(f"{self.uri}: {brief(error)}") from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            self._opened = open_uri(self.uri)
        return self._opened


def open_regular(name: str | Path, flags: int, directory: int | None = None) -> int:
    """Open a regular file; return its descriptor.

    A symbolic link is not followed, a device is not opened, and a pipe is not waited for. The flags
    are those of `os.open`; a relative name starts from the directory with this descriptor.

    Raises:
        FileNotFoundError: no file has this name.
        DamagedError: the name is that of a link, a pipe, a device, a socket or a directory.
        OSError: it cannot be opened.
    """
    with suppress(FileNotFoundError):  # `os.open` makes the file or raises the same
        _check_regular(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK  # the file may have been replaced since the check
    descriptor = os.open(name, flags, 0o666, dir_fd=directory)
    try:
        _check_regular(os.fstat(descriptor).st_mode)
    except DamagedError:
        os.close(descriptor)
        raise
    return descriptor


def kind_of(mode: int) -> str:
    """Return the kind of a file with this mode of `os.stat`, in words."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFDIR: "a directory",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def open_uri(uri: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URI, and the path within it.

    Raises:
        InputError: pyarrow does not accept the URI.
    """
    from pyarrow.fs import FileSystem  # only object stores need it

    try:
        filesystem, path = FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise InputError(f"{uri}: {brief(error)}") from error
    return filesystem, path.rstrip("/")


def brief(error: Exception) -> str:
    """Return an error of an object store as one short line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def describe_error(error: OSError) -> str:
    """Return an error of a file system or object store as `where: what`, without its number."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _put(filesystem: Any, path: str, content: bytes) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the whole path to an error of the block, since system calls get relative names."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _temporary_name() -> str:
    return f".{uuid.uuid4().hex}.tmp"


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise DamagedError(f"it is {kind_of(mode)}, not a regular file")


def _check_tensors(file: BinaryIO, size: int) -> None:
    """Check that a file of tensors has as many bytes as its header describes.

    So a file that only pretends to be large is refused before it takes memory.
    """
    try:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length if length <= MOST_JSON_BYTES else 0))
        parts = [part for name, part in header.items() if name != "__metadata__"]
        described = 8 + length + max((part["data_offsets"][1] for part in parts), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedError(NOT_OURS) from error
    if described != size:
        raise DamagedError(NOT_OURS)
    file.seek(0)


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise DamagedError(f"it has {size:,} bytes; digitrec reads at most {most:,} of such a file")

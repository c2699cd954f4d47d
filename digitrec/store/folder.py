"""Folders to keep a study in: of a file system, or of an object store such as S3.

A file is written whole or not at all. On a file system it gets a temporary name, is forced to the
disk and renamed; an object store shows an object once all of it has arrived.
"""

import json
import os
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from digitrec.errors import InputError

PATIENCE = (0.5, 1, 2, 4, 8, 15, 30)  # seconds between the attempts to reach an object store
OBJECT_STORES = ("s3://", "gs://", "gcs://")

# An object store's own words for what another attempt would not mend.
_FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE", "HTTP status 403")

Result = TypeVar("Result")


class Folder(ABC):
    """A folder. Names are of files directly in it; `folder / name` is a folder within."""

    @staticmethod
    def at(place: str | Path) -> "Folder":
        """Return the folder at a path or a URI; it need not exist.

        Raises:
            InputError: a URI that is of no object store that pyarrow knows, or not well formed.
        """
        text = str(place)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        if text.startswith(OBJECT_STORES):
            return BucketFolder(text)
        if "://" in text:
            raise InputError(f"{text}: neither a path nor one of {', '.join(OBJECT_STORES)}")
        return LocalFolder(Path(text).expanduser().resolve())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """The last part of where it is."""
        return str(self).partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def path(self) -> Path | None:
        """Where it is on the local file system; None: on an object store."""
        return None

    @abstractmethod
    def __truediv__(self, name: str) -> "Folder":
        """Return the folder of this name within."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder, and check that it can be written to.

        Raises:
            OSError: it cannot.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: there is none of this name.
            OSError: it cannot be read.
        """

    def read_json(self, name: str) -> Any:
        """Return what a file of JSON says.

        Raises:
            FileNotFoundError: there is none of this name.
            OSError: it cannot be read.
            ValueError: it is not JSON.
        """
        try:
            return json.loads(self.read(name))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, in place of an earlier one."""

    @abstractmethod
    def names(self, suffix: str = "") -> list[str]:
        """Return the names of the files that end in `suffix`, sorted; none without the folder."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; there need not be one."""

    @abstractmethod
    def move(self, name: str, folder: "Folder", to: str) -> None:
        """Move a file to a folder of the same storage, in place of an earlier one."""


class LocalFolder(Folder):
    """A directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(self._path / name)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    def prepare(self) -> None:
        """Make the directory, and check that it can be written to."""
        self._path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._path):
            pass

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self._path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        The directory is made where the one that it is in exists: that of a study whose disk has
        gone is not made again.
        """
        self._path.mkdir(exist_ok=True)
        temporary = self._path / f".{uuid.uuid4().hex}.tmp"  # short, and of this writer alone
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path / name)
        except OSError as error:
            error.filename, error.filename2 = str(self._path / name), None
            raise
        finally:
            with suppress(OSError):
                temporary.unlink()

    def names(self, suffix: str = "") -> list[str]:
        """Return the names of the files that end in `suffix`, without hidden ones."""
        if not self._path.is_dir():
            return []
        found = (entry.name for entry in os.scandir(self._path) if entry.is_file())
        return sorted(name for name in found if name.endswith(suffix) and name[0] != ".")

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._path / name).unlink(missing_ok=True)

    def move(self, name: str, folder: Folder, to: str) -> None:
        """Move a file to another directory."""
        assert folder.path is not None, "a directory's files move to directories"
        folder.path.mkdir(exist_ok=True)
        (self._path / name).replace(folder.path / to)

    def remove_temporaries(self) -> None:
        """Remove what writers that were killed left; nobody else may be writing."""
        for path in self._path.glob("**/.*.tmp"):
            path.unlink(missing_ok=True)


class BucketFolder(Folder):
    """A prefix of a bucket, reached through pyarrow.

    Only the URI is pickled: a worker finds the credentials in its own environment. What fails is
    tried again for a minute, since a study should outlive a store that is away for some seconds.
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
        """Check, without patience, that the prefix can be written to."""
        self._attempt(lambda filesystem, path: _put(filesystem, f"{path}/.probe", b""), patience=())
        self.remove(".probe")

    def read(self, name: str) -> bytes:
        """Return the content of an object."""

        def get(filesystem: Any, path: str) -> bytes:
            with filesystem.open_input_file(f"{path}/{name}") as file:
                content: bytes = file.read()
            return content

        return self._attempt(get)

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        self._attempt(lambda filesystem, path: _put(filesystem, f"{path}/{name}", content))

    def names(self, suffix: str = "") -> list[str]:
        """Return the names of the objects that end in `suffix`, without hidden ones."""

        def find(filesystem: Any, path: str) -> list[str]:
            from pyarrow.fs import FileSelector

            found = filesystem.get_file_info(FileSelector(path, allow_not_found=True))
            names = sorted(info.base_name for info in found if info.is_file)
            return [name for name in names if name.endswith(suffix) and name[0] != "."]

        return self._attempt(find)

    def remove(self, name: str) -> None:
        """Remove an object."""

        def delete(filesystem: Any, path: str) -> None:
            try:
                filesystem.delete_file(f"{path}/{name}")
            except FileNotFoundError:
                return

        self._attempt(delete)

    def move(self, name: str, folder: Folder, to: str) -> None:
        """Move an object to another prefix."""
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


def open_uri(uri: str) -> tuple[Any, str]:
    """Return pyarrow's file system of a URI, and the path within it.

    Raises:
        InputError: pyarrow cannot make sense of the URI.
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
    """Return an error of a storage as `where: what`, without the number of its kind."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _put(filesystem: Any, path: str, content: bytes) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)

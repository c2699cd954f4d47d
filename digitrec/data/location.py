"""Where a file of images is: on this machine, or in an object store such as S3."""

import io
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSystem, FileType, LocalFileSystem

from digitrec.errors import InputError
from digitrec.store.folder import NO_PLACE, OBJECT_STORES, brief, open_uri

Kind = Literal["CSV", "gzip", "Parquet"]

ACCEPTED = "'sample', 'openml' or a .csv, .csv.gz or .parquet file"
_KINDS: dict[str, Kind] = {".csv": "CSV", ".csv.gz": "gzip", ".parquet": "Parquet"}

# Google's client would retry for a quarter of an hour.
_RETRY_LIMIT = "retry_limit_seconds=30"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A regular file that existed when it was located."""

    name: str
    """As the user named it."""
    kind: Kind
    """The kind of the file, by its name."""
    filesystem: Any
    """The pyarrow file system that holds it."""
    path: str
    """Its path in the file system."""
    size: int
    """In bytes, when it was located."""
    modified: Any
    """When it was last changed; None: the file system does not record it."""

    def open_raw(self) -> pa.NativeFile:
        """Open the file as it is, to be read in any order."""
        return self.filesystem.open_input_file(self.path)

    @contextmanager
    def open(self) -> Generator[tuple[pa.NativeFile, pa.NativeFile], None, None]:
        """Open the file to be read from its start.

        Yields:
            the content, uncompressed; and the file, whose `tell()` says how far it was read.
        """
        with self.open_raw() as file:
            if self.kind == "gzip":
                with pa.CompressedInputStream(file, "gzip") as content:
                    yield content, file
            else:
                yield file, file

    @contextmanager
    def open_text(self) -> Generator[tuple[io.TextIOWrapper, pa.NativeFile], None, None]:
        """Open the file like `open`, its content as text; escapes replace bytes that are not UTF-8.

        Yields:
            the content as text; and the file, whose `tell()` says how far it was read.
        """
        with self.open() as (content, file):
            text = io.TextIOWrapper(
                content, encoding="utf-8-sig", errors="backslashreplace", newline=""
            )
            yield text, file

    def check_unchanged(self) -> None:
        """Check that the file has not changed since it was located.

        Raises:
            InputError: it grew, shrank or was written to, so its rows may be from two versions.
        """
        now = locate(self.name)
        if (now.size, now.modified) != (self.size, self.modified):
            raise InputError(
                f"{self.name}: the file changed while it was read; try again once it is whole"
            )

    def unreadable(self, error: Exception) -> InputError:
        """Return the InputError for an error that was raised while the file was read."""
        damaged = "it is damaged, cut short or of another format"
        # A file of this machine that opened can be read; a network can fail at any time.
        if isinstance(error, OSError) and not isinstance(self.filesystem, LocalFileSystem):
            damaged += f", or the store failed ({brief(error)})"
        return InputError(f"{self.name}: not a readable {self.kind} file; {damaged}")


def locate(name: str) -> Location:
    """Return where the file of this name is.

    Args:
        name: a path, `~` allowed, or an address such as `s3://bucket/train.csv`; the end of the
            name, before a `?`, determines the kind of the file.

    Raises:
        InputError: there is no such file, or its kind cannot be read.
    """
    return _locate_object(name) if "://" in name else _locate_path(name)


def _locate_path(name: str) -> Location:
    path = os.path.expanduser(name)
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            open(path, "rb").close()
    except (OSError, ValueError) as error:  # ValueError: a character that no path can hold
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: {reason}; expected {ACCEPTED}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name}: Is a directory; expected {ACCEPTED}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{name}: a pipe or a device, which cannot be read twice; save it as a file first"
        )
    return _location(name, path, LocalFileSystem(), path, status.st_size, status.st_mtime_ns)


def _locate_object(name: str) -> Location:
    filesystem, path = open_uri(_address(name))
    try:
        (info,) = filesystem.get_file_info([path])
    except OSError as error:
        raise InputError(f"{name}: {brief(error)}") from error
    _check_is_an_object(name, info)
    return _location(name, name.split("?")[0], filesystem, path, info.size, info.mtime_ns)


def _address(name: str) -> str:
    """Return the name as pyarrow expects it; a key may contain spaces and non-ASCII letters."""
    if not name.startswith(OBJECT_STORES):
        raise InputError(f"{name}: {NO_PLACE}; expected {ACCEPTED}")
    scheme, _, rest = name.partition("://")
    path, _, query = rest.partition("?")
    if ":" in path.partition("@")[0] and "@" in path:
        hidden = f"{scheme}://...@{path.partition('@')[2]}"
        raise InputError(
            f"{hidden}: keys do not belong in an address, which the study keeps; give them in "
            "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the store's own files"
        )
    if scheme in ("gs", "gcs") and "retry_limit_seconds=" not in query:
        query = f"{query}&{_RETRY_LIMIT}" if query else _RETRY_LIMIT
    address = f"{scheme}://{quote(path, safe='/%:@!$&()*+,;=~')}"
    return f"{address}?{query}" if query else address


def _check_is_an_object(name: str, info: FileInfo) -> None:
    if info.type == FileType.NotFound:
        raise InputError(f"{name}: no such object, or no such bucket; expected {ACCEPTED}")
    if info.type != FileType.File:
        raise InputError(f"{name}: a folder; expected {ACCEPTED}")


def _location(
    name: str, named: str, filesystem: FileSystem, path: str, size: int, modified: int | None
) -> Location:
    kinds = [kind for end, kind in _KINDS.items() if named.lower().endswith(end)]
    if not kinds:
        raise InputError(f"{name}: unknown kind of file; expected {ACCEPTED}")
    return Location(
        name=name, kind=kinds[0], filesystem=filesystem, path=path, size=size, modified=modified
    )

"""Where images are: on this machine, or in an object store such as S3."""

import io
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileType, LocalFileSystem

from digitrec.errors import InputError
from digitrec.store.folder import NO_PLACE, OBJECT_STORES, brief, open_uri

Kind = Literal["CSV", "gzip", "Parquet", "IDX", "NumPy", "PNG", "folder"]

ACCEPTED = (
    "'sample', 'openml', a .csv, .csv.gz, .parquet, .npz or idx3-ubyte file, or a folder of .png "
    "files"
)
_KINDS: dict[str, Kind] = {
    ".csv": "CSV",
    ".csv.gz": "gzip",
    ".parquet": "Parquet",
    "idx3-ubyte": "IDX",
    "idx3-ubyte.gz": "IDX",
    ".npz": "NumPy",
    ".png": "PNG",
}

# Google's client would retry for a quarter of an hour.
_RETRY_LIMIT = "retry_limit_seconds=30"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A regular file, or a folder of them, that existed when it was located."""

    name: str
    """As the user named it."""
    kind: Kind
    """The kind of the file, by its name; or a folder."""
    filesystem: Any
    """The pyarrow file system that holds it."""
    path: str
    """Its path in the file system."""
    size: int | None
    """In bytes, when it was located; None: it is a folder of an object store."""
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
            if self.path.lower().endswith(".gz"):
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
            raise self.changed()

    def changed(self) -> InputError:
        """Return the InputError for what changed while it was read."""
        what = "folder" if self.kind == "folder" else "file"
        return InputError(
            f"{self.name}: the {what} changed while it was read; try again once it is whole"
        )

    def unreadable(self, error: Exception) -> InputError:
        """Return the InputError for an error that was raised while the file was read."""
        damaged = "it is damaged, cut short or of another format"
        # A file of this machine that opened can be read; a network can fail at any time.
        if isinstance(error, OSError) and not isinstance(self.filesystem, LocalFileSystem):
            damaged += f", or the store failed ({brief(error)})"
        what = self.kind if self.kind == "folder" else f"{self.kind} file"
        return InputError(f"{self.name}: not a readable {what}; {damaged}")

    def beside(self, file: str) -> "Location | None":
        """Return the location of another file in the folder of this one; None: there is none."""
        own = os.path.basename(self.path)
        name, path = self._named.removesuffix(own) + file, self.path.removesuffix(own) + file
        (info,) = self.filesystem.get_file_info([path])
        if info.type != FileType.File:
            return None
        return replace(self, name=name, path=path, size=info.size, modified=info.mtime_ns)

    def entries(self, folder: str | None = None) -> list[FileInfo]:
        """Return the files and folders in this folder, or in one below it, but hidden ones.

        Raises:
            InputError: they cannot be listed.
        """
        try:
            found = self.filesystem.get_file_info(FileSelector(folder or self.path))
        except OSError as error:
            raise self.unreadable(error) from error
        return [entry for entry in found if not entry.base_name.startswith(".")]

    def name_of(self, path: str) -> str:
        """Return a path below this folder as the user would name it, for messages."""
        return self._named.rstrip("/") + path.removeprefix(self.path)

    @property
    def _named(self) -> str:
        """Its name without the options of an address."""
        return self.name.partition("?")[0] if "://" in self.name else self.name


def locate(name: str) -> Location:
    """Return where the file or the folder of this name is.

    Args:
        name: a path, `~` allowed, or an address such as `s3://bucket/train.csv`; the end of the
            name, before a `?`, determines the kind of a file.

    Raises:
        InputError: there is no such file or folder, or its kind cannot be read.
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
    is_folder = stat.S_ISDIR(status.st_mode)
    if not is_folder and not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{name}: a pipe or a device, which cannot be read twice; save it as a file first"
        )
    return Location(
        name=name,
        kind="folder" if is_folder else _kind(name, path),
        filesystem=LocalFileSystem(),
        path=path.rstrip("/") or "/",
        size=status.st_size,
        modified=status.st_mtime_ns,
    )


def _locate_object(name: str) -> Location:
    filesystem, path = open_uri(_address(name))
    try:
        (info,) = filesystem.get_file_info([path])
    except OSError as error:
        raise InputError(f"{name}: {brief(error)}") from error
    if info.type not in (FileType.File, FileType.Directory):
        raise InputError(f"{name}: no such object, or no such bucket; expected {ACCEPTED}")
    is_folder = info.type == FileType.Directory
    return Location(
        name=name,
        kind="folder" if is_folder else _kind(name, name.split("?")[0]),
        filesystem=filesystem,
        path=path,
        size=info.size,
        modified=info.mtime_ns,
    )


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


def _kind(name: str, path: str) -> Kind:
    """Return the kind of a file by the end of its path."""
    kinds = [kind for end, kind in _KINDS.items() if path.lower().endswith(end)]
    if not kinds:
        raise InputError(f"{name}: unknown kind of file; expected {ACCEPTED}")
    return kinds[0]

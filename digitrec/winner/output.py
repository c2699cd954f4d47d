"""An output file at a place that the user names, written whole or not at all."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from digitrec.errors import InputError


def check_target(name: str) -> Path:
    """Check that a file can be written, before any work; return its path with links resolved.

    Args:
        name: as the user named it, `~` allowed.

    Raises:
        InputError: no file of this name can be written.
    """
    if "://" in name:
        raise InputError(f"{name}: an address; give the name of a file on this machine")
    path = Path(os.path.realpath(os.path.expanduser(name)))
    if path.exists() and not path.is_file():
        raise InputError(f"{name}: a directory or a device of this name already exists")
    if not path.parent.is_dir():
        raise InputError(f"{name}: there is no directory {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{name}: the directory {path.parent} cannot be written to")
    return path


@contextmanager
def written_whole(path: Path) -> Generator[BinaryIO, None, None]:
    """Open a temporary file that replaces the file at the path if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # the error of a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)

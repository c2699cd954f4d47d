"""A file that a command writes where its user wants it, whole or not at all."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from digitrec.errors import InputError


def check_target(name: str) -> Path:
    """Return the path of a file to write, its folder there, links followed.

    Args:
        name: as the user named it, `~` allowed.

    Raises:
        InputError: no file of this name can be written; said before any work is done.
    """
    if "://" in name:
        raise InputError(f"{name}: a file of this machine is written, not an address")
    path = Path(os.path.realpath(os.path.expanduser(name)))
    if path.exists() and not path.is_file():
        raise InputError(f"{name}: there is a directory or a device of this name already")
    if not path.parent.is_dir():
        raise InputError(f"{name}: there is no directory {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{name}: the directory {path.parent} cannot be written to")
    return path


@contextmanager
def written_whole(path: Path) -> Generator[BinaryIO, None, None]:
    """Open a file that takes its name, and the place of an earlier one, if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)

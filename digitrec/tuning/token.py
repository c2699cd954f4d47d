"""The token that proves to a Ray cluster who its user is: where it is kept, and who may read it.

Whoever has the token may run code on the cluster. Ray itself writes it with the permissions of any
other file, so that often every user of the machine can read it.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from digitrec.errors import InputError

HOW_TO_GET_ONE = (
    "`ray get-auth-token` on the head node prints it; put it in ~/.ray/auth_token, readable by you "
    "alone"
)

MOST_BYTES = 4096  # of a token


class Token(NamedTuple):
    """A token and its source."""

    text: str
    source: str  # the variable or file that holds it


def find_token() -> Token | None:
    """Return this user's token, from where Ray looks for it and in Ray's order.

    Raises:
        InputError: RAY_AUTH_TOKEN_PATH names no file with a token.

    Source: https://docs.ray.io/en/latest/ray-security/token-auth.html
    """
    text = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if text:
        return Token(text, "RAY_AUTH_TOKEN")
    path = token_file()
    with suppress(OSError, UnicodeDecodeError):
        text = _read_regular(path).decode().strip()
    if not text and os.environ.get("RAY_AUTH_TOKEN_PATH"):
        raise InputError(f"RAY_AUTH_TOKEN_PATH: there is no token in {path}")
    return Token(text, str(path)) if text else None


def _read_regular(path: Path) -> bytes:
    """Return the start of a regular file, links followed; nothing of a pipe or a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return file.read(MOST_BYTES) if is_regular else b""


def token_file() -> Path:
    """Return the file that Ray reads the token from if no variable holds it."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def open_to_others(path: Path) -> bool:
    """Return whether a file or folder has permissions for its group or for others."""
    return bool(stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO))


def secure_token(*, make: bool) -> str | None:
    """Close this user's token to everybody else; return what the user should know, if anything.

    The file is for its owner alone, in a folder for its owner alone. A file that
    RAY_AUTH_TOKEN_PATH names stays as it is, since it may be shared on purpose.

    Args:
        make: Ray is about to start here, so write a token if there is none.

    Raises:
        InputError: no token can be written, or the file that should hold it is empty.
    """
    path = token_file()
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        if make and path.is_file() and open_to_others(path):
            return f"{_readable(path)}; `chmod 600 {path}` closes it to them"
        return None
    if make and not find_token():
        _write_token(path)
    return _close(path)


def _readable(path: Path) -> str:
    return f"others may read the token in {path}"


def _write_token(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        if find_token():  # another process has written it meanwhile
            return
        raise InputError(f"{path} holds no token; delete it, and a new one is written") from error
    except OSError as error:
        raise InputError(
            f"no token can be written to {path}: {error.strerror}. Set RAY_AUTH_TOKEN_PATH to a "
            "file that holds one"
        ) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def _close(path: Path) -> str | None:
    """Take the permissions of others from a token and its folder; return a line that says so."""
    places = {path.parent: 0o700, path: 0o600}
    opened = [place for place in places if place.exists() and open_to_others(place)]
    if not path.exists() or not opened:
        return None
    try:
        for place in opened:
            place.chmod(places[place])
    except OSError as error:
        return f"{_readable(path)}, and its permissions stay: {error.strerror}"
    return (
        f"closed {' and '.join(map(str, opened))} to other users; if one of them may have read the "
        f"token, delete {path}, and a new one is written"
    )

"""Commands as the user can paste them: from how this program was started, and where."""

import itertools
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence

from digitrec.request import IN_A_RAY_JOB, JOB_CONFIG

PATHS = ("--data", "--test-data", "--out")  # options whose values are paths, unless URIs or names


def as_typed_here(command: str) -> str:
    """Return a `digitrec` command as it can be pasted where this process was started.

    The program is named as it was started, and paths are relative where that is shorter. The
    commands in reports are not rewritten: a report outlives the terminal and is read elsewhere.

    Args:
        command: begins with `digitrec`; its paths are absolute.
    """
    words = shlex.split(command)
    arguments = [
        shortest(word) if before in PATHS else word for before, word in itertools.pairwise(words)
    ]
    if IN_A_RAY_JOB and arguments[0] == "tune":
        return _submit(arguments[1:])
    return shlex.join([*program(), *arguments])


def _submit(options: Sequence[str]) -> str:
    """Return the command on the user's machine: `digitrec submit`, which started this job."""
    metadata = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("metadata") or {}
    words = [*shlex.split(metadata.get("program", "digitrec")), "submit"]
    if "dashboard" in metadata:
        words += ["--address", metadata["dashboard"]]
    return shlex.join([*words, *options])


def program() -> list[str]:
    """Return the words that start this program: `digitrec`, `.venv/bin/digitrec` or the like."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    if started is not None and started.parent == "digitrec":  # python -m digitrec
        return [_name_of(sys.executable), "-m", "digitrec"]
    if os.path.basename(sys.argv[0]) == "digitrec":
        return [_name_of(sys.argv[0])]
    installed = os.path.join(os.path.dirname(sys.executable), "digitrec")
    return [_name_of(installed) if os.path.exists(installed) else "digitrec"]


def _name_of(program: str) -> str:
    """Return the name of a program if the shell finds it by that; otherwise its shortest path."""
    path, name = os.path.abspath(program), os.path.basename(program)
    found = shutil.which(name)
    if found is not None and os.path.abspath(found) == path:
        return name
    short = shortest(path)
    return short if "/" in short else f"./{short}"


def shortest(path: str) -> str:
    """Return an absolute path, or the path from the working directory if that is shorter.

    Other text, such as a URI, is returned as it is.
    """
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path)
    if IN_A_RAY_JOB and relative.startswith(".."):  # only what was uploaded is there for the user
        return path
    if relative.startswith("-"):  # an option otherwise
        relative = f"./{relative}"
    return min(path, relative, key=len)

"""Keep the working directory off the import path.

People start digitrec in directories of downloaded data. A `pandas.py` there would be imported
instead of pandas, by the driver and by Ray's workers. So the working directory is kept off their
paths, unless this package can be found nowhere else.
"""

import os
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def leave_out_working_directory() -> None:
    """Remove the working directory from the import path of this process and of its workers.

    `python -m` puts it first, and an empty entry of PYTHONPATH means it as well.
    """
    with suppress(FileNotFoundError):  # the working directory is gone: nothing is imported from it
        if needs_working_directory():
            return
        sys.path[:] = [entry for entry in sys.path if not _is_working_directory(entry)]
        if named := os.environ.get("PYTHONPATH"):
            kept = [each for each in named.split(os.pathsep) if not _is_working_directory(each)]
            os.environ["PYTHONPATH"] = os.pathsep.join(kept)


def needs_working_directory() -> bool:
    """Return whether this package can be found in the working directory only."""
    if Path.cwd() != PACKAGE.parent:
        return False
    elsewhere = [entry for entry in sys.path if not _is_working_directory(entry)]
    for finder in sys.meta_path:
        if finder is PathFinder:
            found = PathFinder.find_spec(PACKAGE.name, elsewhere)
        else:
            found = finder.find_spec(PACKAGE.name, None)
        if found and found.origin and Path(found.origin).resolve().parent == PACKAGE:
            return False
    return True


def _is_working_directory(entry: str) -> bool:
    return os.path.realpath(entry or os.curdir) == os.path.realpath(os.curdir)

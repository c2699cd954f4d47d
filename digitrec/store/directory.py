"""A study directory as a whole: whether it holds a study, and which files are damaged."""

import re
import stat

from digitrec.errors import DamagedError, InputError, visible
from digitrec.store import spec, validation
from digitrec.store.arrays import SUFFIX
from digitrec.store.folder import Folder, LocalFolder, kind_of
from digitrec.store.stacks import FAILED, FOLDERS, Damage, read_arrays, read_stacks

REFIT = "refit"
INNER = (*FOLDERS.values(), "plots", "best", "damaged", REFIT, "ray")  # folders of a study
MOST_NAMED = 100  # damaged files that are named one by one; the others are counted

_RESULT = re.compile(
    rf".+-[0-9a-f]{{8}}(-[0-9]+epochs{re.escape(SUFFIX)}|{re.escape(FAILED)})", re.DOTALL
)
# Digits and test digits that a Python program gave, so that every later command finds them.
GIVEN, GIVEN_TEST = "digits.parquet", "test.parquet"
# The entries that a study directory may have when no stack has been written yet.
_BEGUN = {spec.NAME, validation.NAME, GIVEN, GIVEN_TEST, "damaged/", "ray/"}


def check_directory(directory: Folder) -> None:
    """Check that a directory, which need not exist, is empty or holds a study; change nothing.

    Hidden files are ignored. A study whose `study.json` is damaged or missing is recognised by the
    files of its stacks.

    Raises:
        InputError: it holds something else, or a folder of the study is a link.
    """
    check_folders(directory)
    entries = directory.entries()
    folders = [name for name in FOLDERS.values() if f"{name}/" in entries]
    results = {name: (directory / name).entries() for name in folders}
    if any(_RESULT.fullmatch(name) for names in results.values() for name in names):
        return
    begun = _BEGUN | {f"{name}/" for name, names in results.items() if not names}
    foreign = [name for name in entries if name not in begun]
    if foreign and not _holds_spec(directory):
        more = f" and {len(foreign) - 3:,} more" if len(foreign) > 3 else ""
        names = visible(", ".join(foreign[:3]))
        raise InputError(
            f"{directory} is not empty and holds no study, but {names}{more}; give --out a new or "
            "empty directory"
        )


def check_folders(directory: Folder) -> None:
    """Check that the folders of a study are real directories, not links to other places.

    Raises:
        InputError: a folder is not a directory, or the study directory is a file.
    """
    if not isinstance(directory, LocalFolder):
        return
    refit = (f"{REFIT}/{name}" for name in FOLDERS.values())
    for path in (directory.path / name for name in (*INNER, *refit)):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        except NotADirectoryError as error:
            raise InputError(f"{directory} is not a directory; give another") from error
        if not stat.S_ISDIR(mode):
            raise InputError(
                f"{path} is {kind_of(mode)}; a study keeps its files in directories of its own. "
                "Put a directory in its place, or give another study directory"
            )


def remove_temporaries(directory: Folder) -> None:
    """Remove the temporary files that killed writers left in a study directory.

    No other process may be writing there.
    """
    if isinstance(directory, LocalFolder):
        refit = directory / REFIT
        places = [directory, *(directory / name for name in INNER if name != "ray")]
        for place in (*places, *(refit / name for name in FOLDERS.values())):
            place.remove_temporaries()


def find_damage(directory: Folder, key: str, epochs: int = 0) -> list[Damage]:
    """Return the damaged files of the stacks of a study.

    Weights are checked on a local file system only: an object store would have to send all of
    them.

    Args:
        directory: the study directory.
        key: of the study's spec.
        epochs: of a race, which removes the weights of stacks with fewer.
    """
    results, damaged = read_stacks(directory, key)
    weights = set((directory / FOLDERS["weights"]).names(SUFFIX))
    for result in results:
        name = result.key + SUFFIX
        if name not in weights and result.epochs_before_cooldown < epochs:
            continue
        if name not in weights:
            damaged.append(Damage(FOLDERS["stack"], name, "the file of its weights is missing"))
        elif directory.path and (reason := _damage_of(directory, "weights", key, name)):
            damaged.append(Damage(FOLDERS["weights"], name, reason))
            damaged.append(Damage(FOLDERS["stack"], name, "its weights are damaged"))
    for name in (directory / FOLDERS["checkpoint"]).names(SUFFIX):
        if reason := _damage_of(directory, "checkpoint", key, name):
            damaged.append(Damage(FOLDERS["checkpoint"], name, reason))
    return damaged


def list_damage(damaged: list[Damage]) -> list[str]:
    """Return a line for each damaged file; beyond a hundred, the last line counts the others."""
    lines = [str(each) for each in damaged[:MOST_NAMED]]
    if len(damaged) > MOST_NAMED:
        lines.append(f"and {len(damaged) - MOST_NAMED:,} more files")
    return lines


def _holds_spec(directory: Folder) -> bool:
    """Return whether any version of digitrec wrote `study.json`."""
    try:
        values = directory.read_json(spec.NAME)
    except (FileNotFoundError, DamagedError):
        return False
    return isinstance(values, dict) and {"format", "data", "space"} <= values.keys()


def _damage_of(directory: Folder, kind: str, spec: str, name: str) -> str | None:
    try:
        read_arrays(directory, kind, spec, name)
    except DamagedError as error:
        return str(error)
    return None

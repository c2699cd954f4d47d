"""Files of a study that are cut short, changed, or not its own."""

from digitrec.store.arrays import SUFFIX, DamagedError
from digitrec.store.folder import Folder
from digitrec.store.stacks import FOLDERS, Damage, read_arrays, read_stacks


def find_damage(study: Folder, question: str) -> list[Damage]:
    """Return the files of stacks that are not what they should be.

    Whether weights are whole is checked on a local file system only: elsewhere that would mean to
    fetch them all.

    Args:
        study: the study directory.
        question: the key of its question.
    """
    results, damaged = read_stacks(study, question)
    weights = set((study / FOLDERS["weights"]).names(SUFFIX))
    for name in (result.key + SUFFIX for result in results):
        if name not in weights:
            damaged.append(Damage(FOLDERS["stack"], name, "the file of its weights is missing"))
        elif study.path and (reason := _damage_of(study, "weights", question, name)):
            damaged.append(Damage(FOLDERS["weights"], name, reason))
            damaged.append(Damage(FOLDERS["stack"], name, "its weights are damaged"))
    for name in (study / FOLDERS["checkpoint"]).names(SUFFIX):
        if reason := _damage_of(study, "checkpoint", question, name):
            damaged.append(Damage(FOLDERS["checkpoint"], name, reason))
    return damaged


def _damage_of(study: Folder, kind: str, question: str, name: str) -> str | None:
    try:
        read_arrays(study, kind, question, name)
    except DamagedError as error:
        return str(error)
    return None

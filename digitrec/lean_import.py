"""Imports without what a package would import only because it is installed."""

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _Refusal(MetaPathFinder):
    """Finds nothing, and ends the search for one module in the thread that made it."""

    def __init__(self, unwanted: str) -> None:
        self._unwanted, self._thread = unwanted, threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Refuse the unwanted module.

        Raises:
            ModuleNotFoundError: it is asked for.
        """
        if fullname == self._unwanted and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is left out", name=fullname)


def import_without(unwanted: str, name: str) -> ModuleType:
    """Import a module that takes another one for optional parts, and leave that one out.

    Other threads can import the unwanted module meanwhile. If it is imported already, nothing is
    left out.
    """
    refusal = _Refusal(unwanted)
    sys.meta_path.insert(0, refusal)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(refusal)

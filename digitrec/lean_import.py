"""Imports without what a package would import only because it is installed."""

import importlib
import sys
from types import ModuleType


def import_without(unwanted: str, name: str) -> ModuleType:
    """Import a module that takes another one for optional parts, and leave that one out.

    Other threads must not import the unwanted module meanwhile. If it is imported already, nothing
    is left out.
    """
    if unwanted in sys.modules:
        return importlib.import_module(name)
    sys.modules[unwanted] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[unwanted]

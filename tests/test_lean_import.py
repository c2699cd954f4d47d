"""Imports that leave out what a package takes only because it is installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from digitrec.lean_import import import_without

MEANWHILE = """
import threading
thread = threading.Thread(target=__import__, args=("optional_part",))
thread.start()
thread.join()
import sys
there = "optional_part" in sys.modules
"""
TAKES_PART = """
try:
    import optional_part
except ImportError:
    optional_part = None
"""


@pytest.fixture
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "optional_part.py").touch()
    (tmp_path / "takes_part.py").write_text(TAKES_PART)
    (tmp_path / "meanwhile.py").write_text(MEANWHILE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("takes_part", "optional_part", "meanwhile"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("_modules")
def test_a_part_is_left_out_and_can_be_imported_afterwards() -> None:
    assert import_without("optional_part", "takes_part").optional_part is None
    assert "optional_part" not in sys.modules
    assert __import__("optional_part").__name__ == "optional_part"


@pytest.mark.usefixtures("_modules")
def test_a_part_that_is_there_stays() -> None:
    there = __import__("optional_part")
    assert import_without("optional_part", "takes_part").optional_part is there
    assert sys.modules["optional_part"] is there


@pytest.mark.usefixtures("_modules")
def test_another_thread_imports_what_is_left_out_here() -> None:
    assert import_without("optional_part", "meanwhile").there


@pytest.mark.usefixtures("_modules")
def test_after_an_error_nothing_is_left_out() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_without("optional_part", "no_such_module")
    assert import_without("something_else", "takes_part").optional_part is not None

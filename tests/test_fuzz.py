from pathlib import Path

import pytest

from tests.fuzz import fuzz

FILES = 150


@pytest.mark.slow
def test_a_damaged_file_is_never_used_and_never_a_traceback(tmp_path: Path) -> None:
    outcomes = fuzz(FILES, 0, tmp_path)
    assert outcomes.total() == FILES
    for came in ("best: refused in one line", "stacks: named", "weights: named"):
        assert outcomes[came] > 5

"""The public names of the package."""

import subprocess
import sys

import pytest

import digitrec


@pytest.mark.parametrize("name", digitrec.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(digitrec, name).__name__ == name


def test_the_public_names_are_listed_once_and_in_order() -> None:
    assert digitrec.__all__ == sorted(set(digitrec.__all__))
    assert dir(digitrec) == digitrec.__all__


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tuna'"):
        digitrec.tuna  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'pandas', 'numpy', 'matplotlib', 'rich'}"
    code = f"import sys, digitrec; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

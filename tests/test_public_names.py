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


HEAVY = "{'torch', 'ray', 'pandas', 'numpy', 'pyarrow', 'matplotlib', 'rich'}"


@pytest.mark.parametrize(
    "code",
    [
        "import digitrec",
        "from digitrec.cli.main import main; main([])",
        "import digitrec; digitrec.InputError, digitrec.Range",
    ],
    ids=["the package", "the help", "names"],
)
def test_what_is_quick_imports_nothing_heavy(code: str) -> None:
    check = f"import sys; assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}; {check}"], check=True)

"""The precision that `--precision auto` stands for."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from digitrec.request import Request
from digitrec.store.spec import read_spec
from digitrec.tuning import precision
from digitrec.tuning.precision import decide_precision, processor_has_bfloat16
from tests.studies import run

WITH, WITHOUT = "flags\t\t: fpu avx512f avx512_bf16 sha_ni\n", "flags\t\t: fpu avx512f sha_ni\n"


@pytest.mark.parametrize(
    ("cpuinfo", "has"),
    [
        (WITH, True),
        ("flags\t\t: fpu amx_bf16\n", True),
        (WITHOUT, False),
        ("model name\t: avx512_bf16\nflags\t\t: fpu\n", False),
        (None, False),  # not Linux
    ],
)
def test_a_processor_is_known_by_its_flags(
    cpuinfo: str | None, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor_has_bfloat16() == has


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpuinfo", "chosen", "said"),
    [
        (WITH, "bf16", "precision  bf16: this machine's processor multiplies bfloat16 in hardware"),
        (WITHOUT, "float32", "precision  float32: no processor that multiplies bfloat16 in"),
    ],
)
def test_auto_is_decided_and_printed_once_and_stays_with_the_study(
    cpuinfo: str, chosen: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    begun = run(tmp_path / "study", precision="auto", console=console)
    assert said in printed.getvalue()
    assert read_spec(begun.directory).precision == chosen
    (tmp_path / "cpuinfo").write_text(WITHOUT if cpuinfo == WITH else WITH)
    run(tmp_path / "study", precision="auto", console=console)
    assert f"precision  {chosen}: as in the study so far" in printed.getvalue()


def test_a_precision_that_is_asked_for_is_kept() -> None:
    request = Request(precision="bf16")
    assert decide_precision(request, Console(file=io.StringIO())) is request

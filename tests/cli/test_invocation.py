import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from digitrec.cli import invocation
from digitrec.cli.invocation import as_typed_here, shortest
from digitrec.request import JOB_CONFIG
from digitrec.store.folder import Folder
from digitrec.store.spec import write_spec
from tests.studies import make_record

BIN = Path(sys.executable).parent
PROGRAM = BIN / "digitrec"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The console script of an environment, started by its path; returns where it stands."""
    script = tmp_path / ".venv" / "bin" / "digitrec"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/digitrec", "tune"])
    return script


def test_a_program_that_is_not_on_the_path_is_named_by_its_shortest_path(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert as_typed_here("digitrec tune") == ".venv/bin/digitrec tune"
    monkeypatch.chdir(started.parent)
    monkeypatch.setattr(sys, "argv", [str(started), "tune"])
    assert as_typed_here("digitrec tune") == "./digitrec tune"
    monkeypatch.chdir("/")
    assert as_typed_here("digitrec tune") == shlex.join([str(started)[1:], "tune"])


def test_a_program_on_the_path_is_named_as_such(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(started.parent))
    assert as_typed_here("digitrec tune") == "digitrec tune"


def test_another_program_of_this_name_on_the_path_is_not_meant(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = started.parents[2] / "other" / "digitrec"
    other.parent.mkdir()
    other.symlink_to(started)
    monkeypatch.setenv("PATH", str(other.parent))
    assert as_typed_here("digitrec tune") == ".venv/bin/digitrec tune"


def test_paths_are_relative_where_that_is_shorter(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = started.parents[2]
    command = ["digitrec", "tune", "--data", f"{here}/my digits.csv", "--out", f"{here}/-study"]
    written = ".venv/bin/digitrec tune --data 'my digits.csv' --out ./-study"
    assert as_typed_here(shlex.join(command)) == written
    far = here / "a" / "b" / "c"
    far.mkdir(parents=True)
    monkeypatch.chdir(far)
    assert shortest("/data/train.csv") == "/data/train.csv"
    assert shortest(f"{here}/a/b/train.csv") == "../train.csv"
    assert shortest("s3://bucket/study") == "s3://bucket/study"


def test_a_job_prints_the_command_of_the_users_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invocation, "IN_A_RAY_JOB", True)
    monkeypatch.chdir(tmp_path)
    command = ["digitrec", "tune", "--data", f"{tmp_path}/my $digits.csv", "--out", "/shared/s"]
    options = "--data 'my $digits.csv' --out /shared/s"
    assert as_typed_here(shlex.join(command)) == f"digitrec submit {options}"
    job = {"metadata": {"dashboard": "http://head:8265", "program": ".venv/bin/digitrec"}}
    monkeypatch.setenv(JOB_CONFIG, json.dumps(job))
    assert as_typed_here("digitrec tune --refit") == (
        ".venv/bin/digitrec submit --address http://head:8265 --refit"
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", [[str(PROGRAM)], [sys.executable, "-m", "digitrec"]])
def test_the_commands_of_a_verdict_run_where_they_are_printed(
    words: list[str], tmp_path: Path
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    write_spec(Folder.at(study), make_record(study).spec)
    ran = subprocess.run(
        [*words, "report", "study"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    printed = [line.strip() for line in ran.stdout.splitlines() if " tune " in line]
    assert printed, ran.stderr
    assert all(" --out study" in command for command in printed)
    for command in printed:  # a wrong option ends it before anything is trained
        tried = subprocess.run(
            f"{command} --epochs 0",
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert tried.stderr == "digitrec: epochs 0 is not a whole number above 0\n"
    assert f"tables   {Path('study/trials.csv')}, epochs.csv" in ran.stdout
    assert "digitrec tune --data" in (study / "report.md").read_text()

"""A study that is cut ends as one that is not; the short form of tests/soak.py."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from digitrec.cli import main as cli
from digitrec.cli.options import make_parser, make_request
from tests import soak
from tests.soak import Bench, Cut, Fault, Figures
from tests.studies import run_request

FEW_EPOCHS = tuple("4" if word == str(soak.EPOCHS) else word for word in soak.TUNE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("crash") / "bench"
    with soak.bench(directory, own_head=True, program="tests.undrawn", cpus=1) as bench:
        bench.command = FEW_EPOCHS
        yield bench


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a study in this process ends with, which nothing cuts."""
    study = tmp_path_factory.mktemp("uninterrupted") / "study"
    options = make_parser().parse_args([*FEW_EPOCHS, "--out", str(study)])
    run_request(make_request(options))
    return soak.outcome(study)


def cut(place: Bench, expected: dict[str, bytes], *cuts: Cut) -> Figures:
    figures, left = Figures(), iter(cuts)
    soak.cut_study(place, expected, lambda done: next(left), len(cuts), figures)
    return figures


@pytest.mark.cluster
def test_a_study_whose_processes_are_killed_and_whose_disk_fails_ends_the_same(
    place: Bench, expected: dict[str, bytes]
) -> None:
    of_workers = (
        Fault("/checkpoints/", "within", "KILL"),
        Fault("/weights/", "after", "KILL"),
        Fault("/stacks/", "within", "KILL"),
        Fault("/stacks/.*64.*safetensors", "after", "KILL"),
    )
    figures = cut(
        place,
        expected,
        Cut("kill driver", after=3.0),
        Cut(faults=(Fault("/weights/", "within", "ENOSPC"),)),
        Cut(faults=of_workers),
        Cut(faults=(Fault("/trials.csv", "within", "KILL"),)),
        Cut(faults=(Fault("/best/model.json", "before", "EIO"),)),
    )
    assert figures.failures == []
    assert figures.cuts.total() == 8


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Mount a disk of this size, where that is allowed."""
    disk = directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    with small_disk(tmp_path, "6m") as mounted:
        yield mounted


@pytest.mark.cluster
def test_a_full_disk_is_one_line_and_the_study_goes_on_on_a_larger_one(
    place: Bench, expected: dict[str, bytes], disk: Path
) -> None:
    study = disk / "study"
    run = place.start(study)
    code, said = run.wait()
    assert (code, soak.told_in_one_line("ENOSPC", said, begun=True)) == (1, True), said
    run.check_gone()
    soak.check_readable(study)
    finished = {path: path.stat().st_mtime_ns for path in study.glob("stacks/*.safetensors")}
    assert finished
    remount(disk, "size=100m")
    soak.complete(place, study, Figures())
    assert soak.outcome(study) == expected
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())


@pytest.mark.cluster
def test_a_read_only_disk_is_one_line_before_any_work(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remount(disk, "ro")
    assert cli.main(["tune", "--out", str(disk / "study")]) == 1
    error = capsys.readouterr().err
    assert error == f"digitrec: {disk / 'study'}: Read-only file system\n"


@pytest.mark.cluster
def test_a_study_directory_that_is_removed_is_one_line(place: Bench, tmp_path: Path) -> None:
    study = tmp_path / "study"
    run = place.start(study)
    deadline = time.monotonic() + soak.PATIENCE
    while not list(study.glob("stacks/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.rename(study, tmp_path / "gone")  # in one step, which rm -r is not
    code, said = run.wait()
    run.check_gone()
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith(f"digitrec: {study}"), said
    assert "removed or replaced" in last or "No such file or directory" in last
    assert "Traceback" not in said

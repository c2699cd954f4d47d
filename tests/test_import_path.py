"""Files in the folder where digitrec is started are data, not code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.head import ONE_CORE, start_head

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TUNE = ["tune", "--lr=0.1", "--batch-size=512", "--epochs=1", "--out=study"]
NAMES = ("pandas.py", "torch.py", "numpy.py")


@pytest.fixture
def untrusted(tmp_path: Path) -> Path:
    """A folder of three files that say so when they are imported, and raise."""
    for name in NAMES:
        (tmp_path / name).write_text(
            f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\nraise SystemExit(3)\n"
        )
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, env=environment or None, capture_output=True, text=True, check=False
    )


# An empty entry of PYTHONPATH stands for the working directory.
EMPTY_ENTRY = {"PYTHONPATH": f"{os.pathsep}{ROOT}"}


@pytest.mark.ray
def test_a_study_imports_nothing_from_the_folder_it_is_started_in(untrusted: Path) -> None:
    """Neither its driver, which -m starts there, nor its workers."""
    program = [sys.executable, "-m", "tune_jobs.mnist_grid", *TUNE[1:]]
    done = run(program, untrusted, **os.environ | EMPTY_ENTRY | ONE_CORE)
    assert not (untrusted / "imported").exists(), (untrusted / "imported").read_text()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (untrusted / "study" / "trials.csv").exists()


@pytest.mark.cluster
def test_on_a_cluster_no_worker_imports_from_the_folder_of_the_driver(untrusted: Path) -> None:
    """Nor does the driver, as the console script."""
    with start_head(cpus=1) as head:
        command = [str(BIN / "digitrec"), *TUNE, f"--address={head.address}"]
        done = run(command, untrusted, **head.environment | EMPTY_ENTRY)
    assert not (untrusted / "imported").exists(), (untrusted / "imported").read_text()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.ray
def test_a_package_that_is_found_in_the_working_directory_only_is_imported_from_it(
    tmp_path: Path,
) -> None:
    """Such as that which a job uploads to nodes that do not have it."""
    shutil.copytree(ROOT / "digitrec", tmp_path / "digitrec")
    shutil.copytree(ROOT / "tune_jobs", tmp_path / "tune_jobs")
    program = [sys.executable, "-m", "tune_jobs.mnist_grid", *TUNE[1:]]
    done = run(program, tmp_path, **os.environ | ONE_CORE)
    assert done.returncode == 0, done.stdout + done.stderr
    said = run([sys.executable, "-c", "import digitrec; print(digitrec.__file__)"], tmp_path)
    assert said.stdout.strip() == str(tmp_path / "digitrec" / "__init__.py")


@pytest.mark.slow
def test_the_modules_of_the_folder_stay_out_of_the_commands_that_need_no_ray(
    untrusted: Path,
) -> None:
    done = run([sys.executable, "-m", "digitrec", "report", "nowhere"], untrusted)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not (untrusted / "imported").exists()

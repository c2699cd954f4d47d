"""The wheel is whole: installed in an environment of its own, every command runs outside here."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from digitrec.data.digits import read_digits
from tests.cluster.test_jobs import Cluster, free_port, write_token

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "digitrec", "tune_jobs")
SMALL = ("--lr=0.1", "--batch-size=512", "--epochs=1")
WHERE = "import cluster, digitrec, tune_jobs as t; print(cluster.__file__, digitrec.__file__, t)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The wheel in an environment, and a folder to work in."""

    bin: Path
    folder: Path

    def run(self, *words: str, **variables: str) -> str:
        """Run a program of the environment; return what it prints, once it has succeeded."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "PYTHON", "COV_"))
        }
        done = subprocess.run(
            [str(self.bin / words[0]), *words[1:]],
            cwd=self.folder,
            env=inherited | variables,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves files beside what it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("digitrec-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Installed]:
    """The wheel in an environment that finds what it depends on in that of the tests.

    Its folder has a short name: the paths of Ray's sockets are limited.
    """
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    environment = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    # Only afterwards: pip would remove the digitrec that it finds there. The .pth files of a folder
    # that a .pth file adds, such as that of an editable install, have no effect.
    variables = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", vars=variables))
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield Installed(bin=environment / "bin", folder=folder)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    there = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in held if not name.startswith("digitrec-0.")} == there


@pytest.mark.slow
def test_the_wheel_is_used_and_not_this_checkout(installed: Installed) -> None:
    assert installed.run("python", "-c", WHERE).count(str(installed.bin.parent)) == 3
    assert installed.run("digitrec", "--version").startswith("digitrec ")


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_completes_the_commands_in_a_shell(installed: Installed, shell: str) -> None:
    script = installed.run("digitrec", "completion", shell)
    assert all(word in script for word in ("predict", "submit", "val-fraction"))
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.cluster
def test_the_wheel_starts_a_cluster_and_every_command_works_on_what_it_trains(
    installed: Installed,
) -> None:
    folder, port = installed.folder, free_port()
    write_token(folder)
    ours = {"XDG_CACHE_HOME": str(folder), "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    ray = ("--num-cpus=1", f"--temp-dir={folder / 'r'}", "--object-store-memory=100000000")
    cluster = Cluster(address=f"http://127.0.0.1:{port}", env=ours)
    installed.run("digitrec", "cluster", "start", "--dashboard-port", str(port), *ray, **ours)
    try:
        said = installed.run("digitrec", "submit", *SMALL, **ours)
        (job,) = (job for job in cluster.ask("/api/jobs/") if job["submission_id"])
    finally:
        installed.run("digitrec", "cluster", "stop", **ours)
    study = folder / "results" / "sample"
    assert f"study      {study}" in said
    assert "The only configuration with a result is lr 0.1" in said
    assert job["submission_id"].startswith("digitrec-sample-")
    described = {"study": str(study), "data": "sample", "configurations": "1"}
    assert described.items() <= job["metadata"].items()
    assert pd.read_csv(study / "trials.csv")["status"].tolist() == ["completed"]
    installed.run("digitrec", "report", "results/sample")
    installed.run("digitrec", "predict", "results/sample", "sample", "--to=predictions.csv")
    installed.run("digitrec", "export", "results/sample", "--onnx=model.onnx")
    lines = (folder / "predictions.csv").read_text().splitlines()
    assert len(lines) == 1 + len(read_digits("sample").labels)

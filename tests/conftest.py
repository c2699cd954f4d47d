"""Fixtures that several test files share, the marks that they imply, and the environment."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from selenium import webdriver

    from digitrec.engine.train import TrainingData

# What would change what a test does; a machine that trains has some of them set.
MEDDLING = ("RAY_", "OMP_", "AWS_")
KEYS_OF_S3_SERVER = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # otherwise it is asked, and waits
}
MARKS = {  # fixture -> mark of the tests that use it
    "two_cpus": "ray",
    "browser": "browser",
    "cluster": "cluster",
    "head": "cluster",
    "hosts": "cluster",
}

SECONDS = {"cluster": 20, "ray": 10, "slow": 2}  # about what a test with this mark takes

# A property is no worse for taking long: on a busy machine, or where coverage is measured.
hypothesis.settings.register_profile("digitrec", deadline=None)
hypothesis.settings.load_profile("digitrec")

if "PYTEST_XDIST_WORKER" in os.environ:  # the process that hands out tests needs no torch
    import torch

    torch.set_num_threads(1)  # the other cores have a worker each

for meddling in [name for name in os.environ if name.startswith(MEDDLING)]:
    del os.environ[meddling]  # before any fixture of a module or session
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before any test imports mlflow


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear what an earlier test, or Ray, has left in the environment."""
    for name, value in list(os.environ.items()):
        if name.startswith(MEDDLING) and KEYS_OF_S3_SERVER.get(name) != value:
            monkeypatch.delenv(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a fixture of MARKS; put the files that take longest first."""
    for item in items:
        for fixture, mark in MARKS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)
    seconds: Counter[Path] = Counter()
    for item in items:
        seconds[item.path] += sum(
            SECONDS[mark.name] for mark in item.iter_markers() if mark.name in SECONDS
        )
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[webdriver.Chrome]":
    """A browser without a window."""
    from tests.browser import open_browser

    driver = open_browser(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


class S3Server(NamedTuple):
    """An S3 server and an empty bucket in it."""

    endpoint: str  # 127.0.0.1:PORT
    bucket: str
    pid: int | None = None  # of its process, where it is known

    def uri(self, key: str) -> str:
        """Return the URI of an object or folder in the bucket, for pyarrow and digitrec."""
        return f"s3://{self.bucket}/{key}?endpoint_override={self.endpoint}&scheme=http"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server in a process of its own; the environment has keys that it accepts.

    All tests of a session share the bucket: let each use keys of its own.
    """
    command = ["moto.server", "--host", "127.0.0.1", "--port", "0"]
    with serving(command, tmp_path_factory.mktemp("s3") / "log") as (endpoint, pid):
        server = S3Server(endpoint=endpoint, bucket="digits", pid=pid)
        create = urllib.request.Request(f"http://{server.endpoint}/{server.bucket}", method="PUT")
        urllib.request.urlopen(create, timeout=30).close()
        with pytest.MonkeyPatch.context() as environment:
            for name, value in KEYS_OF_S3_SERVER.items():
                environment.setenv(name, value)
            yield server


@contextmanager
def serving(command: list[str], log: Path) -> Iterator[tuple[str, int]]:
    """The 127.0.0.1:PORT of a server, `python -m COMMAND`, and the identifier of its process."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield _await_endpoint(process, log), process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await_endpoint(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return the server's 127.0.0.1:PORT once it has said it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"[Rr]unning on http://(127\.0\.0\.1:[0-9]+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def small_data() -> "TrainingData":
    """70 training and 30 validation images of 12 pixels, float64; 70 leaves a short last batch."""
    import torch

    from digitrec.engine.train import TrainingData

    random = np.random.default_rng(0)
    images = torch.from_numpy(random.random((100, 12)))
    labels = torch.from_numpy(random.integers(0, 10, 100))
    return TrainingData(
        train_images=images[:70],
        train_labels=labels[:70],
        pixels=torch.arange(12),
        val_images=images[70:],
        val_labels=labels[70:],
    )

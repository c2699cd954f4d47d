"""A study on two hosts with their own addresses and disks, where the machine can carry them."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.hosts import HEAD, OTHER, Hosts, reason_against, start_hosts
from tests.nodes import UNDRAWN, meeting

OPTIONS = ("--lr=0.1", "--batch-size=256,512", "--epochs=1", "--stack-size=1")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    reason = reason_against()
    if reason:
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as directory,
        start_hosts(Path(directory)) as hosts,
    ):
        yield hosts


def tune(
    hosts: Hosts, out: Path, program: tuple[str, ...] = UNDRAWN
) -> "subprocess.CompletedProcess[str]":
    command = [*hosts.head, sys.executable, *program, "tune", f"--address={hosts.address}"]
    return subprocess.run(
        [*command, f"--out={out}", *OPTIONS],
        env=hosts.environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_a_study_directory_of_one_host_is_refused_before_any_training(hosts: Hosts) -> None:
    done = tune(hosts, hosts.own / "study")
    assert done.returncode == 2
    assert f"own/study is not visible to 1 of 2 nodes ({OTHER}); give --out a" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(hosts.own.glob("study/stacks/*"))


def test_a_study_directory_of_all_hosts_is_used_by_all(hosts: Hosts) -> None:
    done = tune(hosts, hosts.shared / "study", meeting(hosts.shared / "meeting", workers=2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(pd.read_csv(hosts.shared / "study" / "runs.csv")["node"]) == {HEAD, OTHER}

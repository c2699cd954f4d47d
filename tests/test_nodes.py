"""Studies on several nodes: real raylets on one machine, killed as machines and workers die."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.head import Head, start_head
from tests.nodes import (
    CHECKPOINTS,
    Node,
    epochs_by_worker,
    kill_worker,
    start_node,
    start_study,
    worker_logs,
)

TIMES = ["seconds"]
GRID = ("--lr=0.1,0.5", "--batch-size=32,64,128", "--epochs=20", "--stack-size=1")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head of one CPU that asks for a token."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("0123456789abcdef" * 4)
    with start_head(cpus=1, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)) as head:
        yield head


@pytest.fixture(scope="module")
def second(head: Head) -> Iterator[Node]:
    """A second node, of two CPUs and what calls itself a GPU."""
    with start_node(head, cpus=2, gpus=1) as node:
        yield node


@pytest.fixture(scope="module")
def whole(head: Head, second: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of GRID that nothing disturbed."""
    directory = tmp_path_factory.mktemp("whole")
    tune(head, directory)
    return directory / "study"


def tune(head: Head, directory: Path, *options: str) -> str:
    with start_study(head, directory, *GRID, *options) as study:
        output = study.finish()
    assert study.process.returncode == 0, output
    return output


def runs(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "runs.csv")


def same_tables(study: Path, other: Path) -> None:
    for name in ("trials.csv", "epochs.csv"):
        one, two = (pd.read_csv(where / name).drop(columns=TIMES) for where in (study, other))
        pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_a_study_spreads_over_the_cpus_of_all_nodes(whole: Path) -> None:
    where = runs(whole)
    assert where.groupby("node_id")["pid"].nunique().sort_values().to_list() == [1, 2]


def test_a_killed_worker_costs_only_what_came_after_its_last_checkpoint(
    head: Head, second: Node, whole: Path, tmp_path: Path
) -> None:
    before = epochs_by_worker(head)

    def trained() -> list[int]:
        workers = epochs_by_worker(head)
        return [
            pid
            for pid, epochs in workers.items()
            if pid not in before and epochs[-1][1] in range(3, 15)
        ]

    with start_study(head, tmp_path, *GRID, program=("-c", CHECKPOINTS)) as study:
        study.wait_until(trained)
        pid = trained()[0]
        stack = epochs_by_worker(head)[pid][-1][0]
        kill_worker(pid)
        t = time.time()
        while "again" not in study.output:
            time.sleep(0.05)
        print("noticed", time.time() - t)
        while f"{stack} goes on after epoch" not in worker_logs(head):
            time.sleep(0.05)
        print("goes on", time.time() - t)
        output = study.finish()
    print(output)
    assert study.process.returncode == 0, output
    assert f"again {stack}" in output
    went_on = re.search(rf"^{re.escape(stack)} goes on after epoch (\d+)", worker_logs(head), re.M)
    assert went_on is not None
    assert int(went_on[1]) >= 1
    same_tables(tmp_path / "study", whole)


def test_a_node_that_joins_gets_work_and_its_loss_costs_only_its_stacks(
    head: Head, second: Node, whole: Path, tmp_path: Path
) -> None:
    with start_study(head, tmp_path, *GRID) as study, start_node(head, cpus=1) as third:
        study.wait_until(lambda: any(map(third.owns, epochs_by_worker(head))))
        third.kill()
        t = time.time()
        while "again" not in study.output:
            time.sleep(0.05)
        print("noticed", time.time() - t)
        output = study.finish()
    print(output)
    assert study.process.returncode == 0, output
    assert "again " in output
    same_tables(tmp_path / "study", whole)


def test_a_lost_worker_without_another_attempt_leaves_rows_that_the_same_command_completes(
    head: Head, second: Node, whole: Path, tmp_path: Path
) -> None:
    before = epochs_by_worker(head)
    with start_study(head, tmp_path, *GRID, "--max-failures=0") as study:
        study.wait_until(lambda: epochs_by_worker(head).keys() - before.keys())
        pid = min(epochs_by_worker(head).keys() - before.keys())
        kill_worker(pid)
        output = study.finish()
    print(output)
    assert study.process.returncode == 1, output
    tune(head, tmp_path, "--max-failures=0")
    same_tables(tmp_path / "study", whole)

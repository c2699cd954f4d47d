"""Studies on several nodes: real raylets on one machine, killed as workers and machines die."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from digitrec.cli import main as cli
from digitrec.errors import InputError
from digitrec.space.points import Space
from digitrec.store.folder import Folder
from digitrec.tuning.address import check_address
from tests.conftest import S3Server
from tests.head import Head, start_head
from tests.nodes import (
    CHECKPOINTS,
    UNDRAWN,
    Node,
    Study,
    changed,
    epochs_by_worker,
    kill_worker,
    meeting,
    start_node,
    start_study,
    worker_logs,
)
from tests.studies import folder
from tests.studies import run as run_here

EPOCHS = 12
GRID = ("--lr=0.1,0.5", "--batch-size=32,64", f"--epochs={EPOCHS}", "--stack-size=1")
GRID_SPACE = Space.of(lr=(0.1, 0.5), batch_size=(32, 64))
SMALL = ("--lr=0.1,0.5", "--batch-size=256,512", "--epochs=1", "--stack-size=1")
SECRET = "not-for-any-log"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Head]:
    """A head of one CPU that asks for a token, and has keys of its own for S3."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("0123456789abcdef" * 4)
    with start_head(cpus=1, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)) as head:
        yield head


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the study of GRID that was trained in this process."""
    directory = tmp_path_factory.mktemp("expected")
    return folder(run_here(directory, GRID_SPACE, EPOCHS, stack_size=1))


def run(
    head: Head, directory: Path, *options: str, code: int = 0, program: tuple[str, ...] = ()
) -> str:
    with start_study(head, directory, *options, program=program or UNDRAWN) as study:
        output = study.finish()
    assert study.process.returncode == code, output
    return output


def runs(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "runs.csv")


def same_tables(study: Path, other: Path) -> None:
    for name in ("trials.csv", "epochs.csv"):
        one, two = (pd.read_csv(where / name).drop(columns="seconds") for where in (study, other))
        pd.testing.assert_frame_equal(one, two, check_exact=True)


def a_worker_with_epochs(
    head: Head, study: Study, at_least: int, *, then: int, of: Node | None = None
) -> int:
    """Wait for a worker of a new study, and of a node, with so many epochs of a stack."""
    before = set(epochs_by_worker(head))

    def found() -> list[int]:
        workers = epochs_by_worker(head).items()
        new = [p for p, e in workers if p not in before and at_least <= e[-1][1] <= then]
        return [pid for pid in new if of is None or of.owns(pid)]

    study.wait_until(found)
    return found()[0]


def test_a_wrong_or_missing_token_is_said_at_once(
    head: Head,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where there is no token
    with pytest.raises(InputError, match="asks for a token: `ray get-auth-token` on the head"):
        check_address(head.address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InputError, match="RAY_AUTH_MODE is token, and there is no token: "):
        check_address(head.address)
    wrong = tmp_path / "token"
    wrong.write_text("fedcba9876543210" * 4)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    assert cli.main(["tune", f"--address={head.address}", f"--out={tmp_path / 'study'}"]) == 2
    error = capsys.readouterr().err
    assert "does not accept this token: " in error
    assert len(error.splitlines()) == 1


@pytest.mark.cluster
def test_a_lost_head_ends_the_study_in_one_line_and_it_goes_on_elsewhere(
    expected: Path, tmp_path: Path
) -> None:
    with (
        start_head(cpus=1) as lost,
        start_study(lost, tmp_path, *GRID, program=changed("pass")) as study,
    ):
        study.wait_until(lambda: list(tmp_path.glob("study/stacks/*")))
        os.killpg(lost.process, signal.SIGKILL)
        output = study.finish()
    assert study.process.returncode == 1
    assert output.splitlines()[-1].startswith("digitrec: the head of the cluster, ")
    assert output.splitlines()[-1].endswith("the same command continues.")
    run_here(tmp_path / "study", GRID_SPACE, EPOCHS, stack_size=1)
    same_tables(tmp_path / "study", expected)


class Joined(NamedTuple):
    """A study that a node joined and left, and whose store was then away for some seconds."""

    tables: Path
    output: str


@pytest.fixture(scope="module")
def joined(head: Head, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Joined:
    directory, uri = tmp_path_factory.mktemp("joined"), s3_server.uri("nodes")
    program = meeting(directory / "meeting", workers=2)  # one on each node
    with (
        start_study(
            *(head, directory, *GRID, f"--out={uri}"),
            program=program,
            environment=head.environment | {"AWS_SECRET_ACCESS_KEY": SECRET},
        ) as study,
        start_node(head, cpus=1) as third,
    ):
        study.wait_until(lambda: any(map(third.owns, epochs_by_worker(head))))
        third.kill()
        study.wait_until(lambda: "again " in study.output)
        assert s3_server.pid is not None
        os.kill(s3_server.pid, signal.SIGSTOP)
        try:
            time.sleep(10)
        finally:
            os.kill(s3_server.pid, signal.SIGCONT)
        output = study.finish()
    assert study.process.returncode == 0, output
    fetch(uri, directory / "fetched")
    return Joined(directory / "fetched", output)


def test_a_node_that_joins_gets_work_and_its_loss_costs_only_its_stacks(
    joined: Joined, expected: Path
) -> None:
    assert "again " in joined.output
    same_tables(joined.tables, expected)


def test_a_store_that_is_away_for_some_seconds_costs_nothing_but_them(
    joined: Joined, expected: Path
) -> None:
    assert "Failed" not in joined.output
    same_tables(joined.tables, expected)


def test_the_nodes_are_not_handed_the_keys_of_whoever_starts_the_study(
    head: Head, joined: Joined
) -> None:
    """They have keys of their own."""
    logs = [path for path in head.directory.rglob("*") if path.is_file()]
    assert [path for path in logs if SECRET.encode() in path.read_bytes()] == []


def fetch(uri: str, directory: Path) -> None:
    directory.mkdir()
    for name in ("trials.csv", "epochs.csv"):
        (directory / name).write_bytes(Folder.at(uri).read(name))


# From here on, there are two nodes.


@pytest.fixture(scope="module")
def second(head: Head) -> Iterator[Node]:
    """A second node, of two CPUs and what it says is a GPU."""
    with start_node(head, cpus=2, gpus=1) as node:
        yield node


class Killed(NamedTuple):
    """A study of which a worker was killed in each of its two runs."""

    directory: Path
    meeting: list[str]  # a line for each worker that trained at a time in the first run
    failed: str  # what the first run said, which makes one attempt
    table: pd.DataFrame  # the trials after it
    again: str  # what the second run said, which tries again
    stack: str  # whose worker it lost
    logs: str  # of all workers


@pytest.fixture(scope="module")
def killed(head: Head, second: Node, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A study of GRID with more than half a CPU for each stack, whose workers are killed."""
    directory = tmp_path_factory.mktemp("killed")
    options = (*GRID, "--cpus-per-trial=0.6")
    program = meeting(directory / "meeting", workers=4)
    with start_study(head, directory, *options, "--max-failures=0", program=program) as study:
        kill_worker(a_worker_with_epochs(head, study, 1, then=9, of=second))
        failed = study.finish()
    assert study.process.returncode == 1, failed
    table = pd.read_csv(directory / "study" / "trials.csv")
    with start_study(head, directory, *options, program=changed(CHECKPOINTS)) as study:
        pid = a_worker_with_epochs(head, study, 3, then=9)
        stack = epochs_by_worker(head)[pid][-1][0]
        kill_worker(pid)
        again = study.finish()
    assert study.process.returncode == 0, again
    lines = (directory / "meeting").read_text().splitlines()
    logs = "\n".join(worker_logs(head).values())
    return Killed(directory / "study", lines, failed, table, again, stack, logs)


def test_a_study_spreads_over_the_nodes_with_as_many_workers_as_fit_their_cpus(
    killed: Killed,
) -> None:
    """Four workers met, or the first would have waited in vain: one on the head, three beside."""
    assert len(killed.meeting) == 4
    where = runs(killed.directory)
    assert where["node_id"].nunique() == 2
    assert where["pid"].nunique() == 4


def test_trials_of_two_cpus_run_where_there_are_two(
    head: Head, second: Node, tmp_path: Path
) -> None:
    run(head, tmp_path, *SMALL, "--cpus-per-trial=2")
    assert runs(tmp_path / "study")["node_id"].nunique() == 1


def test_two_half_gpus_are_one_gpu_and_are_refused_where_torch_has_none(
    head: Head, second: Node, tmp_path: Path
) -> None:
    program = meeting(tmp_path / "meeting", workers=2)
    options = (*SMALL, "--lr=0.1", "--gpus-per-trial=0.5", "--max-failures=0")
    output = run(head, tmp_path, *options, code=1, program=program)
    assert (tmp_path / "meeting").read_text().splitlines()[:2] == ["[0]", "[0]"]
    assert "RuntimeError: Ray gave this trial a GPU, but torch" in output
    assert set(pd.read_csv(tmp_path / "study" / "trials.csv")["status"]) == {"failed"}


def test_a_lost_worker_without_another_attempt_leaves_rows_that_the_same_command_completes(
    killed: Killed, expected: Path
) -> None:
    assert "Failed: its worker was lost" in killed.failed
    assert killed.table["status"].value_counts().to_dict() == {"completed": 3, "failed": 1}
    same_tables(killed.directory, expected)


def test_a_killed_worker_costs_what_came_after_its_last_checkpoint(
    killed: Killed, expected: Path
) -> None:
    assert f"again {killed.stack}: its worker was lost" in killed.again
    assert "Traceback" not in killed.again
    went_on = re.search(rf"^{killed.stack} continues after epoch (\d+)", killed.logs, re.MULTILINE)
    assert went_on is not None
    assert int(went_on[1]) >= 1
    same_tables(killed.directory, expected)

"""The cluster to practise on and jobs to it, as a person uses them: in processes of their own."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from cluster import local, submit
from digitrec.cli import main as cli
from digitrec.errors import InputError

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 4
PLAIN_CLIENT = """
import sys, ray
ray.init(_temp_dir=sys.argv[1], logging_level="ERROR")
print(ray.get_runtime_context().gcs_address)
"""  # of another program, which names no address
LONG = ["--lr", "0.1", "--batch-size", "32", "--epochs", "1000"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that `cluster.local` has started, with files of its own."""

    address: str
    env: dict[str, str]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of the two programs to its end."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self.env | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def follow(self, *options: str) -> "subprocess.Popen[str]":
        """Submit a study and return the process that follows it."""
        return subprocess.Popen(
            [sys.executable, "-m", "digitrec", "submit", *options],
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, path: str, method: str = "GET", token: str = TOKEN) -> Any:
        """Ask the dashboard."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        spec = urllib.request.Request(self.address + path, method=method, headers=headers)
        with urllib.request.urlopen(spec, timeout=10) as answer:
            return json.load(answer)

    @property
    def head(self) -> dict[str, Any]:
        """What is recorded about the head."""
        path = Path(self.env["XDG_CACHE_HOME"]) / "digitrec" / "cluster.json"
        return dict(json.loads(path.read_text()))


def write_token(folder: Path) -> None:
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for this file, in a short folder: the paths of Ray's sockets are limited."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    write_token(folder)
    ours = {"XDG_CACHE_HOME": str(folder), "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    port = free_port()
    started = Cluster(address=f"http://127.0.0.1:{port}", env=inherited | ours)
    ray = ["--num-cpus", "1", "--temp-dir", str(folder / "r"), "--object-store-memory", "100000000"]
    said = started.run("digitrec", "cluster", "start", "--dashboard-port", str(port), *ray)
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    connected = subprocess.run(
        [sys.executable, "-c", PLAIN_CLIENT, str(folder / "r")],
        env=started.env | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert connected.stdout.strip() == started.head["gcs"], connected.stderr
    yield started
    started.run("digitrec", "cluster", "stop")
    shutil.rmtree(folder)


def wait_for_line(process: "subprocess.Popen[str]", start: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(f"it ended without saying {start!r}")


def test_a_job_that_fails_gives_its_exit_code(cluster: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "digits.csv"
    data.write_text("label,pixel0\n1,x\n")
    said = cluster.run("digitrec", "submit", "--data", str(data), "--out", str(tmp_path / "study"))
    assert said.returncode == 2
    assert f"digitrec: {data}: row" in said.stdout
    assert said.stdout.rstrip().endswith("failed")


def test_a_job_that_is_stopped_is_no_success(cluster: Cluster, tmp_path: Path) -> None:
    following = cluster.follow(*LONG, "--out", str(tmp_path / "study"))
    name = wait_for_line(following, "job ").split()[1].rstrip(",")
    wait_for_line(following, "4,000 digits to train on")
    cluster.ask(f"/api/jobs/{name}/stop", "POST")
    said, _ = following.communicate(timeout=60)
    assert following.returncode == 1
    assert said.rstrip().endswith(f"{name} stopped")
    assert pd.read_csv(tmp_path / "study" / "trials.csv")["status"].tolist() == ["stopped"]


def test_ctrl_c_leaves_the_job_and_says_how_to_stop_it(cluster: Cluster, tmp_path: Path) -> None:
    following = cluster.follow(*LONG, "--out", str(tmp_path / "study"))
    name = wait_for_line(following, "job ").split()[1].rstrip(",")
    wait_for_line(following, "Running entrypoint")
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=30)
    assert following.returncode == 1
    assert "The job continues." in said
    assert f"ray job stop --address {cluster.address} {name}" in said
    assert cluster.ask(f"/api/jobs/{name}")["status"] == "RUNNING"
    cluster.ask(f"/api/jobs/{name}/stop", "POST")


WRONG = [
    (["--address", "http://127.0.0.1:9"], {}, "no Ray dashboard answers at http://127.0.0.1:9"),
    (["--address", "ray://head:10001"], {}, "ray://head:10001 is not the address of a dashboard"),
    (["--address", "http://h:x"], {}, "http://h:x is not the address of a dashboard"),
    ([], {"RAY_AUTH_TOKEN_PATH": ""}, "asks for a token, and there is none here"),
    ([], {"RAY_AUTH_TOKEN_PATH": "/no/file"}, "RAY_AUTH_TOKEN_PATH: there is no token in /no/file"),
    ([], {"RAY_AUTH_TOKEN": "wrong"}, "rejects the token from RAY_AUTH_TOKEN"),
    (["--data", "/no/file.csv"], {}, "/no/file.csv: there is no such file"),
]


@pytest.fixture
def beside(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process one that knows the cluster, with a home that has no token."""
    for name in ("XDG_CACHE_HOME", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, cluster.env[name])
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(("options", "variables", "message"), WRONG)
def test_what_keeps_a_job_from_being_submitted_is_one_line(
    options: list[str],
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["submit", "--out", "/study", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("digitrec: ")
    assert message in said.err
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("beside")
def test_what_is_no_dashboard_is_said_within_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert cli.main(["submit", "--out", "/study", "--address", address]) == 2
    assert "what answers there is not a Ray dashboard" in capsys.readouterr().err


def test_the_dashboard_refuses_whoever_has_no_token(cluster: Cluster) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        cluster.ask("/api/jobs/", token="")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        cluster.ask("/api/jobs/", token="wrong")


def test_the_dashboard_listens_on_this_machine_alone(cluster: Cluster) -> None:
    port = int(cluster.address.rsplit(":", 1)[1])
    listening = set()
    for process in psutil.Process(cluster.head["pid"]).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended meanwhile
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    listening.add(connection.laddr.ip)
    assert listening == {"127.0.0.1"}


def test_a_second_start_says_that_one_runs_and_starts_none(cluster: Cluster) -> None:
    before = cluster.head
    said = cluster.run("digitrec", "cluster", "start", "--dashboard-port", str(free_port()))
    assert said.returncode == 0
    assert "running already" in said.stdout
    assert cluster.address in said.stdout
    assert cluster.head == before


def test_the_processes_of_a_cluster_do_not_inherit_a_blocked_sigterm(cluster: Cluster) -> None:
    status = Path(f"/proc/{cluster.head['pid']}/status").read_text()
    blocked = int(re.search(r"^SigBlk:\s*(\w+)$", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    assert not blocked & 1 << (signal.SIGTERM - 1)


def test_stop_ends_every_process_that_start_began(cluster: Cluster, tmp_path: Path) -> None:
    following = cluster.follow(*LONG, "--out", str(tmp_path / "study"))
    wait_for_line(following, "Running entrypoint")
    head = psutil.Process(cluster.head["pid"])
    tree = [head, *head.children(recursive=True)]
    assert any("tune_jobs.mnist_grid" in process.cmdline() for process in tree)
    current = Path(cluster.head["current"])
    assert current.read_text() == cluster.head["gcs"]
    said = cluster.run("digitrec", "cluster", "stop")
    assert said.returncode == 0
    assert cluster.address in said.stdout
    assert [process for process in tree if local._runs(process)] == []
    assert not current.exists()
    _, why = following.communicate(timeout=30)
    assert following.returncode == 1
    assert "digitrec: lost the connection" in why
    assert "No cluster" in cluster.run("digitrec", "cluster", "stop").stdout


def test_a_process_that_has_the_pid_by_chance_is_never_ended(tmp_path: Path) -> None:
    alone = Cluster(address="", env=dict(os.environ) | {"XDG_CACHE_HOME": str(tmp_path)})
    (tmp_path / "digitrec").mkdir()
    with subprocess.Popen(["sleep", "60"]) as other:
        head = {"pid": other.pid, "started": time.time() - 3600, "address": "http://x", "log": "x"}
        (tmp_path / "digitrec" / "cluster.json").write_text(json.dumps(head))
        said = alone.run("digitrec", "cluster", "stop")
        assert other.poll() is None
        other.kill()
    assert said.returncode == 0
    assert "No cluster" in said.stdout


@pytest.mark.parametrize("named", ["10.0.0.7:6379", "10.0.0.8:6379"])
def test_stop_deletes_rays_note_of_the_current_cluster_only_if_it_names_the_one_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    current = tmp_path / "ray_current_cluster"
    current.write_text(named)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    head = local.Head(
        pid=ended.pid,
        started=time.time(),
        address="http://x",
        log="x",
        gcs="10.0.0.7:6379",
        current=str(current),
    )
    assert local.stop(head) == 0
    assert current.exists() == (named != "10.0.0.7:6379")


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE).stdout.readline()
print(flush=True)
time.sleep(60)
"""


def test_processes_that_ignore_the_signal_are_killed_and_gone_when_stop_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(local, "END_SECONDS", 0.5)
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        process = psutil.Process(stubborn.pid)
        (child,) = process.children()
        head = local.Head(
            pid=process.pid, started=process.create_time(), address="http://x", log="x"
        )
        assert local.stop(head) == 2
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_port_that_is_taken_is_said_before_ray_starts(tmp_path: Path) -> None:
    alone = Cluster(address="", env=dict(os.environ) | {"XDG_CACHE_HOME": str(tmp_path)})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = alone.run("digitrec", "cluster", "start", "--dashboard-port", str(port))
    assert said.returncode == 2
    assert said.stderr.startswith(f"digitrec: port {port} cannot be used for the dashboard")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_reason_why_ray_does_not_start_is_said(tmp_path: Path) -> None:
    write_token(tmp_path)
    ours = {"XDG_CACHE_HOME": str(tmp_path), "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    alone = Cluster(address="", env=dict(os.environ) | ours)
    port = str(free_port())
    said = alone.run("digitrec", "cluster", "start", "--dashboard-port", port, "--num-cpu", "many")
    assert said.returncode == 2
    assert said.stderr.startswith("digitrec: Ray does not start: ")
    assert said.stderr.count("\n") == 1
    assert not (tmp_path / "digitrec" / "cluster.json").exists()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a package, data that git keeps and data that it ignores."""
    folder = tmp_path / "project"
    for name in ("digitrec/cli.py", "tune_jobs/grid.py", "digitrec/__pycache__/cli.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in ("kept.csv", "notes.txt", "my data [1]/#kept.csv", "results/old.csv", ".env"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".gitignore").write_text("/results/\n")
    monkeypatch.setattr(submit, "PROJECT", folder)
    monkeypatch.chdir(folder)
    return folder


def uploaded(runtime_env: dict[str, Any]) -> dict[str, int]:
    """The files that Ray would upload, and the bytes of each."""
    files = submit.uploaded_files(runtime_env)
    assert files is not None
    return files


def submission(data: str, *, on_this_machine: bool = False) -> submit.Submission:
    return submit.make_submission(data, "/shared/study", [], on_this_machine=on_this_machine)


CODE = {"digitrec/cli.py", "tune_jobs/grid.py"}


@pytest.mark.parametrize(
    ("data", "files"),
    [
        ("sample", CODE),
        ("/elsewhere/train.csv", CODE),
        ("s3://bucket/train.csv", CODE),
        ("kept.csv", CODE | {"kept.csv"}),
        ("my data [1]/#kept.csv", CODE | {"my data [1]/#kept.csv"}),
    ],
)
def test_only_the_code_and_a_named_file_of_the_project_are_uploaded(
    project: Path, data: str, files: set[str]
) -> None:
    job = submission(data)
    assert set(uploaded(job.runtime_env)) == files
    assert job.metadata["data"] == data


def test_test_data_goes_to_the_head_as_data_does(project: Path) -> None:
    job = submit.make_submission(
        "kept.csv", "/shared/study", [], test_data="notes.txt", on_this_machine=False
    )
    assert job.entrypoint.endswith("--test-data notes.txt")
    assert set(uploaded(job.runtime_env)) == CODE | {"kept.csv", "notes.txt"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("results/old.csv", "results/old.csv: is git-ignored, so Ray would not upload it; name"),
        ("no.csv", "no.csv: there is no such file here"),
        ("digitrec", "digitrec: several files are not uploaded with a job; name"),
        ("../outside.csv", "../outside.csv: lies outside"),
        ("large.csv", "large.csv: 11 MiB are too much to upload with a job"),
        ("https://host/train.csv", "https://host/train.csv: cannot be read; --data takes"),
    ],
)
def test_data_that_the_head_could_not_read_is_refused(
    project: Path, data: str, message: str
) -> None:
    (project.parent / "outside.csv").write_text("x")
    with (project / "large.csv").open("wb") as large:
        large.truncate(11 * 2**20)
    with pytest.raises(InputError, match=f"^{message.replace('.', '[.]')}"):
        submission(data)


@pytest.mark.parametrize("out", [None, "results/study"])
def test_a_study_directory_that_not_all_nodes_have_is_refused(out: str | None) -> None:
    with pytest.raises(InputError, match="name one that all nodes share by an absolute path"):
        submit.make_submission("sample", out, [], on_this_machine=False)


def test_a_study_on_this_machine_needs_no_directory_named() -> None:
    job = submit.make_submission("sample", None, [], on_this_machine=True)
    assert job.metadata["study"] == str(Path.cwd() / "results" / "sample")


def test_the_project_uploads_its_two_packages_and_no_more() -> None:
    runtime_env = yaml.safe_load(submit.RUNTIME_ENV.read_text()) | {"working_dir": str(ROOT)}
    files = uploaded(runtime_env)
    assert {"digitrec/cli/main.py", "tune_jobs/mnist_grid.py"} <= set(files)
    assert {file.split("/")[0] for file in files} == {"digitrec", "tune_jobs"}
    assert sum(files.values()) < 2**20

"""Each check against a table of made situations, then the whole on real Ray."""

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from digitrec.doctor import checks as diagnosis
from digitrec.doctor import examine as doctor
from digitrec.doctor.checks import GIB, MIB, Diagnosis, Level
from digitrec.doctor.machine import Machine, inspect_machine
from digitrec.doctor.nodes import Node
from digitrec.errors import InputError
from digitrec.request import Request
from digitrec.store.folder import Folder
from digitrec.tuning import ray_internals
from digitrec.tuning.dashboard import asks_for_token

MACHINE = Machine(
    name="here",
    python="3.11.7",
    versions={"digitrec": "0.1.0", "ray": "2.60.0", "torch": "2.13.0+cpu"},
    cores=8,
    quota=None,
    affinity=8,
    variables={},
    memory=16 * GIB,
    shared_memory=8 * GIB,
    gpus=0,
    torch_gpus=None,
)
FLOORS = {"ray": "2.56", "torch": "2.10"}
NODE = Node(address="10.0.0.7", cpus=8, gpus=0, object_store=GIB, machine=MACHINE, sees_study=True)
HERE, THERE = "http://127.0.0.1:8265", "http://10.0.0.7:8265"


def machine(**facts: Any) -> Machine:
    return replace(MACHINE, **facts)


def with_versions(**versions: str | None) -> Machine:
    return machine(versions=MACHINE.versions | versions)


Situation = tuple[Callable[[], Diagnosis], Level, str]  # a check, what it finds, words of it
SITUATIONS: dict[str, Situation] = {
    "versions": (
        lambda: diagnosis.judge_versions(MACHINE, FLOORS),
        "ok",
        "Python 3.11.7, digitrec 0.1.0, ray 2.60.0, torch 2.13.0+cpu",
    ),
    "an old ray": (
        lambda: diagnosis.judge_versions(with_versions(ray="2.9.3"), FLOORS),
        "problem",
        "ray 2.9.3 is older than 2.56",
    ),
    "no torch": (
        lambda: diagnosis.judge_versions(with_versions(torch=None), FLOORS),
        "problem",
        "torch is not installed",
    ),
    "a node of the same versions": (
        lambda: diagnosis.compare_versions(MACHINE, MACHINE),
        "ok",
        "ray 2.60.0",
    ),
    "a node of another torch": (
        lambda: diagnosis.compare_versions(with_versions(torch="2.12.0"), MACHINE),
        "problem",
        "torch 2.12.0, 2.13.0+cpu here",
    ),
    "a node of another Python": (
        lambda: diagnosis.compare_versions(machine(python="3.12.1"), MACHINE),
        "problem",
        "Python 3.12.1, 3.11.7 here",
    ),
    "a node without this package": (
        lambda: diagnosis.compare_versions(with_versions(digitrec=None), MACHINE),
        "warning",
        "digitrec is not installed",
    ),
    "all cores": (lambda: diagnosis.judge_cores(MACHINE, 1, 0), "ok", "8 of 8"),
    "threads from the environment": (
        lambda: diagnosis.judge_cores(machine(variables={"OMP_NUM_THREADS": "64"}), 1, 0),
        "ok",
        "OMP_NUM_THREADS=64 has no effect",
    ),
    "a container's quota, which Ray heeds": (
        lambda: diagnosis.judge_cores(machine(quota=4.0), 1, 0),
        "ok",
        "4 of 8",
    ),
    "a container's quota, which Ray is told to ignore": (
        lambda: diagnosis.judge_cores(
            machine(quota=4.0, variables={"RAY_USE_MULTIPROCESSING_CPU_COUNT": "1"}), 1, 0
        ),
        "warning",
        "Ray counts 8 CPUs, but trials can use only 4",
    ),
    "half a CPU": (
        lambda: diagnosis.judge_cores(machine(quota=0.5), 1, 0),
        "problem",
        "0.5 CPUs; Ray rounds that down to none",
    ),
    "fewer cores than Ray counts": (
        lambda: diagnosis.judge_cores(machine(affinity=2), 1, 0),
        "warning",
        "Ray counts 8 CPUs, but trials can use only 2",
    ),
    "trials that share a core": (
        lambda: diagnosis.judge_cores(MACHINE, 0.5, 0),
        "warning",
        "2 trials share a core",
    ),
    "trials that share a core and a GPU": (
        lambda: diagnosis.judge_cores(MACHINE, 0.5, 0.5),
        "ok",
        "8 of 8",
    ),
    "a node with as many CPUs as it has": (
        lambda: diagnosis.judge_node_cores(MACHINE, 8),
        "ok",
        "8 of 8",
    ),
    "a node that promises more CPUs than it has": (
        lambda: diagnosis.judge_node_cores(MACHINE, 64),
        "warning",
        "Ray counts 64 CPUs, but trials can use only 8",
    ),
    "free threads": (lambda: diagnosis.judge_pinning(MACHINE), "ok", "not pinned"),
    "threads said not to be pinned": (
        lambda: diagnosis.judge_pinning(machine(variables={"OMP_PROC_BIND": "FALSE"})),
        "ok",
        "not pinned",
    ),
    "pinned threads": (
        lambda: diagnosis.judge_pinning(machine(variables={"OMP_PROC_BIND": "close"})),
        "warning",
        "OMP_PROC_BIND=close",
    ),
    "much shared memory": (
        lambda: diagnosis.judge_shared_memory(MACHINE),
        "ok",
        "8.0 GiB free",
    ),
    "the shared memory of a container": (
        lambda: diagnosis.judge_shared_memory(machine(shared_memory=64 * MIB)),
        "warning",
        "/dev/shm has 64.0 MiB free, but Ray's object store needs 4.8 GiB",
    ),
    "much shared memory, little of more memory": (
        lambda: diagnosis.judge_shared_memory(machine(shared_memory=10 * GIB, memory=99 * GIB)),
        "ok",
        "10.0 GiB free",
    ),
    "no shared memory to speak of": (
        lambda: diagnosis.judge_shared_memory(machine(shared_memory=None)),
        "ok",
        "does not matter",
    ),
    "memory for all workers": (
        lambda: diagnosis.judge_memory(MACHINE, 100 * MIB, 8),
        "ok",
        "16.0 GiB free, 3.3 GiB needed",
    ),
    "too little memory for all workers": (
        lambda: diagnosis.judge_memory(MACHINE, GIB, 8),
        "warning",
        "16.0 GiB free, 34.0 GiB needed for the data in 8 workers",
    ),
    "data of unknown size": (
        lambda: diagnosis.judge_memory(MACHINE, None, 8),
        "ok",
        "not compared",
    ),
    "room for Ray": (
        lambda: diagnosis.judge_rays_disk(Path("/t"), 100 * GIB, 90 * GIB, 10 * GIB),
        "ok",
        "10.0 GiB free for Ray's files in /t",
    ),
    "no room for Ray": (
        lambda: diagnosis.judge_rays_disk(Path("/t"), 100 * GIB, 96 * GIB, 4 * GIB),
        "warning",
        "the disk of /t is 96% full",
    ),
    "room for the study": (
        lambda: diagnosis.judge_study_disk(Path("/s"), GIB, 25),
        "ok",
        "about 25.0 MiB",
    ),
    "no room for the study": (
        lambda: diagnosis.judge_study_disk(Path("/s"), 10 * MIB, 25),
        "warning",
        "10.0 MiB free for /s, which needs about 25.0 MiB",
    ),
    "no GPUs": (lambda: diagnosis.judge_gpus(MACHINE, None), "ok", "none"),
    "GPUs that all agree on": (
        lambda: diagnosis.judge_gpus(machine(gpus=2, torch_gpus=2), 2.0),
        "ok",
        "2; trials use them with --gpus-per-stack",
    ),
    "GPUs that this torch cannot use": (
        lambda: diagnosis.judge_gpus(machine(gpus=2, torch_gpus=0), None),
        "problem",
        "Ray counts 2, torch 2.13.0+cpu can use 0",
    ),
    "GPUs that torch says nothing of": (
        lambda: diagnosis.judge_gpus(machine(gpus=2, torch_gpus=None), 2.0),
        "problem",
        "can use 0",
    ),
    "more GPUs promised than torch can use": (
        lambda: diagnosis.judge_gpus(machine(gpus=1, torch_gpus=1), 4.0),
        "warning",
        "Ray counts 4, torch 2.13.0+cpu can use 1",
    ),
    "GPUs that Ray does not count": (
        lambda: diagnosis.judge_gpus(machine(gpus=2, torch_gpus=0), 0.0),
        "warning",
        "Ray counts only 0 of 2",
    ),
    "an object store that holds the data": (
        lambda: diagnosis.judge_object_store(GIB, 100 * MIB),
        "ok",
        "1.0 GiB",
    ),
    "an object store smaller than the data": (
        lambda: diagnosis.judge_object_store(100 * MIB, GIB),
        "warning",
        "100.0 MiB for about 1.0 GiB of data",
    ),
    "a shared directory": (lambda: diagnosis.judge_sharing("/s", []), "ok", "all nodes see"),
    "a directory of one node": (
        lambda: diagnosis.judge_sharing("/s", ["10.0.0.8", "10.0.0.9"]),
        "problem",
        "/s is another directory on 10.0.0.8, 10.0.0.9",
    ),
    "a directory that can be written to": (
        lambda: diagnosis.judge_storage("/s", None),
        "ok",
        "/s can be written to",
    ),
    "a directory that cannot": (
        lambda: diagnosis.judge_storage("/s", "Permission denied"),
        "problem",
        "/s cannot be written to: Permission denied",
    ),
    "data that can be read": (
        lambda: diagnosis.judge_data("train.csv", readable=True),
        "ok",
        "train.csv can be read",
    ),
    "data that cannot": (
        lambda: diagnosis.judge_data("train.csv", readable=False),
        "problem",
        "train.csv cannot be read here",
    ),
    "packaged data": (lambda: diagnosis.judge_data("sample", readable=False), "ok", "sample"),
    "data elsewhere": (
        lambda: diagnosis.judge_data("s3://bucket/train.csv", readable=False),
        "ok",
        "read when a study starts",
    ),
    "a small upload": (
        lambda: diagnosis.judge_upload({"a.py": MIB}, 512 * MIB, None),
        "ok",
        "uploads 1 files, 1.0 MiB",
    ),
    "a large upload": (
        lambda: diagnosis.judge_upload({"a.py": 1, "b.csv": 200 * MIB}, 512 * MIB, None),
        "warning",
        "the largest is b.csv (200.0 MiB)",
    ),
    "an upload that Ray refuses": (
        lambda: diagnosis.judge_upload({"b.csv": 600 * MIB}, 512 * MIB, None),
        "problem",
        "Ray accepts at most 512.0 MiB",
    ),
    "data that an upload leaves out": (
        lambda: diagnosis.judge_upload({"a.py": 1}, 512 * MIB, "train.csv"),
        "warning",
        "train.csv is git-ignored",
    ),
    "a safe token": (
        lambda: diagnosis.judge_token_file(Path("t"), False),
        "ok",
        "readable by you alone",
    ),
    "a token that others can read": (
        lambda: diagnosis.judge_token_file(Path("t"), True),
        "problem",
        "t and its folder are open to others",
    ),
    "no authentication": (
        lambda: diagnosis.judge_auth_mode(None, has_token=False),
        "ok",
        "without a token",
    ),
    "authentication": (
        lambda: diagnosis.judge_auth_mode("token", has_token=True),
        "ok",
        "with a token",
    ),
    "no token to show": (
        lambda: diagnosis.judge_auth_mode("token", has_token=False),
        "problem",
        "there is no token",
    ),
    "a token that is not shown": (
        lambda: diagnosis.judge_auth_mode(None, has_token=True),
        "warning",
        "RAY_AUTH_MODE is not set",
    ),
    "a guarded dashboard of this machine": (
        lambda: diagnosis.judge_exposure(HERE, asks_for_token=True),
        "ok",
        "users with the token, from this machine only",
    ),
    "an open dashboard of this machine": (
        lambda: diagnosis.judge_exposure("http://[::1]:8265", asks_for_token=False),
        "warning",
        "lets every user of this machine run code",
    ),
    "a guarded dashboard of the network": (
        lambda: diagnosis.judge_exposure(THERE, asks_for_token=True),
        "warning",
        "in clear text",
    ),
    "an encrypted dashboard of the network": (
        lambda: diagnosis.judge_exposure("https://ray.example.org", asks_for_token=True),
        "ok",
        "users with the token",
    ),
    "an open dashboard of the network": (
        lambda: diagnosis.judge_exposure(THERE, asks_for_token=False),
        "problem",
        "everybody who reaches it can run code (CVE-2023-48022)",
    ),
    "a silent node": (lambda: diagnosis.judge_silence("10.0.0.8"), "problem", "does not answer"),
    "no cluster": (
        lambda: diagnosis.judge_connection("no Ray cluster answers at h:1: refused\nand more"),
        "problem",
        "no Ray cluster answers at h:1: refused",
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_situation_is_diagnosed(situation: str) -> None:
    check, level, words = SITUATIONS[situation]
    found = check()
    assert (found.level, words in found.message) == (level, True), found
    assert "\n" not in found.message + found.remedy


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_amiss_has_a_remedy_and_what_is_well_has_none(situation: str) -> None:
    found = SITUATIONS[situation][0]()
    assert bool(found.remedy) == (found.level != "ok")


def test_every_check_is_in_the_table() -> None:
    checks = {name for name in vars(diagnosis) if name.startswith(("judge_", "compare_"))}
    used = {name for check, _, _ in SITUATIONS.values() for name in check.__code__.co_names}
    assert checks <= used


def judge(node: Node, **wishes: Any) -> list[Diagnosis]:
    return list(doctor.judge_node(node, MACHINE, Request(**wishes)))


def test_a_healthy_node_is_one_line() -> None:
    (found,) = judge(NODE)
    assert (found.name, found.level) == ("node 10.0.0.7", "ok")
    assert found.message.startswith("8 CPUs, 0 GPUs, 1.0 GiB object store; Python 3.11.7")


def test_a_sick_node_has_a_line_for_each_thing_amiss() -> None:
    there = machine(python="3.10.2", variables={"OMP_PROC_BIND": "true"})
    found = judge(replace(NODE, machine=there, gpus=1))
    assert [one.level for one in found] == ["problem", "warning", "problem"]
    assert [one.message.split(":")[0] for one in found] == ["versions", "threads", "GPUs"]


def test_a_node_that_does_not_answer_is_a_problem() -> None:
    (found,) = judge(replace(NODE, machine=None, sees_study=None))
    assert found.level == "problem"


def test_the_floors_are_those_of_the_package() -> None:
    assert set(doctor.version_floors()) == {"ray", "torch"}


def test_the_cheap_checks_say_nothing_of_a_machine_without_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "inspect_machine", lambda: MACHINE)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert doctor.cheap_checks(Request(out=str(tmp_path))) == []


def test_the_cheap_checks_say_what_is_amiss(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pinned = machine(variables={"OMP_PLACES": "cores"}, shared_memory=MIB)
    monkeypatch.setattr(doctor, "inspect_machine", lambda: pinned)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = doctor.cheap_checks(Request(out=str(tmp_path)))
    assert [one.name for one in found] == ["threads", "shared memory"]
    assert doctor.cheap_checks(Request(out=str(tmp_path), address="10.0.0.7:6379")) == []


def test_this_machine_is_inspected() -> None:
    found = inspect_machine()
    assert found.versions.keys() == MACHINE.versions.keys()
    assert all(found.versions.values())
    assert 1 <= found.affinity <= found.cores
    assert found.memory is None or found.memory > 0
    assert found.torch_gpus is None


@pytest.mark.parametrize(
    ("name", "size", "estimate"),
    [("a.csv", 100, 50), ("a.csv.gz", 100, 400), ("a.parquet", 100, 400)],
)
def test_the_size_of_the_data_is_estimated_from_the_file(
    tmp_path: Path, name: str, size: int, estimate: int
) -> None:
    (tmp_path / name).write_bytes(bytes(size))
    assert doctor.estimate_bytes(str(tmp_path / name)) == estimate


def test_the_size_of_what_is_not_a_file_is_known_only_of_the_packaged_data() -> None:
    assert doctor.estimate_bytes("sample") == 5_000 * 784
    assert doctor.estimate_bytes("s3://bucket/train.csv") is None


def test_an_upload_leaves_out_what_git_and_ray_ignore(tmp_path: Path) -> None:
    for name in (".git/config", "a/b.py", "a/c.tmp", "train.csv", "x.bin", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(7))
    (tmp_path / ".gitignore").write_text("train.csv\n")
    (tmp_path / ".rayignore").write_text("*.bin\n")
    (tmp_path / "a" / ".gitignore").write_text("*.tmp\n")
    files = ray_internals.uploaded_files(tmp_path, most_files=100)
    assert files is not None
    assert files.keys() == {".gitignore", ".rayignore", "a/.gitignore", "a/b.py"}
    assert files["a/b.py"] == 7


def test_a_git_ignored_data_file_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("label,pixel0\n")
    assert doctor.examine_upload(tmp_path, "train.csv").level == "ok"
    (tmp_path / ".gitignore").write_text("*.csv\n")
    assert doctor.examine_upload(tmp_path, "train.csv").level == "warning"
    assert doctor.examine_upload(tmp_path, str(tmp_path / "train.csv")).level == "ok"


def test_the_study_directory_is_left_as_it_was_found(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    with doctor.left_as_found(deep):
        assert doctor.examine_storage(Folder.at(deep)).level == "ok"
    assert list(tmp_path.iterdir()) == []
    deep.mkdir(parents=True)
    with doctor.left_as_found(deep):
        doctor.examine_storage(Folder.at(deep))
    assert deep.is_dir()


def test_a_study_directory_that_cannot_be_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = doctor.examine_storage(Folder.at(tmp_path / "file" / "study"))
    assert found.level == "problem"
    assert found.message.endswith("Not a directory")


@pytest.mark.parametrize(
    ("file", "directory", "level"),
    [
        (0o600, 0o755, "ok"),
        (0o644, 0o755, "problem"),
        (0o644, 0o700, "ok"),
        (0o640, 0o750, "problem"),
    ],
)
def test_an_open_token_is_a_problem_with_and_without_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: int, directory: int, level: Level
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(file)
    token.parent.chmod(directory)
    for address in (None, "http://127.0.0.1:9"):
        request = Request(out=str(tmp_path / "study"), address=address)
        found = {one.name: one for one in doctor.examine(request, Console(quiet=True))}
        assert found["token"].level == level
        assert ("upload" in found) is (address is not None)  # a study here uploads nothing
    token.unlink()
    assert doctor.examine_token() == []


@contextmanager
def serving(status: int, body: str) -> Iterator[str]:
    """A server that gives every request the same answer; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_dashboard_is_asked_whether_it_wants_a_token(mode: str) -> None:
    with serving(200, json.dumps({"authentication_mode": mode})) as url:
        assert asks_for_token(url) == (mode == "token")


@pytest.mark.slow
@pytest.mark.parametrize(("status", "body"), [(404, ""), (200, "<html>"), (200, "[]")])
def test_what_is_not_a_dashboard_is_told_from_one(status: int, body: str) -> None:
    with serving(status, body) as url, pytest.raises(InputError, match="Ray dashboard"):
        asks_for_token(url)


def test_a_dashboard_of_the_head_alone_is_well_hidden() -> None:
    nobody = "http://127.0.0.1:9"
    assert doctor.examine_dashboard(nobody).level == "problem"
    assert doctor.examine_own_dashboard(nobody).level == "ok"


def run_doctor(*options: str, **environment: str) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "digitrec", "doctor", *options],
        capture_output=True,
        text=True,
        env=environment or None,
        timeout=120,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_the_command_exits_with_1_if_there_is_a_problem_and_says_the_remedy(
    tmp_path: Path,
) -> None:
    code, text = run_doctor("--data", str(tmp_path / "none.csv"), "--out", str(tmp_path))
    assert code == 1
    problem, remedy = (text.splitlines()[place] for place in _places(text, "problem"))
    assert problem.startswith("problem  data: ")
    assert remedy.startswith("  remedy ")


def _places(text: str, level: Level) -> tuple[int, int]:
    (place,) = (n for n, line in enumerate(text.splitlines()) if line.startswith(level))
    return place, place + 1


def test_a_diagnosis_is_a_line_and_its_remedy_another() -> None:
    one = Diagnosis(name="threads", level="warning", message="pinned", remedy="unset OMP_PLACES")
    assert (
        doctor.describe_diagnosis(one).plain
        == "warning  threads: pinned\n  remedy unset OMP_PLACES"
    )


def test_bytes_read_as_a_person_says_them() -> None:
    assert [diagnosis.format_bytes(n) for n in (0, 3_920_000, 12 * GIB)] == [
        "0.0 MiB",
        "3.7 MiB",
        "12.0 GiB",
    ]
    assert math.isclose(GIB, 1024 * MIB)

"""One run at a time in a study directory, on a file system and on an S3 server."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from digitrec.errors import InputError
from digitrec.store import lock
from digitrec.store.folder import Folder, LocalFolder
from digitrec.store.lock import NAME, LockOwner, check_free, locked
from tests.conftest import S3Server

HOLD = (
    "import sys, time; from digitrec.store.lock import locked\n"
    "from digitrec.store.folder import Folder\n"
    "with locked(Folder.at(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


@pytest.fixture(params=["directory", "bucket"])
def study(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Folder:
    """An empty study directory; a bucket's lock lives faster than it otherwise does."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "STALE_SECONDS", 3.0)
    if request.param == "directory":
        return Folder.at(tmp_path)
    server: S3Server = request.getfixturevalue("s3_server")
    return Folder.at(server.uri(uuid.uuid4().hex))


def hold(study: Folder) -> "subprocess.Popen[str]":
    """Hold a study directory in another process, which gives a sign of life every 5 seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(study)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


@pytest.mark.slow
def test_a_second_run_is_refused_and_told_of_the_first(
    study: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 20.0)  # the other process beats at its own pace
    first = hold(study)
    try:
        with pytest.raises(InputError) as caught, locked(study):
            raise AssertionError("two runs hold one directory")
    finally:
        end(first)
    who = rf"process {first.pid} on {re.escape(socket.gethostname())} since 20\d\d-"
    assert re.search(f"is in use by {who}.*stop it, then run the command again", str(caught.value))


@pytest.mark.slow
def test_the_lock_of_a_process_that_was_killed_does_not_block(study: Folder) -> None:
    end(hold(study))
    with locked(study) as held:
        held.check()


@pytest.mark.slow
def test_a_lock_is_free_again_after_the_block(study: Folder) -> None:
    for _ in range(2):
        with locked(study) as held:
            held.check()
            check_free(LocalFolder(Path("/nowhere")))
    with pytest.raises(ZeroDivisionError), locked(study):
        _ = 1 / 0
    with locked(study):
        pass


def test_a_quick_look_refuses_a_directory_in_use(tmp_path: Path) -> None:
    study = Folder.at(tmp_path)
    check_free(study)
    with locked(study), pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
        check_free(study)
    check_free(study)


def test_a_directory_that_was_removed_is_no_longer_held(tmp_path: Path) -> None:
    study = LocalFolder(tmp_path / "study")
    study.prepare()
    with locked(study) as held:
        held.check()
        shutil.rmtree(study.path)
        with pytest.raises(FileNotFoundError, match="removed or replaced"):
            held.check()


def test_a_directory_that_was_replaced_is_no_longer_held(tmp_path: Path) -> None:
    study = LocalFolder(tmp_path / "study")
    study.prepare()
    with locked(study) as held:
        study.path.rename(tmp_path / "elsewhere")
        study.prepare()
        (study.path / NAME).write_text("")
        with pytest.raises(FileNotFoundError, match="removed or replaced"):
            held.check()


def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "STALE_SECONDS", 3.0)
    return Folder.at(s3_server.uri(uuid.uuid4().hex))


def holder_of(study: Folder) -> dict[str, object]:
    values: dict[str, object] = json.loads(study.read(NAME))
    return values


@pytest.mark.slow
def test_a_lock_in_a_bucket_beats_while_it_is_held(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = bucket(s3_server, monkeypatch)
    deadline = time.monotonic() + 60
    with locked(study):
        while holder_of(study)["beat"] in (0, 1) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert holder_of(study)["beat"] not in (0, 1)
    with pytest.raises(FileNotFoundError):
        study.read(NAME)


def elsewhere(**values: object) -> bytes:
    holder = {
        "host": "elsewhere",
        "pid": 1,
        "since": "2026-01-01 00:00:00",
        "token": "x",
        "beat": 7,
    }
    return json.dumps(holder | values).encode()


@pytest.mark.slow
def test_a_lock_of_another_machine_is_taken_once_it_stands_still(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = bucket(s3_server, monkeypatch)
    study.write(NAME, elsewhere())
    before = time.monotonic()
    with locked(study):
        assert time.monotonic() - before >= lock.STALE_SECONDS
        assert holder_of(study)["pid"] == os.getpid()


@pytest.mark.slow
def test_a_lock_that_cannot_be_read_is_no_lock(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = bucket(s3_server, monkeypatch)
    study.write(NAME, b"{")
    with locked(study):
        assert holder_of(study)["pid"] == os.getpid()


@pytest.mark.slow
def test_a_run_whose_lock_was_taken_learns_of_it_and_leaves_it_alone(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = bucket(s3_server, monkeypatch)
    deadline = time.monotonic() + 60
    with locked(study) as held:
        held.check()
        lost = None
        while lost is None and time.monotonic() < deadline:
            # Again and again: a beat that was on its way may have written over it.
            study.write(NAME, elsewhere())
            try:
                held.check()
            except OSError as error:
                lost = error
        assert "in use by process 1 on elsewhere" in str(lost)
    assert holder_of(study)["host"] == "elsewhere"


@pytest.mark.slow
def test_two_runs_that_begin_at_the_same_moment_do_not_both_hold(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = bucket(s3_server, monkeypatch)
    write = lock._write

    def write_and_lose(study: Folder, me: LockOwner, beat: int) -> None:
        write(study, me, beat)
        study.write(NAME, elsewhere())

    monkeypatch.setattr(lock, "_write", write_and_lose)
    with pytest.raises(InputError, match="in use by process 1 on elsewhere"), locked(study):
        raise AssertionError("two runs hold one directory")


def test_a_lock_that_leads_elsewhere_is_refused_and_nothing_is_emptied(tmp_path: Path) -> None:
    victim, directory = tmp_path / "victim", tmp_path / "study"
    victim.write_text("precious")
    directory.mkdir()
    (directory / NAME).symlink_to(victim)
    study = Folder.at(directory)
    for attempt in (lambda: locked(study).__enter__(), lambda: check_free(study)):
        with pytest.raises(InputError, match=r"\.lock: it is a symbolic link.*Remove it, or"):
            attempt()
    (directory / NAME).unlink()
    (directory / NAME).hardlink_to(victim)
    with pytest.raises(InputError, match="not a lock of digitrec"), locked(study):
        raise AssertionError("a foreign file was taken for a lock")
    victim.write_text("")
    with pytest.raises(InputError, match="a hard link to another file"), locked(study):
        raise AssertionError("a foreign file was taken for a lock")
    (directory / NAME).unlink()
    victim.write_text("precious")
    (directory / NAME).symlink_to(tmp_path / "new")
    with pytest.raises(InputError, match="symbolic link"), locked(study):
        raise AssertionError("a link was followed")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_a_lock_that_is_no_file_is_refused_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    place = tmp_path / NAME
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    study = Folder.at(tmp_path)
    with pytest.raises(InputError, match=f"it is a .*{kind}, not a regular file"):
        check_free(study)
    with pytest.raises(InputError, match="Remove it, or give --out"), locked(study):
        raise AssertionError("a special file was taken for a lock")


@pytest.mark.parametrize("content", [b"notes of mine", b"x" * 5000])
def test_the_lock_of_another_program_is_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError, match="not a lock of digitrec"), locked(Folder.at(tmp_path)):
        raise AssertionError("a foreign file was taken for a lock")
    assert (tmp_path / NAME).read_bytes() == content


@pytest.mark.parametrize("content", [b"", bytes(150), b'{"host": "a", "pid'])
def test_a_lock_that_was_cut_short_does_not_block(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with locked(Folder.at(tmp_path)) as held:
        held.check()


@pytest.mark.parametrize("changed", [{"pid": "x"}, {"pid": 10**30}, {"pid": -1}, {"host": 3}])
def test_a_lock_that_names_no_process_is_none(changed: dict[str, object], tmp_path: Path) -> None:
    study = Folder.at(tmp_path)
    study.write(NAME, elsewhere(**changed))
    assert lock._read(study) is None

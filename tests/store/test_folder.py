"""Folders of a file system and of an S3 server keep the same laws."""

import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from digitrec.errors import DamagedError, InputError
from digitrec.store.folder import BucketFolder, Folder, LocalFolder, describe_error
from tests.conftest import S3Server

AWAY_SECONDS = 3.0


@pytest.fixture(params=["directory", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "directory":
        return Folder.at(tmp_path)
    server: S3Server = request.getfixturevalue("s3_server")
    return Folder.at(server.uri(uuid.uuid4().hex))


def test_what_is_written_is_read(folder: Folder) -> None:
    content = bytes(range(256)) * 1000
    folder.write("a", content)
    assert folder.read("a") == content
    folder.write("a", b"")
    assert folder.read("a") == b""


def test_a_file_that_is_not_there_is_said_at_once(folder: Folder) -> None:
    for place in (folder, folder / "nowhere"):
        with pytest.raises(FileNotFoundError):
            place.read("a")


def test_names_are_sorted_and_of_this_folder_alone(folder: Folder) -> None:
    for name in ("b.csv", "a.csv", "c.json", ".hidden.csv"):
        folder.write(name, b"x")
    (folder / "inner").write("d.csv", b"x")
    assert folder.names() == ["a.csv", "b.csv", "c.json"]
    assert folder.names(".csv") == ["a.csv", "b.csv"]
    assert (folder / "inner").names() == ["d.csv"]
    assert (folder / "nowhere").names() == []


def test_removing_what_is_not_there_is_no_error(folder: Folder) -> None:
    folder.write("a", b"x")
    for _ in range(2):
        folder.remove("a")
    (folder / "nowhere").remove("a")
    assert folder.names() == []


def test_a_moved_file_is_in_the_other_folder_alone(folder: Folder) -> None:
    folder.write("a", b"new")
    (folder / "inner").write("b", b"old")
    folder.move("a", folder / "inner", "b")
    assert folder.names() == []
    assert (folder / "inner").read("b") == b"new"


def test_a_folder_is_equal_to_itself_and_keeps_its_name(folder: Folder) -> None:
    inner = folder / "inner"
    assert inner == Folder.at(str(inner))
    assert inner != folder
    assert inner.name == "inner"
    assert pickle.loads(pickle.dumps(inner)) == inner


def test_preparing_leaves_nothing_behind(folder: Folder) -> None:
    inner = folder / "some" / "where"
    inner.prepare()
    assert inner.names() == []
    if inner.path:
        assert list(inner.path.iterdir()) == []


@pytest.mark.parametrize("place", ["ftp://host/x", "http://host/x", "nonsense://"])
def test_a_place_of_no_known_kind_is_refused(place: str) -> None:
    with pytest.raises(InputError, match="neither a path nor one of s3://"):
        Folder.at(place)


def test_a_path_may_be_written_as_a_uri_or_from_home(tmp_path: Path) -> None:
    assert Folder.at(f"file://{tmp_path}") == Folder.at(tmp_path)
    assert Folder.at("~/x") == Folder.at(Path.home() / "x")


def test_a_writer_that_is_killed_leaves_the_earlier_file_and_nothing_to_read(
    tmp_path: Path,
) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("a", b"earlier")
    killed_in_the_middle = (
        "import os, signal, sys; from digitrec.store.folder import Folder\n"
        "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Folder.at(sys.argv[1]).write('a', b'later')\n"
    )
    command = [sys.executable, "-c", killed_in_the_middle, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert folder.read("a") == b"earlier"
    assert folder.names() == ["a"]
    assert len(list(tmp_path.iterdir())) == 2
    folder.remove_temporaries()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_write_that_fails_leaves_the_earlier_file_and_says_which(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("a", b"earlier")

    def fail(file: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            folder.write("a", b"later")
    assert describe_error(caught.value) == f"{tmp_path / 'a'}: {os.strerror(number)}"
    assert folder.read("a") == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_directory_of_a_study_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    study = LocalFolder(tmp_path / "study")
    study.prepare()
    (study / "stacks").write("a", b"x")
    (study / "stacks").remove("a")
    (study.path / "stacks").rmdir()
    study.path.rmdir()
    with pytest.raises(FileNotFoundError):
        (study / "stacks").write("a", b"x")
    assert not study.path.exists()


def test_credentials_are_not_pickled(s3_server: S3Server) -> None:
    folder = Folder.at(s3_server.uri("pickled"))
    folder.write("a", b"x")  # now it is connected
    pickled = pickle.dumps(folder)
    assert b"testing" not in pickled  # the key, and the secret
    assert pickle.loads(pickled).read("a") == b"x"


class Forwarder:
    """A TCP port before another, which can refuse connections for a while."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self.target = host, int(port)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = probe.getsockname()
        self.connections = 0

    @property
    def endpoint(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Answer for the length of the block."""
        listener = socket.create_server(self.address)
        accepting = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        accepting.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self.target)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=pair, daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with source, target:
        try:
            while content := source.recv(65536):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.mark.slow
def test_a_store_that_is_away_for_some_seconds_is_waited_for(s3_server: S3Server) -> None:
    forwarder = Forwarder(s3_server.endpoint)
    through = S3Server(forwarder.endpoint, s3_server.bucket)
    key = uuid.uuid4().hex
    folder = Folder.at(through.uri(key))
    failures: list[BaseException] = []

    def write() -> None:
        try:
            folder.write("a", b"patience")
        except OSError as error:
            failures.append(error)

    writing = threading.Thread(target=write)
    writing.start()
    time.sleep(AWAY_SECONDS)
    assert writing.is_alive()
    assert forwarder.connections == 0
    with forwarder.answering():
        writing.join(timeout=120)
        assert failures == []
        assert not writing.is_alive()
    assert Folder.at(s3_server.uri(key)).read("a") == b"patience"


@pytest.mark.slow
def test_a_store_that_is_away_at_the_start_is_not_waited_for(s3_server: S3Server) -> None:
    folder = BucketFolder(S3Server(Forwarder("x:0").endpoint, "digits").uri("a"))
    with pytest.raises(OSError, match=r"s3://digits/a.*: .+"):
        folder.prepare()


class Denies(BaseHTTPRequestHandler):
    """An S3 server that denies everything, and counts."""

    asked = 0

    def answer(self) -> None:
        type(self).asked += 1
        content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_store_that_denies_is_told_at_once(s3_server: S3Server) -> None:
    server = HTTPServer(("127.0.0.1", 0), Denies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = Folder.at(S3Server(f"127.0.0.1:{server.server_port}", "digits").uri("a"))
    Denies.asked = 0
    try:
        for operation in (
            lambda: folder.write("a", b"x"),
            lambda: folder.read("a"),
            lambda: folder.names(),
        ):
            with pytest.raises(OSError, match=r"s3://digits/a.*ACCESS_DENIED"):
                operation()
    finally:
        server.shutdown()
        server.server_close()
    assert 3 <= Denies.asked <= 6  # no further attempts


def test_a_bucket_that_is_not_there_is_told_at_once(s3_server: S3Server) -> None:
    folder = Folder.at(s3_server._replace(bucket="no-such-bucket").uri("a"))
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        folder.prepare()


def test_a_file_that_only_pretends_to_be_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(DamagedError, match="not a file of digitrec"):
        Folder.at(tmp_path).read("x.safetensors")

"""Where data may come from, and what is said of what cannot be data."""

import gzip
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSystem

from digitrec.cli import main as cli
from digitrec.data import location
from digitrec.data.digits import read_digits
from digitrec.data.readers import read_blocks
from digitrec.errors import InputError
from tests.conftest import S3Server

ROOT = Path(__file__).parents[2]
ACCEPTED = f"expected {location.ACCEPTED}"
DAMAGED = "it is damaged, cut short or of another format"
DIGITS = b"label,pixel0,pixel1\n7,12,3\n5,0,255\n"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each test name its files as a user would: by a short relative path."""
    monkeypatch.chdir(tmp_path)


def written(name: str, content: bytes = DIGITS) -> str:
    Path(name).write_bytes(content)
    return name


def check_digits(source: str) -> None:
    digits = read_digits(source)
    assert digits.images.tolist() == [[12, 3], [0, 255]]
    assert digits.labels.tolist() == [7, 5]
    assert digits.source == source


def refusal(source: str) -> str:
    with pytest.raises(InputError) as caught:
        read_digits(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["my digits.csv", "Ziffern-größer-数字.csv", "TRAIN.CSV", "a.b.csv", "'quoted'.csv", "a?b.csv"],
)
def test_a_file_may_have_any_name(name: str) -> None:
    check_digits(written(name))


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("home").mkdir()
    monkeypatch.setenv("HOME", str(Path("home").resolve()))
    written("home/train.csv")
    check_digits("~/train.csv")
    assert refusal("~/none.csv") == f"~/none.csv: No such file or directory; {ACCEPTED}"


def test_a_link_to_a_file_is_the_file() -> None:
    written("train.csv")
    Path("link.csv").symlink_to("train.csv")
    check_digits("link.csv")


def test_what_is_no_regular_file_is_refused_with_the_reason() -> None:
    Path("folder.csv").mkdir()
    os.mkfifo("pipe.csv")
    Path("loop.csv").symlink_to("loop.csv")
    Path("dangling.csv").symlink_to("none.csv")
    written("empty.csv", b"")
    written("empty.csv.gz", b"")
    written("empty.parquet", b"")
    columns = "expected columns 'label' and one column per pixel: pixel0, pixel1, ..."
    folders = "one folder of .png files per digit, named 0 to 9"
    not_twice = "a pipe or a device, which cannot be read twice; save it as a file first"
    for name, message in (
        ("folder.csv", f"no .png files; expected them, or {folders}"),
        ("pipe.csv", not_twice),
        ("/dev/null", not_twice),
        ("loop.csv", f"Too many levels of symbolic links; {ACCEPTED}"),
        ("dangling.csv", f"No such file or directory; {ACCEPTED}"),
        ("a\0b.csv", f"embedded null byte; {ACCEPTED}"),
        ("", f"No such file or directory; {ACCEPTED}"),
        ("empty.csv", f"the file is empty; {columns}"),
        ("empty.csv.gz", f"the file is empty; {columns}"),
        ("empty.parquet", f"the file is empty; {columns}"),
    ):
        assert refusal(name) == f"{name}: {message}"


def test_a_pipe_of_a_shell_is_refused_and_does_not_hang() -> None:
    program = f"{sys.executable} -m digitrec tune --data <(cat /dev/zero) --out out"
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "a pipe or a device, which cannot be read twice" in done.stderr
    assert not Path("out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused() -> None:
    written("train.csv")
    Path("train.csv").chmod(0)
    assert refusal("train.csv") == f"train.csv: Permission denied; {ACCEPTED}"


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
@pytest.mark.parametrize("addition", [b"7,1,2\n", b"7,1", b"7,1,x\n"])
def test_a_file_that_grows_while_it_is_read_is_refused(name: str, addition: bytes) -> None:
    content = b"label,pixel0,pixel1\n" + b"5,128,255\n" * 400_000  # two blocks
    compress = gzip.compress if name.endswith(".gz") else bytes
    written(name, compress(content))

    def read_while_it_grows() -> None:
        for number, _ in enumerate(read_blocks(name, labels_required=True)):
            if number == 0:
                with Path(name).open("ab") as file:
                    file.write(compress(addition))

    with pytest.raises(InputError) as caught:
        read_while_it_grows()
    message = "the file changed while it was read; try again once it is whole"
    assert str(caught.value) == f"{name}: {message}"


def test_an_address_of_no_object_store_is_refused() -> None:
    stores = "neither a path nor one of s3://, gs://, gcs://"
    for address in ("http://host/train.csv", "file:///train.csv", "://x.csv"):
        assert refusal(address) == f"{address}: {stores}; {ACCEPTED}"


def test_keys_in_an_address_are_refused_and_not_repeated() -> None:
    message = refusal("s3://AKIAKEY:secret@bucket/train.csv")
    assert message.startswith("s3://...@bucket/train.csv: keys do not belong in an address")
    assert not {"AKIAKEY", "secret"} & set(message.replace(":", " ").split())


def put(server: S3Server, key: str, content: bytes = DIGITS) -> str:
    """Write an object, and return its address as a user would write it."""
    filesystem, path = FileSystem.from_uri(server.uri("x"))
    name = f"{path.removesuffix('/x')}/{key}"
    with filesystem.open_output_stream(name, compression=None) as file:
        file.write(content)
    return server.uri(key)


def parquet_of_digits() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"label": [7, 5], "pixel0": [12, 0], "pixel1": [3, 255]})
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("data/train.csv", DIGITS),
        ("data/train.CSV.GZ", gzip.compress(DIGITS, mtime=0)),
        ("data/train.parquet", parquet_of_digits()),
        ("data/my digits-größer.csv", DIGITS),
        ("data/careful.csv", DIGITS.replace(b"12", b"12.0")),
    ],
)
def test_digits_are_read_from_s3(s3_server: S3Server, key: str, content: bytes) -> None:
    check_digits(put(s3_server, key, content))


def test_many_blocks_are_read_from_s3(s3_server: S3Server) -> None:
    content = b"label,pixel0\n" + b"1,128\n" * 500_000 + b"2,7\n"
    digits = read_digits(put(s3_server, "large/train.csv", content))
    assert digits.images.shape == (500_001, 1)
    assert digits.labels[-1] == 2


def test_errors_of_s3_are_one_line(s3_server: S3Server) -> None:
    missing = f"no such object, or no such bucket; {ACCEPTED}"
    put(s3_server, "some/folder/train.csv")
    options = s3_server.uri("").partition("?")[2]
    for address, message in (
        (s3_server.uri("none.csv"), missing),
        (f"s3://no-bucket/train.csv?{options}", missing),
        (s3_server.uri("some/folder/train.csv") + "&nonsense=1", "Unexpected query parameter"),
        (put(s3_server, "some/notes.txt"), f"unknown kind of file; {ACCEPTED}"),
        (put(s3_server, "some/empty.csv", b""), "the file is empty; expected columns"),
        (
            put(s3_server, "some/cut.csv.gz", gzip.compress(DIGITS, mtime=0)[:-9]),
            "not a readable gzip file",
        ),
        (put(s3_server, "some/bad.csv", DIGITS + b"1,2,x\n"), "row 3, column pixel1: 'x' is not a"),
    ):
        assert refusal(address).startswith(f"{address}: {message}")


@contextmanager
def refusing_all(server: S3Server) -> Iterator[None]:
    """Let the server refuse whoever has no key that it gave out."""

    def let_in(requests: bytes) -> None:
        url = f"http://{server.endpoint}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, requests, headers, method="POST")
        urllib.request.urlopen(request, timeout=30).close()

    let_in(b"0")
    try:
        yield
    finally:
        let_in(b"inf")


def test_keys_that_s3_does_not_know_are_one_line_and_exit_code_2(
    s3_server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    address = put(s3_server, "secret/train.csv")
    with refusing_all(s3_server):
        assert cli.main(["tune", "--data", address, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"digitrec: {address}: ")
    assert "ACCESS_DENIED" in said or "HTTP status 403" in said
    assert said.count("\n") == 1
    check_digits(address)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.slow
def test_a_server_that_is_away_is_one_line(s3_server: S3Server) -> None:
    options = f"endpoint_override=127.0.0.1:{free_port()}&scheme=http"
    s3 = f"s3://digits/train.csv?{options}"
    gs = f"gs://anonymous@digits/train.csv?{options}&retry_limit_seconds=1"
    for address in (s3, gs):
        message = refusal(address)
        assert message.startswith(f"{address}: ")
        assert "onnect" in message


@pytest.fixture
def google_storage() -> Iterator[str]:
    """The options that lead an address to a server of which the current folder is the storage."""
    command = [sys.executable, "-m", "tests.google_storage", "."]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        yield f"scheme=http&endpoint_override=127.0.0.1:{port}&retry_limit_seconds=5"
        server.terminate()


def test_digits_are_read_from_google_cloud_storage(google_storage: str) -> None:
    Path("bucket").mkdir()
    written("bucket/my digits.csv")
    written("bucket/train.csv.gz", gzip.compress(DIGITS, mtime=0))
    check_digits(f"gs://anonymous@bucket/my digits.csv?{google_storage}")
    check_digits(f"gcs://anonymous@bucket/train.csv.gz?{google_storage}")
    missing = f"gs://anonymous@bucket/none.csv?{google_storage}"
    assert refusal(missing).startswith(f"{missing}: no such object, or no such bucket")

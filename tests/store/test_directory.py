"""A study directory that somebody else may write in: nothing redirected, emptied or waited for."""

import errno
import io
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from digitrec.cli import main as cli
from digitrec.errors import DamagedError, InputError
from digitrec.results.outcome import conclude
from digitrec.results.report.summary import summarise
from digitrec.store import folder as folder_module
from digitrec.store.best import ABOUT, MODEL, read_best
from digitrec.store.directory import INNER, check_directory, find_damage, remove_temporaries
from digitrec.store.folder import BucketFolder, Folder, LocalFolder, describe_error
from digitrec.store.record import read_record
from digitrec.store.spec import read_spec
from digitrec.store.stacks import clear_failures, read_failures
from digitrec.store.timings import read_timings
from digitrec.store.validation import read_labels
from digitrec.study import claim
from digitrec.winner.classifier import load_classifier
from tests.conftest import S3Server
from tests.fuzz import make_study

HEX = "0123456789abcdef" * 2
KINDS = ["link", "pipe", "device", "socket", "directory"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_study(directory := tmp_path_factory.mktemp("whole") / "study")
    return directory


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    """A study with a file of every kind."""
    shutil.copytree(whole, tmp_path / "study")
    return tmp_path / "study"


def tune(directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `tune` says when it refuses a directory."""
    code = cli.main(["tune", "--out", str(directory)])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1), said
    return said


def put(kind: str, path: Path) -> None:
    """Put something that is not a regular file in place of a file."""
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # as /dev/zero
        except PermissionError:
            pytest.skip("only root makes devices")
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
    else:
        path.mkdir()


def test_a_directory_of_other_files_is_not_taken_for_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    (photos / "2024").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c\n\x1b[2J.jpg", "z.jpg"):
        (photos / name).write_bytes(b"x")
    said = tune(photos, capsys)
    names = r"2024/, a.jpg, b.jpg and 2 more; give --out a new or empty directory"
    assert said == f"digitrec: {photos} is not empty and holds no study, but {names}\n"
    assert not (photos / ".lock").exists()


@pytest.mark.parametrize(
    "names",
    [
        ["weights/best.pt", "checkpoints/epoch1.ckpt"],
        ["stacks/pancakes.safetensors"],
        ["plots/a.png"],
        ["study.json", "thesis.doc"],
        ["trials.csv"],
    ],
)
def test_names_that_other_programs_use_make_no_study(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"format": 3, "trials": []}')
    with pytest.raises(InputError, match="holds no study, but"):
        check_directory(Folder.at(tmp_path))


@pytest.mark.parametrize(
    "names",
    [
        [],
        [".DS_Store", ".git/config"],
        [".lock", "validation.safetensors"],
        ["validation.safetensors", "ray/2026/x", "stacks/", "weights/", "damaged/study.json"],
        ["weights/bs32-seed0-lr0.1-0123abcd-3epochs.safetensors", "trials.csv", "notes.txt"],
        ["stacks/bs32-seed0-lr0.1-0123abcd.failed.json", "report.html"],
        ["study.json"],
    ],
)
def test_what_a_killed_or_damaged_study_leaves_is_a_study(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text("{cut")
    check_directory(Folder.at(tmp_path))
    check_directory(Folder.at(tmp_path / "new"))


def test_a_study_may_have_the_notes_of_its_owner_beside_it(study: Path) -> None:
    (study / "notes.txt").write_text("x")
    check_directory(Folder.at(study))
    (study / "study.json").write_text("{cut")
    check_directory(Folder.at(study))  # its stacks show what it is
    (study / "study.json").unlink()
    check_directory(Folder.at(study))


def test_a_bucket_of_other_objects_is_not_taken_for_a_study(s3_server: S3Server) -> None:
    place = Folder.at(s3_server.uri("photos"))
    check_directory(place)
    (place / "2024").write("a.jpg", b"x")
    with pytest.raises(InputError, match=r"holds no study, but 2024/; give --out"):
        check_directory(place)


@pytest.mark.parametrize("name", [*INNER, "refit/stacks"])
def test_a_linked_folder_is_refused_and_nothing_is_written_through_it(
    name: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere, there = tmp_path / "elsewhere", study / name
    elsewhere.mkdir()
    there.parent.mkdir(exist_ok=True)
    if there.exists():
        there.rename(tmp_path / "aside")
    there.symlink_to(elsewhere)
    assert f"{there} is a symbolic link" in tune(study, capsys)
    assert cli.main(["report", str(study)]) == 2
    assert f"{there} is a symbolic link" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_is_exchanged_for_a_link_after_the_check_is_not_followed(
    tmp_path: Path,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("mine")
    (tmp_path / "plots").symlink_to(tmp_path / "elsewhere")
    plots = Folder.at(tmp_path) / "plots"
    for operation in (
        lambda: plots.write("a", b"x"),
        lambda: plots.write("b", b"x"),
        lambda: plots.read("a"),
        lambda: plots.remove("a"),
        lambda: plots.move("a", Folder.at(tmp_path), "a"),
        lambda: Folder.at(tmp_path).move("elsewhere", plots, "a"),
        plots.prepare,
    ):
        with pytest.raises(NotADirectoryError, match=r"plots|elsewhere"):
            operation()
    assert plots.names() == []
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["a"]


def test_temporary_files_are_removed_by_our_names_in_our_folders_only(study: Path) -> None:
    gone = [f".{HEX}.tmp", f"stacks/.{HEX}.tmp", f"plots/.{HEX}.tmp", f"refit/weights/.{HEX}.tmp"]
    kept = [f"mine/.{HEX}.tmp", f"ray/.{HEX}.tmp", ".notes.tmp", "stacks/.a.tmp", f"{HEX}.tmp"]
    for name in gone + kept:
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text("x")
    (study / f".{HEX[::-1]}.tmp").symlink_to("/etc/hostname")
    remove_temporaries(Folder.at(study))
    assert [name for name in gone if (study / name).exists()] == []
    assert [name for name in kept if not (study / name).exists()] == []
    assert (study / f".{HEX[::-1]}.tmp").is_symlink()


def test_no_temporary_file_is_removed_before_another_study_is_refused(study: Path) -> None:
    (study / f".{HEX}.tmp").write_text("x")
    spec = read_spec(Folder.at(study))
    spec.data["fingerprint"] = "another"
    with pytest.raises(InputError, match="holds another study"):
        claim(Folder.at(study), spec, Console(quiet=True))
    assert (study / f".{HEX}.tmp").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["study.json", f"best/{ABOUT}", f"best/{MODEL}", "timings.json", "validation"]
)
def test_a_special_file_is_damage_and_is_not_waited_for(
    name: str, kind: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = read_spec(Folder.at(study))
    name = "validation.safetensors" if name == "validation" else name
    put(kind, study / name)
    if name == "study.json":
        assert cli.main(["report", str(study)]) == 2
        said = capsys.readouterr().err
        assert "study.json: it is a" in said
        assert "not a regular file" in said
    else:
        read_record(Folder.at(study))
    if name.startswith("best/"):
        assert name.endswith(MODEL) or read_best(Folder.at(study)) is None
        with pytest.raises(InputError, match=r"best/model.*: it is a .*, not a regular file"):
            load_classifier(Folder.at(study) / "best")
    claim(Folder.at(study), spec, Console(quiet=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["stacks/*.safetensors", "weights/*", "checkpoints/*"])
def test_a_special_file_among_the_stacks_is_set_aside(kind: str, name: str, study: Path) -> None:
    place, spec = Folder.at(study), read_spec(Folder.at(study))
    put(kind, sorted(study.glob(name))[0])
    said = io.StringIO()
    claim(place, spec, Console(file=said, width=300))
    assert "not a regular file" in said.getvalue() or "are damaged" in said.getvalue()
    assert find_damage(place, spec.key) == []
    assert read_record(place).damaged == []


def test_a_special_file_among_the_notes_of_failures_is_left_out(study: Path) -> None:
    place, found = Folder.at(study), read_failures(Folder.at(study))
    put("pipe", study / "stacks" / "some.failed.json")
    assert read_failures(place) == found
    clear_failures(place, set())
    assert not (study / "stacks" / "some.failed.json").exists()


def test_a_file_that_is_exchanged_after_the_check_is_not_waited_for(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = os.stat(study / "timings.json")
    put("pipe", study / "study.json")
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda *_, **__: regular)
        with pytest.raises(DamagedError, match="it is a named pipe"):
            Folder.at(study).read("study.json")


def test_a_file_of_no_plausible_size_is_not_read(study: Path) -> None:
    for name, size in (("study.json", 2**23 + 1), (f"best/{MODEL}", 2**30 + 1)):
        with (study / name).open("r+b") as file:
            file.truncate(size)
    with pytest.raises(InputError, match=r"study\.json: it has 8,388,609 bytes"):
        read_record(Folder.at(study))
    with pytest.raises(InputError, match=r"model\.safetensors: it has 1,073,741,825 bytes"):
        load_classifier(Folder.at(study) / "best")
    (stack, *_) = (study / "stacks").glob("*.safetensors")
    os.truncate(stack, 2**32 + 1)
    with pytest.raises(DamagedError, match="reads at most 4,294,967,296"):
        (Folder.at(study) / "stacks").read(stack.name)


def test_an_object_of_no_plausible_size_is_not_read(s3_server: S3Server) -> None:
    place = Folder.at(s3_server.uri("large"))
    place.write("a", bytes(100))
    assert place.read("a", most=100) == bytes(100)
    with pytest.raises(DamagedError, match="it has 100 bytes; digitrec reads at most 99"):
        place.read("a", most=99)


READERS: dict[str, Callable[[Folder], object]] = {
    "record": read_record,
    "question": read_spec,
    "model": read_best,
    "timings": read_timings,
    "labels": lambda place: read_labels(place, None),  # type: ignore[arg-type]
    "classifier": lambda place: load_classifier(place / "best"),
    "report": conclude,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_store_that_cannot_be_reached_is_no_damage(
    reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(uri: str) -> None:
        raise InputError(f"{uri}: no such host")

    monkeypatch.setattr(folder_module, "open_uri", fail)
    with pytest.raises(InputError, match=r"^s3://unresolvable/x[^:]*: no such host$"):
        READERS[reader](BucketFolder("s3://unresolvable/x"))


def test_a_note_of_a_failure_in_a_store_that_cannot_be_reached_is_no_damage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: object, name: str, most: int = 0) -> bytes:
        raise InputError("no such host")

    monkeypatch.setattr(BucketFolder, "names", lambda *_: ["a.failed.json"])
    monkeypatch.setattr(BucketFolder, "read", fail)
    with pytest.raises(InputError, match="no such host"):
        read_failures(BucketFolder("s3://unresolvable/x"))


def test_a_hundred_damaged_files_are_named_and_the_others_are_counted(study: Path) -> None:
    for number in range(250):
        (study / "stacks" / f"stray-{number:03}.safetensors").write_bytes(b"")
    place = Folder.at(study)
    spec, said = read_spec(place), io.StringIO()
    listed = summarise(read_record(place), []).damaged
    assert len(listed) == 101
    assert listed[-1] == "and 150 more files"
    claim(place, spec, Console(file=said, width=200))
    assert said.getvalue().count("set aside") == 101
    assert "set aside and 150 more files" in said.getvalue()
    assert len(list((study / "damaged").iterdir())) == 250


def test_the_name_of_a_damaged_file_gives_no_orders_to_the_terminal(study: Path) -> None:
    for name in ("[red]", "[bold]", "\x1b]0;title\x07", "\udcff", "a\nb"):
        (study / "stacks" / f"{name}.safetensors").write_bytes(b"")
    place, said = Folder.at(study), io.StringIO()
    spec = read_spec(place)
    claim(place, spec, Console(file=said, width=200))
    lines = said.getvalue().splitlines()
    assert len(lines) == 5
    assert "set aside stacks/[red].safetensors: " in said.getvalue()
    assert r"stacks/\x1b]0;title\x07.safetensors" in said.getvalue()


@pytest.mark.parametrize(
    "changed", [{"seed": list(range(300_000))}, {"lr": list(range(1, 10_002))}]
)
def test_a_question_of_more_trials_than_a_study_can_have_is_refused_at_once(
    changed: dict[str, list[int]], study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads((study / "study.json").read_text())
    values["space"] |= changed
    (study / "study.json").write_text(json.dumps(values))
    assert cli.main(["report", str(study)]) == 2
    assert "more than the 10,000 that a study can have" in capsys.readouterr().err


def test_the_model_of_a_directory_is_still_read_by_its_path(study: Path) -> None:
    assert load_classifier(study / "best").pixels == 6
    assert isinstance(Folder.at(study), LocalFolder)


def test_a_folder_that_may_not_be_read_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "stacks")

    stacks = Folder.at(tmp_path) / "stacks"
    monkeypatch.setattr(os, "open", deny)
    for operation in (stacks.names, lambda: stacks.read("a"), lambda: stacks.remove("a")):
        with pytest.raises(PermissionError) as caught:
            operation()
        assert describe_error(caught.value).startswith(f"{stacks}")

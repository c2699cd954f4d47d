"""Where the token of a Ray cluster is found, and that only its owner can read it."""

import os
import stat
from pathlib import Path

import pytest

from digitrec.errors import InputError
from digitrec.tuning.token import Token, find_token, secure_token


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Ray's files in a fresh home, which is not there yet."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray"


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_token_is_its_owners_alone_whatever_the_umask(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        said = secure_token(make=True)
    finally:
        os.umask(before)
    assert said is None
    assert (permissions(folder), permissions(folder / "auth_token")) == (0o700, 0o600)
    token = find_token()
    assert token is not None
    assert len(token.text) == 64


def test_a_token_that_is_there_is_kept(folder: Path) -> None:
    secure_token(make=True)
    before = find_token()
    assert secure_token(make=True) is None
    assert find_token() == before


@pytest.mark.parametrize(
    ("of_folder", "of_file", "named"),
    [(0o755, 0o644, 2), (0o700, 0o640, 1), (0o750, 0o600, 1), (0o700, 0o620, 1)],
)
def test_an_open_token_is_closed_and_a_line_says_so(
    folder: Path, of_folder: int, of_file: int, named: int
) -> None:
    folder.mkdir()
    (folder / "auth_token").write_text("secret")
    (folder / "auth_token").chmod(of_file)
    folder.chmod(of_folder)
    said = secure_token(make=False)
    assert said is not None
    assert said.startswith(f"closed {folder}")
    assert "\n" not in said
    assert said.split(" to other users")[0].count(str(folder)) == named
    assert (permissions(folder), permissions(folder / "auth_token")) == (0o700, 0o600)
    assert secure_token(make=False) is None


def test_no_token_is_made_unless_asked_for(folder: Path) -> None:
    assert secure_token(make=False) is None
    assert not folder.exists()


def test_a_token_file_with_a_name_of_its_own_is_left_as_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.write_text("secret")
    shared.chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(shared))
    said = secure_token(make=True)
    assert said is not None
    assert f"chmod 600 {shared}" in said
    assert permissions(shared) == 0o640
    assert not folder.exists()


def test_no_token_is_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "auth_token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="auth_token"):
        secure_token(make=True)
    assert not (tmp_path / "elsewhere").exists()


def test_an_empty_token_file_is_an_error_that_says_what_to_do(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "auth_token").touch()
    with pytest.raises(InputError, match="holds no token; delete it"):
        secure_token(make=True)


def test_a_home_that_cannot_be_written_to_is_an_error_of_one_line(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"no token can be written to .*: Not a directory"):
        secure_token(make=True)


def test_a_token_is_found_in_the_order_of_ray(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_token() is None
    folder.mkdir()
    (folder / "auth_token").write_text("of home\n")
    assert find_token() == Token("of home", str(folder / "auth_token"))
    (tmp_path / "named").write_text("of file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert find_token() == Token("of file", str(tmp_path / "named"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of variable")
    assert find_token() == Token("of variable", "RAY_AUTH_TOKEN")


def test_a_named_file_without_a_token_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/no/file")
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH: there is no token in /no/file"):
        find_token()


def test_a_pipe_in_place_of_a_token_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match="there is no token in"):
        find_token()

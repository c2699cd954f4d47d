"""The README, the Makefile and the help texts agree with each other and with the code."""

import argparse
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from digitrec import cli
from digitrec.results import tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
DIGITREC = [
    command.split("digitrec ", 1)[1]
    for command in COMMANDS
    if re.search(r"(^|/)digitrec ", command)
]
MAKE = [command for command in COMMANDS if command.startswith("make")]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def subparsers() -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        action
        for action in cli.make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(action.choices)


def test_the_readme_shows_commands_of_both_kinds() -> None:
    assert DIGITREC
    assert MAKE


@pytest.mark.parametrize("command", DIGITREC)
def test_every_digitrec_command_of_the_readme_is_understood(command: str) -> None:
    options = cli.make_parser().parse_args(shlex.split(command))
    assert options.command in subparsers()


@pytest.mark.parametrize("command", MAKE)
def test_every_make_command_of_the_readme_exists(command: str) -> None:
    words = [word for word in shlex.split(command) if "=" not in word]
    assert words[0] == "make"
    assert set(words[1:]) <= targets()


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(re.search(rf"^  {target} ", shown, re.MULTILINE) for target in targets())


@pytest.mark.parametrize("name", subparsers())
def test_every_subcommand_has_a_help_text(name: str) -> None:
    text = subparsers()[name].format_help()
    assert "usage: digitrec" in text
    assert subparsers()[name].description


def test_the_readme_names_every_option_of_tune() -> None:
    options = re.findall(r"--[a-z-]+", subparsers()["tune"].format_help())
    missing = {option for option in options if f"`{option}" not in README} - {"--help"}
    assert missing == set()


def test_the_readme_describes_every_column() -> None:
    columns = [*tables.TRIAL_COLUMNS, *tables.EPOCH_COLUMNS]
    missing = {column for column in columns if f"`{column}`" not in README}
    assert missing == set()


def test_the_files_that_the_readme_shows_exist() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert linked
    assert all((ROOT / path).exists() for path in linked)


def layers() -> list[str]:
    """The modules of the README's picture of the house, top to bottom."""
    picture = README.split("a module imports only from those below it:")[1].split("##")[0]
    return re.findall(r"^    (\w+)(?:\.py|/) ", picture, re.MULTILINE)


def test_the_picture_of_the_house_shows_every_module() -> None:
    paths = (ROOT / "digitrec").iterdir()
    there = {path.stem for path in paths if path.suffix == ".py" or path.name == "results"}
    assert set(layers()) == there - {"__init__", "__main__"}


@pytest.mark.parametrize("module", layers())
def test_a_module_imports_only_from_those_below_it(module: str) -> None:
    below = layers()[layers().index(module) :]
    paths = [*(ROOT / "digitrec").glob(f"{module}.py"), *(ROOT / "digitrec" / module).glob("*.py")]
    for path in paths:
        imported = set(re.findall(r"(?:from|import_module\(\") ?digitrec\.(\w+)", path.read_text()))
        assert imported <= set(below), path

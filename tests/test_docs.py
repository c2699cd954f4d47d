"""The README, the Makefile and the help texts agree with each other and with the code."""

import argparse
import ast
import graphlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from digitrec.cli import options as cli
from digitrec.store import tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
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


def test_the_files_that_contributing_names_exist() -> None:
    named = re.findall(r"`((?:digitrec|tests|cluster)/[\w/.]+)`", CONTRIBUTING)
    assert len(named) > 12
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_contributing_names_the_make_commands_that_exist() -> None:
    named = re.findall(r"(?:^|`)make ([a-z-]+)", CONTRIBUTING, re.MULTILINE)
    assert {"check", "test", "test-fast"} <= set(named)
    assert set(named) <= targets()


def test_the_files_that_the_readme_shows_exist() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert linked
    assert all((ROOT / path).exists() for path in linked)


def rooms() -> list[str]:
    """The rooms of the README's picture of the house, top to bottom."""
    picture = README.split("rooms below:")[1].split("##")[0]
    return re.findall(r"^    (\w+)(?:\.py|/) ", picture, re.MULTILINE)


def test_the_picture_of_the_house_shows_every_room() -> None:
    paths = [path for path in (ROOT / "digitrec").iterdir() if path.name != "__pycache__"]
    there = {path.stem for path in paths if path.suffix == ".py" or path.is_dir()}
    assert set(rooms()) == there - {"__init__", "__main__"}


def imports() -> dict[str, set[str]]:
    """Each module of digitrec and those of digitrec that it imports, wherever in it."""
    modules = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
        for path in (ROOT / "digitrec").rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("digitrec"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= {name for name in names if name in modules} or {str(node.module)}
            elif isinstance(node, ast.Constant) and node.value in modules:
                found[module].add(str(node.value))  # of import_module, or for workers to import
    return found


def test_a_room_imports_only_from_the_rooms_below_it() -> None:
    order = rooms()
    for module, imported in imports().items():
        if module in {"digitrec.__init__", "digitrec.__main__"}:
            continue
        room = order.index(module.split(".")[1])
        above = {other for other in imported if order.index(other.split(".")[1]) < room}
        assert above == set(), module


def test_the_modules_of_a_room_import_in_one_direction() -> None:
    graph = {module: imported - {module} for module, imported in imports().items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names a circle


def test_text_analysis_figures_and_report_are_layers() -> None:
    order = ["text", "analysis", "figures", "report", "outcome", "study", "exports", "live"]
    graph = imports()
    layers = {
        module: order.index(module.split(".")[2])
        for module in graph
        if re.fullmatch(r"digitrec\.results\.(?!__init__).+", module)
    }
    for module, layer in layers.items():
        above = {other for other in graph[module] if layers.get(other, -1) > layer}
        assert above == set(), module

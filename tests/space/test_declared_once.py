"""A hyperparameter is declared once; everything else follows from the declaration."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import digitrec
from digitrec.space.hyperparameters import HYPERPARAMETERS

PACKAGE = Path(digitrec.__file__).parent
DECLARATION = "space/hyperparameters.py"
MEANING = ("engine/",)  # where meanings are used; the rules of the verdict ask for roles
PYARROWS = (
    "data/readers.py",
    "data/pictures.py",
)  # an argument of pyarrow has the name batch_size, too

UPDATES = " (?:updates|steps)"  # which an optimizer makes, whichever it is

MADE_UP = """
    spice: float = _hyperparameter(
        "amount of spice", short="spice", help="made up", parse=float, kind="a number",
        accepts="a finite number", is_right=math.isfinite, values=(0.0,), scale="linear",
        beyond=lambda values, up: [2 * max(values)] if up else [min(values) / 2],
    )
    flavour: str = _hyperparameter(
        "flavour", short="flavour", help="made up", parse=str, kind="text",
        accepts="plain or mint", is_right=lambda value: value in ("plain", "mint"),
        values=("plain",), scale="category", divides=True,
    )
"""

STUDY = """
import sys
from pathlib import Path
from rich.console import Console
from digitrec.cli.options import make_parser, make_request
from digitrec.results import outcome
from digitrec.results.analysis.ranking import rank_configurations
from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.space.stacks import Stack, Task
from digitrec.store.stacks import read_stacks
from digitrec.study import run_study
from digitrec.tuning.in_process import InProcess
from digitrec.tuning.trainable import stack_of, task_config

out = Path(sys.argv[1])
options = ["tune", "--lr", "0.1,0.5", "--batch-size", "256", "--epochs", "2", "--out", str(out),
           "--spice", "1,2", "--flavour", "plain,mint"]
request = make_request(make_parser().parse_args(options))
result = run_study(request, Console(quiet=True), InProcess)
trials = result.tables.trials

assert len(trials) == trials["trial"].nunique() == 8, trials
assert "lr0.1-bs256-spice1.0-seed0" in set(trials["trial"])
assert "lr0.5-bs256-spice2.0-flavourmint-seed0" in set(trials["trial"])
names = [*HYPERPARAMETERS]
assert names[-2:] == ["spice", "flavour"]
assert list(trials.columns[:len(names) + 2]) == ["trial", *names, "seed"]
assert set(trials["spice"]) == {1.0, 2.0} and set(trials["flavour"]) == {"plain", "mint"}
assert set(trials["status"]) == {"completed"}
assert len(rank_configurations(trials)) == 8

stacks, damaged = read_stacks(request.directory, result.record.spec.key)
assert not damaged
assert len({stack.key for stack in stacks}) == len(stacks)
for stack in stacks:
    assert len({member.configuration.flavour for member in stack.stack.members}) == 1
    assert stack_of({"stack": task_config(Task(stack.stack, 3))}) == stack.stack
assert max(len({m.configuration.spice for m in s.stack.members}) for s in stacks) == 2

sentences = " ".join(finding.sentence for finding in result.findings)
assert "spice" in sentences and "flavour" in sentences, sentences
commands = " ".join(finding.command or "" for finding in result.findings)
assert "--spice 1.0,2.0" in commands and "--flavour plain,mint" in commands, commands
assert any("--spice 0.5,1.0,2.0" in (finding.command or "") for finding in result.findings)

page = (out / "report.html").read_text()
assert "amount of spice" in page and "flavour" in page
assert len(list((out / "plots").glob("*.png"))) == 3
for name in ("draw_sections", "write_plots", "write_report"):  # once is enough
    setattr(outcome, name, lambda *_: None)
again = run_study(request, Console(quiet=True), InProcess)  # trains nothing
assert again.tables.trials.drop(columns="seconds").equals(trials.drop(columns="seconds"))

options = ["tune", "--lr", "0.1", "--batch-size", "256", "--epochs", "1", "--out", str(out),
           "--spice=-1..1,2", "--flavour", "plain,mint", "--points", "8"]
request = make_request(make_parser().parse_args(options))
drawn = run_study(request, Console(quiet=True), InProcess).tables.trials
assert set(drawn["status"]) == {"completed"}
assert list(drawn["flavour"].value_counts()) == [4, 4]
assert (drawn["spice"] == 2.0).sum() == 2  # once with each flavour, as no point is there twice
assert drawn["spice"].between(-1, 1).sum() == 6
"""


@pytest.fixture(scope="module")
def with_two_more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a copy of the package lies that declares two hyperparameters more."""
    root = tmp_path_factory.mktemp("package")
    shutil.copytree(PACKAGE, root / "digitrec", ignore=shutil.ignore_patterns("__pycache__"))
    declaration = root / "digitrec" / DECLARATION
    before, name, after = declaration.read_text().partition("\n    @property\n    def name(self)")
    assert "class Configuration" in before
    declaration.write_text(before + MADE_UP + name + after)
    return root


@pytest.mark.slow
def test_a_new_hyperparameter_needs_no_more_than_its_declaration(
    with_two_more: Path, tmp_path: Path
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", STUDY, str(tmp_path / "study")],
        cwd=with_two_more,  # which Python puts first on the path of a program given by -c
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_the_help_lists_a_new_hyperparameter(with_two_more: Path) -> None:
    code = "from digitrec.cli.main import main; main(['tune', '--help'])"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=with_two_more,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "--spice" in shown
    assert "--flavour" in shown


def words() -> re.Pattern[str]:
    names = {text for each in HYPERPARAMETERS.values() for text in (each.name, each.label)}
    options = {each.option for each in HYPERPARAMETERS.values()}
    return re.compile(
        "|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-]|{UPDATES})" for name in names | options)
    )


def mentions(path: Path) -> Iterator[str]:
    """Yield the places of a module that name a hyperparameter; docstrings and comments may."""
    tree, pattern = ast.parse(path.read_text()), words()
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if id(node) in documentation:
            continue
        texts = [getattr(node, name, None) for name in ("id", "attr", "arg", "value")]
        for text in texts:
            if isinstance(text, str) and pattern.search(text):
                yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}: {text[:60]}"


def test_no_module_but_the_declaration_and_the_engine_names_a_hyperparameter() -> None:
    others = [
        path
        for path in PACKAGE.rglob("*.py")
        if not path.relative_to(PACKAGE).as_posix().startswith((*MEANING, DECLARATION))
    ]
    places = [place for path in others for place in mentions(path)]
    assert [place for place in places if not place.startswith(PYARROWS)] == []

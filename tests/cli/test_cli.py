import argparse
import errno
import io
import os
import subprocess
import sys
from collections.abc import Hashable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from digitrec.cli import commands, display
from digitrec.cli import main as cli
from digitrec.cli.options import make_parser, make_request
from digitrec.errors import InputError
from digitrec.request import Request, option_words
from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.space.points import Space
from digitrec.space.records import EpochRecord
from digitrec.store.folder import Folder
from digitrec.store.spec import write_spec
from digitrec.store.stacks import write_stack
from tests.studies import DATA, make_result, make_spec

WRONG_OPTIONS = [
    (["--lr", "0.1,x"], "digitrec tune: argument --lr: 'x' is not a number"),
    (["--lr", ""], "digitrec: no learning rate is given; at least one is needed"),
    (["--lr", ","], "digitrec: no learning rate is given; at least one is needed"),
    (["--lr"], "digitrec tune: argument --lr: expected one argument"),
    (["--lr", "0.1,1e-1"], "digitrec: learning rate 0.1 is given more than once"),
    (["--lr=-0.1"], "digitrec: learning rate -0.1 is not a finite number above 0"),
    (["--lr", "inf"], "digitrec: learning rate inf is not a finite number above 0"),
    (["--lr", "1e999"], "digitrec: learning rate inf is not a finite number above 0"),
    (["--lr", "0"], "digitrec: learning rate 0.0 is not a finite number above 0"),
    (["--lr", "nan"], "digitrec: learning rate nan is not a finite number above 0"),
    (["--batch-size", "3.5"], "digitrec tune: argument --batch-size: '3.5' is not a whole number"),
    (["--batch-size", ""], "digitrec: no batch size is given; at least one is needed"),
    (["--batch-size", "0"], "digitrec: batch size 0 is not a whole number above 0"),
    (["--batch-size=-32"], "digitrec: batch size -32 is not a whole number above 0"),
    (["--batch-size", "32,32"], "digitrec: batch size 32 is given more than once"),
    (["--seeds", ""], "digitrec: no seed is given; at least one is needed"),
    (["--seeds", "1,01"], "digitrec: seed 1 is given more than once"),
    (["--seeds", "4294967296"], "digitrec: seed 4294967296 is not a whole number from 0 to 2**32"),
    (["--seeds", "-1"], "digitrec: seed -1 is not a whole number from 0 to 2**32 - 1"),
    (["--epochs", "0"], "digitrec: epochs 0 is not a whole number above 0"),
    (["--epochs", "-3"], "digitrec: epochs -3 is not a whole number above 0"),
    (["--epochs", "2.5"], "digitrec tune: argument --epochs: '2.5' is not a whole number"),
    (["--epochs", "many"], "digitrec tune: argument --epochs: 'many' is not a whole number"),
    (["--val-fraction", "0"], "digitrec: val-fraction 0.0 is not between 0 and 1"),
    (["--val-fraction", "1"], "digitrec: val-fraction 1.0 is not between 0 and 1"),
    (["--val-fraction=-0.2"], "digitrec: val-fraction -0.2 is not between 0 and 1"),
    (["--val-fraction", "20"], "digitrec: val-fraction 20.0 is not between 0 and 1"),
    (["--val-fraction", "nan"], "digitrec: val-fraction nan is not between 0 and 1"),
    (["--val-fraction", "20%"], "digitrec tune: argument --val-fraction: '20%' is not a number"),
    (["--precision", "float16"], "digitrec tune: argument --precision: invalid choice: 'float16'"),
    (["--confirm", "-1"], "digitrec: confirm -1 is less than 0"),
    (["--confirm-seeds", "0"], "digitrec: confirm-seeds 0 is not a whole number above 0"),
    (["--cooldown", "-1"], "digitrec: cooldown -1 is less than 0"),
    (["--cooldown", "1.5"], "digitrec tune: argument --cooldown: '1.5' is not a whole number"),
    (["--max-failures", "-1"], "digitrec: max-failures -1 is less than 0"),
    (["--stack-size", "0"], "digitrec: stack-size 0 is neither 'auto' nor a whole number above 0"),
    (["--stack-size", "1.5"], "digitrec tune: argument --stack-size: '1.5' is not a whole number"),
    (
        ["--stack-size", "none"],
        "digitrec tune: argument --stack-size: 'none' is not a whole number",
    ),
    (["--cpus-per-stack", "0"], "digitrec: cpus-per-stack 0 is neither a fraction up to 1 nor a"),
    (["--cpus-per-stack", "nan"], "digitrec: cpus-per-stack nan is neither a fraction up to 1 nor"),
    (["--gpus-per-stack", "inf"], "digitrec: gpus-per-stack inf is neither a fraction up to 1 nor"),
    (["--cpus-per-trial", "0"], "digitrec: cpus-per-stack 0 is neither a fraction up to 1 nor a"),
    (["--data", ""], "digitrec: --data is empty; give a value"),
    (["--test-data", " "], "digitrec: --test-data is empty; give a value"),
    (["--out", ""], "digitrec: --out is empty; give a value"),
    (["--address", ""], "digitrec: --address is empty; give a value"),
    (["--data", "\udce9.csv"], "digitrec: --data: '\\udce9.csv' is not UTF-8; rename it"),
    (["--out", "file://"], "digitrec: file://: a path is missing behind file://"),
    (["--out", "\udce9"], "digitrec: --out: '\\udce9' is not UTF-8; rename it"),
    (["--out", "ftp://host/study"], "digitrec: ftp://host/study: neither a path nor one of s3://"),
    (["--gpus-per-stack", "-1"], "digitrec: gpus-per-stack -1 is neither a fraction up to 1 nor a"),
    (["--momentum", "1"], "digitrec: momentum 1.0 is not a number from 0 to below 1"),
    (["--momentum", "-0.1"], "digitrec: momentum -0.1 is not a number from 0 to below 1"),
    (["--dropout", "0,1"], "digitrec: dropout 1.0 is not a number from 0 to below 1"),
    (["--weight-decay", "-0.1"], "digitrec: weight decay -0.1 is not a finite number from 0"),
    (["--label-smoothing", "1"], "digitrec: label smoothing 1.0 is not a number from 0 to below 1"),
    (
        ["--nesterov", "maybe"],
        "digitrec tune: argument --nesterov: 'maybe' is not true or false",
    ),
    (
        ["--nesterov", "false,true"],
        "digitrec: Nesterov momentum true has no effect in any trial: it needs optimizer sgd and",
    ),
    (
        ["--optimizer", "adamw", "--momentum", "0,0.9"],
        "digitrec: momentum 0.9 has no effect in any trial: it needs optimizer sgd",
    ),
    (
        ["--optimizer", "adamw", "--nesterov", "true"],
        "digitrec: Nesterov momentum true has no effect in any trial: it needs optimizer sgd and",
    ),
    (
        ["--optimizer", "adam"],
        "digitrec tune: argument --optimizer: 'adam' is not one of sgd, adamw",
    ),
    (["more"], "digitrec: unrecognized arguments: more"),
    (["--nonsense"], "digitrec: unrecognized arguments: --nonsense"),
    (["--data", "no.csv"], "digitrec: no.csv: No such file or directory; expected"),
]


@pytest.mark.parametrize(
    ("options", "message"), WRONG_OPTIONS, ids=[" ".join(options) for options, _ in WRONG_OPTIONS]
)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(["tune", *options])
    except SystemExit as exit_:
        code = int(str(exit_.code))
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_text_that_is_no_value_of_a_hyperparameter_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["tune", HYPERPARAMETERS[name].option, "?"])
    said = capsys.readouterr().err
    option, kind = HYPERPARAMETERS[name].option, HYPERPARAMETERS[name].kind
    assert said.startswith(f"digitrec tune: argument {option}: '?' is not {kind}")


def test_a_wrong_option_is_said_before_the_data_is_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["tune", "--data", "no.csv", "--epochs", "0"]) == 2
    assert capsys.readouterr().err == "digitrec: epochs 0 is not a whole number above 0\n"


def test_wrong_options_are_said_before_torch_and_ray_are_imported() -> None:
    code = (
        "import sys; from digitrec.cli.main import main; "
        "assert main(['tune', '--epochs', '0']) == 2; "
        "assert not {'torch', 'ray', 'pandas'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_that_no_file_can_have_are_refused_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ["report", "{}"],
        ["predict", "{}", "sample", "--to", "s.csv"],
        ["predict", "study", "{}", "--to", "s.csv"],
        ["predict", "study", "sample", "--to", "{}"],
        ["export", "{}", "--onnx", "m.onnx"],
        ["export", "study", "--onnx", "{}"],
        ["doctor", "--data", "{}"],
        ["doctor", "--out", "{}"],
    ):
        for name, what in (
            ("", "is empty; give a value\n"),
            ("\udce9", "is not UTF-8; rename it\n"),
        ):
            try:
                code = cli.main([word.format(name) for word in words])
            except SystemExit as exit_:
                code = int(str(exit_.code))
            said = capsys.readouterr()
            assert (code, said.out, said.err.count("\n")) == (2, "", 1), words
            assert what.strip() in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_working_directory_whose_name_is_not_utf_8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "\udce9"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert cli.main(["tune", "--out", str(tmp_path / "study")]) == 2
    message = f"digitrec: the working directory: {str(folder)!r} is not UTF-8; rename it\n"
    assert capsys.readouterr().err == message


def test_a_file_in_place_of_a_study_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trials.csv"
    file.write_text("")
    for words in (["report"], ["predict", "sample", "--to", "s.csv"], ["export", "--onnx", "m"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main([words[0], str(file), *words[1:]])
        said = f"argument DIR: {file} is not a directory; give a study directory"
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("begun", [True, False])
def test_only_a_tune_that_has_begun_says_that_the_same_command_continues(
    begun: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin(tmp_path, monkeypatch, begun)

    def full(_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/mnt/s.csv")

    for command, words in (("tune", []), ("report", ["study"]), ("doctor", [])):
        monkeypatch.setitem(commands.RUN, command, full)
        assert cli.main([command, *words]) == 1
        said = capsys.readouterr().err
        assert said.startswith("digitrec: /mnt/s.csv: No space left on device")
        assert said.count("\n") == 1
        continues = begun and command == "tune"
        assert ("the same command continues the study" in said) is continues


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch, begun: bool = True) -> None:
    """Work in a folder, in which the default study has begun."""
    monkeypatch.chdir(folder)
    if begun:
        (folder / "results" / "sample").mkdir(parents=True)
        (folder / "results" / "sample" / "study.json").touch()


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "tune" in capsys.readouterr().out


def test_options_left_out_make_the_default_study() -> None:
    request = make_request(make_parser().parse_args(["tune"]))
    assert request == Request()


def test_the_options_of_a_request_ask_for_it_again() -> None:
    request = Request(
        data="d.csv",
        space=Space.of(lr=(0.3, 1e-5), seeds=(1, 2)),
        epochs=4,
        refit=True,
        confirm=2,
        stack_size=2,
        gpus_per_stack=0.5,
    )
    values = {each.name: getattr(request, each.name) for each in fields(request)}
    words = option_words(values)
    assert make_request(make_parser().parse_args(["tune", *words])) == request
    assert "--batch-size" not in words
    assert option_words({}) == []


def test_former_names_of_options_are_understood() -> None:
    words = ["tune", "--cpus-per-trial", "2", "--gpus-per-trial=0.5"]
    assert make_request(make_parser().parse_args(words)) == Request(
        cpus_per_stack=2, gpus_per_stack=0.5
    )


@pytest.mark.parametrize(
    ("words", "name", "values"),
    [
        (["--weight-decay", "0.0,0.001"], "weight_decay", (0.0, 0.001)),
        (["--momentum", "0.9", "--nesterov", "false,true"], "nesterov", (False, True)),
        (["--optimizer", "sgd,adamw"], "optimizer", ("sgd", "adamw")),
    ],
)
def test_an_option_of_a_hyperparameter_is_written_as_it_is_read(
    words: list[str], name: str, values: tuple[object, ...]
) -> None:
    space = make_request(make_parser().parse_args(["tune", *words])).space
    assert space.values[name] == values
    assert option_words({"space": space}) == words
    assert Space.from_json(space.to_json()) == space
    assert name not in Space().to_json()


def test_options_reach_the_request() -> None:
    options = "tune --data d.csv --lr 0.1,1e-3 --batch-size 8 --seeds 1,2 --epochs 4 --out o"
    options += " --val-fraction 0.3 --stack-size 2 --cpus-per-stack 2 --gpus-per-stack 0.5"
    options += " --address auto --precision bf16"
    assert make_request(make_parser().parse_args(options.split())) == Request(
        data="d.csv",
        space=Space.of(lr=(0.1, 1e-3), batch_size=(8,), seeds=(1, 2)),
        epochs=4,
        precision="bf16",
        out="o",
        val_fraction=0.3,
        stack_size=2,
        cpus_per_stack=2,
        gpus_per_stack=0.5,
        address="auto",
    )


@pytest.fixture
def half_a_study(tmp_path: Path) -> Path:
    """One of two trials is finished."""
    spec = make_spec(
        data=DATA | {"source": "sample"},
        space={"lr": [0.1, 0.5], "batch_size": [32], "seed": [0]},
        epochs=1,
    )
    study = Folder.at(tmp_path)
    write_spec(study, spec)
    trials = Space.of(lr=(0.5,), batch_size=(32,)).trials()
    result = make_result(trials, [[EpochRecord(1, 10, 0.5, 0.8, 0.4, 0.9, 0.1)]])
    write_stack(study, spec.key, result, {})
    return tmp_path


@pytest.mark.slow
def test_report_ranks_an_unfinished_study_and_exits_with_1(
    half_a_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(half_a_study)]) == 1
    said = capsys.readouterr().out
    assert "The only configuration with a result is lr 0.5, batch size 32" in said
    assert "it recognises 90.00% of the" in said
    assert "1 of 2 trials is not trained yet" in said
    assert "tune --lr 0.1,0.5 --batch-size 32 --epochs 1 --out" in said
    assert "model" not in said
    assert (half_a_study / "trials.csv").exists()
    assert (half_a_study / "plots" / "comparison.png").exists()


def test_report_of_no_study_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"digitrec: {tmp_path} holds no study (no study.json)\n"


def test_ctrl_c_is_exit_code_1_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path, monkeypatch)

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.RUN, "tune", interrupted)
    assert cli.main(["tune"]) == 1
    assert "The same command continues the study." in capsys.readouterr().err


def test_bad_data_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.csv"
    path.write_text("label,pixel0\n3,17\n4,256\n")
    assert cli.main(["tune", "--data", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"digitrec: {path}: row 2, column pixel0: '256'")
    assert not (tmp_path / "out").exists()


def test_input_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_wraps_sentences_at_words_but_leaves_commands_whole(terminal: bool) -> None:
    file = io.StringIO()
    lines = ["- Of 243 trials, 87 went on.", "    digitrec tune --race --out study"]
    display.print_lines(lines, Console(width=20, file=file, force_terminal=terminal))
    wrapped = ["- Of 243 trials, 87 ", "went on.", lines[1]]
    assert file.getvalue().splitlines() == (wrapped if terminal else lines)


def test_a_wide_ranking_leaves_a_column_out_instead_of_cutting_words_on_80_columns() -> None:
    row: dict[Hashable, Any] = {
        "lr": 0.0842, "batch_size": 32, "momentum": 0.9364, "weight_decay": 9.54e-06,
        "dropout": 0.311, "seed": 0, "val_accuracy": 0.923, "val_loss": 0.296, "updates": 96,
        "status": "completed",
    }  # fmt: skip
    named = ["lr", "batch_size", "momentum", "weight_decay", "dropout"]
    console = Console(width=80, file=io.StringIO())
    table = display._table(*display._rank_trials([row], named), console)
    console.print(table, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().rstrip().splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[-1].split()) == "1 0.0842 32 0.9364 9.54e-06 0.311 0 92.30% 0.2960"
    words = {word for line in lines[:-2] for word in line.split()}
    assert words >= {"momentum", "dropout", "accuracy", "loss"}
    assert "updates" not in words


def test_a_wide_ranking_names_below_it_what_all_rows_share() -> None:
    row: dict[Hashable, Any] = {
        "lr": 0.0842, "batch_size": 32, "momentum": 0.9364, "weight_decay": 9.54e-06,
        "dropout": 0.311, "optimizer": "sgd", "seed": 0, "val_accuracy": 0.923, "val_loss": 0.296,
        "updates": 1125, "status": "completed",
    }  # fmt: skip
    other = {"lr": 0.1, "batch_size": 64, "dropout": 0.2, "momentum": 0.9, "val_accuracy": 0.9}
    rows = [row, row | other | {"val_loss": 0.3, "updates": 48}]
    named = ["lr", "batch_size", "momentum", "weight_decay", "dropout", "optimizer"]
    console = Console(width=80, file=io.StringIO())
    console.print(display._table(*display._rank_trials(rows, named), console), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().rstrip().splitlines()
    assert max(map(len, lines)) <= 80
    assert {"momentum", "dropout", "accuracy"} <= {word for line in lines for word in line.split()}
    (first,) = (line for line in lines if "0.0842" in line)
    assert first.split() == [*("1", "0.0842", "32", "0.9364", "0.311", "92.30%", "0.2960", "1,125")]
    shared = "the same in all rows: weight decay 9.54e-06, optimizer sgd, seed 0"
    assert shared in " ".join(" ".join(lines).split())


def test_output_that_nobody_reads_ends_a_command_quietly() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "digitrec", "completion", "bash"]
    with os.fdopen(writes, "w") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_output_that_cannot_be_written_is_one_line() -> None:
    command = [sys.executable, "-m", "digitrec", "completion", "bash"]
    with open("/dev/full", "w") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"digitrec: ")
    assert b"No space left on device" in ended.stderr
    assert ended.stderr.count(b"\n") == 1


def test_a_command_needs_no_output() -> None:
    command = f"{sys.executable} -m digitrec completion bash >&-"
    ended = subprocess.run(command, shell=True, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_connection_that_breaks_is_told_though_the_output_is_read(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setitem(commands.RUN, "completion", fail)
    assert cli.main(["completion", "bash"]) == 1
    assert capfd.readouterr().err == "digitrec: Broken pipe\n"

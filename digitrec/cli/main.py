"""The command line: arguments in, messages out; nothing else."""

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar, get_args

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from digitrec.errors import STOPPED, InputError, visible
from digitrec.request import Request
from digitrec.signals import sigterm_as_sigint
from digitrec.space.hyperparameters import Precision
from digitrec.space.points import Space
from digitrec.store.folder import Folder, describe_error

if TYPE_CHECKING:
    from digitrec.doctor.checks import Diagnosis
    from digitrec.results.analysis.verdict import Finding
    from digitrec.results.outcome import StudyResult
    from digitrec.winner.predict import Score

Commands: TypeAlias = "argparse._SubParsersAction[OneLineParser]"
Number = TypeVar("Number", int, float)

MOST_RANKED = 5  # rows of the table at the end
LEVEL_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
COMPLETE, UNFINISHED, WRONG_INPUT = 0, 1, 2  # exit codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 complete, 1 unfinished, 2 wrong input."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return COMPLETE
    try:
        with sigterm_as_sigint():
            code: int = options.run(options)
    except InputError as error:
        print(f"digitrec: {error}", file=sys.stderr)
        return WRONG_INPUT
    except OSError as error:
        print(
            f"digitrec: {describe_error(error)}. What was finished is kept; once this is mended, "
            "the same command goes on.",
            file=sys.stderr,
        )
        return UNFINISHED
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return UNFINISHED
    return code


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with 2."""
        self.exit(WRONG_INPUT, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `digitrec`."""
    parser = OneLineParser(
        prog="digitrec",
        description="Find the best hyperparameters for a digit-recognition MLP with Ray Tune.",
    )
    version = importlib.metadata.version("digitrec")
    parser.add_argument("--version", action="version", version=f"digitrec {version}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    _add_tune(commands)
    _add_report(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_doctor(commands)
    return parser


def _add_tune(commands: Commands) -> None:
    parser = commands.add_parser(
        "tune",
        help="train every point of a grid and rank them",
        description=(
            "Train the MLP at every point of a grid of learning rates, batch sizes and seeds, "
            "and rank the results by validation accuracy. Finished trials are kept in the study "
            "directory: the same command again trains only what is missing, and a wider grid "
            "only its new points."
        ),
        epilog="Exit codes: 0 complete; 1 failed trials or stopped early; 2 wrong input.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_tune_options(parser)
    parser.set_defaults(run=run_tune)


def _add_tune_options(parser: argparse.ArgumentParser) -> None:
    _add_data_options(parser.add_argument_group("data"))
    _add_search_options(parser.add_argument_group("search space (values separated by commas)"))
    _add_winner_options(parser.add_argument_group("winner"))
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the study directory, a path or a URI such as s3://bucket/study; left out, it is "
        "results/ and the name of the data",
        default=argparse.SUPPRESS,
    )
    _add_machine_options(parser.add_argument_group("machine"))


def _add_data_options(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--data",
        default="sample",
        metavar="DATA",
        help="a .csv, .csv.gz or .parquet file, here or on s3:// or gs://, with the columns label, "
        "pixel0, pixel1, ... (Kaggle's Digit Recognizer layout); 'sample', 5,000 MNIST digits that "
        "need no download; or 'openml', all 70,000, downloaded once",
    )
    data.add_argument(
        "--test-data",
        metavar="DATA",
        help="labelled digits that no choice is made by; the winner is scored on them once",
        default=argparse.SUPPRESS,
    )
    data.add_argument(
        "--val-fraction", type=float, default=0.2, metavar="F", help="share of rows to validate on"
    )


def _add_search_options(search: argparse._ArgumentGroup) -> None:
    search.add_argument(
        "--lr",
        type=_listed(float),
        default="0.001,0.01,0.1,0.5,1.0",
        metavar="LR,...",
        help="learning rates of SGD",
    )
    search.add_argument(
        "--batch-size",
        type=_listed(int),
        default="32,64,128,256,512",
        metavar="B,...",
        help="images per update",
    )
    search.add_argument(
        "--seeds",
        type=_listed(int),
        default="0",
        metavar="S,...",
        help="of initial weights and order of images",
    )
    search.add_argument(
        "--epochs", type=int, default=3, metavar="E", help="passes over the training rows"
    )
    search.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="bf16 multiplies in bfloat16 and keeps the weights in float32; faster on "
        "processors and GPUs that have it in hardware",
    )


def _add_winner_options(winner: argparse._ArgumentGroup) -> None:
    winner.add_argument(
        "--confirm",
        type=int,
        default=0,
        metavar="N",
        help="train the N leaders again with fresh seeds, and let their mean decide",
    )
    winner.add_argument(
        "--confirm-seeds", type=int, default=3, metavar="S", help="how many fresh seeds"
    )
    winner.add_argument(
        "--refit",
        action="store_true",
        help="train the winner on all rows, those of validation included, before it is kept",
    )


def _add_machine_options(machine: argparse._ArgumentGroup) -> None:
    machine.add_argument(
        "--stack-size",
        type=_stack_size,
        default="auto",
        metavar="auto|N",
        help="the most configurations trained together as one Ray Tune trial",
    )
    machine.add_argument(
        "--cpus-per-trial", type=float, default=1, metavar="C", help="cores of a Ray Tune trial"
    )
    machine.add_argument(
        "--gpus-per-trial",
        type=float,
        default=0,
        metavar="G",
        help="GPUs of a Ray Tune trial; a fraction such as 0.5 lets trials share one",
    )
    machine.add_argument(
        "--max-failures",
        type=int,
        default=3,
        metavar="N",
        help="how often a stack is tried again whose worker or node is lost",
    )
    machine.add_argument(
        "--address",
        metavar="ADDRESS",
        help="a Ray cluster to run on; left out, it is the cluster around a Ray job, or else "
        "this machine's cores",
        default=argparse.SUPPRESS,
    )


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="rank a study again and redraw its figures",
        description=(
            "Derive the tables of a study directory from its finished trials, finished or not, "
            "print the ranking and redraw the figures. Trains nothing and needs no Ray."
        ),
    )
    parser.add_argument("directory", metavar="DIR", type=Folder.at, help="a study directory")
    parser.set_defaults(run=run_report)


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="recognise the digits on images with a study's winner",
        description=(
            "Recognise the digits of a file with the winner of a study, and write them in the "
            "format of Kaggle's Digit Recognizer: ImageId,Label, ids from 1. Images that have "
            "labels are scored as well. Needs neither Ray nor torch."
        ),
    )
    parser.add_argument("directory", metavar="DIR", type=Folder.at, help="a study directory")
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="what `digitrec tune --data` takes; the column label may be missing",
    )
    parser.add_argument(
        "--to", metavar="FILE", required=True, help="the file to write, such as submission.csv"
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="add the columns probability0 to probability9",
    )
    parser.set_defaults(run=run_predict)


def _add_export(commands: Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a study's winner as an ONNX file",
        description=(
            "Write the winner of a study, its scaling included, for programs without digitrec, "
            "once onnxruntime has given the same with it. Needs the packages onnx and onnxruntime: "
            "pip install 'digitrec[onnx]'."
        ),
    )
    parser.add_argument("directory", metavar="DIR", type=Folder.at, help="a study directory")
    parser.add_argument("--onnx", metavar="FILE", required=True, help="the file to write")
    parser.set_defaults(run=run_export)


def _add_doctor(commands: Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="examine the machine and the cluster before a study",
        description=(
            "Examine what a study would meet: versions, cores and threads, memory, GPUs, disks, "
            "the data, the study directory, what a job would upload, and of a cluster its nodes, "
            "its token and its dashboard. Says what is amiss and what to do. Trains nothing."
        ),
        epilog="Exit codes: 0 no problem (there may be warnings); 1 problems; 2 wrong command.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", default="sample", metavar="DATA", help="as of `digitrec tune`")
    parser.add_argument(
        "--out", metavar="DIR", help="as of `digitrec tune`", default=argparse.SUPPRESS
    )
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="a Ray cluster, HOST:PORT or auto, whose nodes are examined; of a dashboard's "
        "address, http://HOST:PORT, only the dashboard",
        default=argparse.SUPPRESS,
    )
    parser.set_defaults(run=run_doctor)


def run_tune(options: argparse.Namespace) -> int:
    """Run the study that the options of `digitrec tune` ask for; returns the exit code."""
    request = make_request(options)
    console = Console()
    from digitrec.doctor.examine import cheap_checks

    for one in cheap_checks(request):
        console.print(diagnosis_lines(one), highlight=False, soft_wrap=True)
    from digitrec.study import run_study  # torch and Ray take seconds to import

    outcome = run_study(request, console)
    code = print_outcome(outcome, console)
    if request.refit and outcome.best is not None and "refit" not in outcome.best:
        console.print(
            "The winner was not trained on all rows: the model is that of the training rows. "
            "The same command tries it again.",
            soft_wrap=True,
        )
        return UNFINISHED
    return code


def run_report(options: argparse.Namespace) -> int:
    """Derive and draw what a study directory holds; returns the exit code."""
    from digitrec.results.outcome import conclude

    console = Console()
    return print_outcome(conclude(options.directory), console)


def run_predict(options: argparse.Namespace) -> int:
    """Predict with a study's winner; returns the exit code."""
    from digitrec.winner.classifier import load_classifier
    from digitrec.winner.predict import write_predictions

    console = Console()
    predictions = write_predictions(
        load_classifier(options.directory / "best"),
        options.images,
        options.to,
        study=options.directory.path,
        probabilities=options.probabilities,
        console=console,
    )
    lines = [] if predictions.score is None else describe_score(predictions.score)
    for line in (*lines, f"{predictions.images:,} predictions   {options.to}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return COMPLETE


def run_export(options: argparse.Namespace) -> int:
    """Write a study's winner in another format; returns the exit code."""
    from digitrec.winner.classifier import load_classifier
    from digitrec.winner.export import export_onnx

    export_onnx(load_classifier(options.directory / "best"), options.onnx)
    line = f"model    {options.onnx}, with which onnxruntime gives the same"
    Console().print(line, highlight=False, markup=False, soft_wrap=True)
    return COMPLETE


def run_doctor(options: argparse.Namespace) -> int:
    """Examine the machine and the cluster; returns the exit code: 1 if there is a problem."""
    from digitrec.doctor.examine import examine

    request = Request(
        data=options.data,
        out=getattr(options, "out", None),
        address=getattr(options, "address", None),
    )
    console, levels = Console(), []
    for one in examine(request, console):
        levels.append(one.level)
        console.print(diagnosis_lines(one), highlight=False, soft_wrap=True)
    return UNFINISHED if "problem" in levels else COMPLETE


def diagnosis_lines(one: "Diagnosis") -> Text:
    """Return a diagnosis as a line, and its remedy as another."""
    text = Text.assemble((f"{one.level:8}", LEVEL_STYLES[one.level]), f" {one.name}: {one.message}")
    return text.append(f"\n{'remedy':>8} {one.remedy}") if one.remedy else text


def make_request(options: argparse.Namespace) -> Request:
    """Return the request that the options of `digitrec tune` make."""
    return Request(
        data=options.data,
        space=Space(lrs=options.lr, batch_sizes=options.batch_size, seeds=options.seeds),
        epochs=options.epochs,
        val_fraction=options.val_fraction,
        precision=options.precision,
        confirm=options.confirm,
        confirm_seeds=options.confirm_seeds,
        refit=options.refit,
        test_data=getattr(options, "test_data", None),
        out=getattr(options, "out", None),
        stack_size=options.stack_size,
        cpus_per_trial=options.cpus_per_trial,
        gpus_per_trial=options.gpus_per_trial,
        max_failures=options.max_failures,
        address=getattr(options, "address", None),
    )


def print_outcome(outcome: "StudyResult", console: Console) -> int:
    """Print the ranking, the winner and where everything is; returns the exit code."""
    cells = outcome.cells.head(MOST_RANKED).to_dict("records")
    if cells:
        fresh = bool(outcome.record.question.confirmed)
        heading = "The leaders, trained again with fresh seeds" if fresh else "Over the seeds"
        console.print(f"\n{heading}")
        console.print(_cells(cells), soft_wrap=True)
    leaders = outcome.ranked.head(MOST_RANKED).to_dict("records")
    if leaders:
        console.print(f"\nThe best {len(leaders)} of {len(outcome.tables.trials)} configurations")
        console.print(_ranking(leaders), soft_wrap=True)
    for line in describe_verdict(outcome.findings) + describe(outcome):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return COMPLETE if outcome.complete else UNFINISHED


def _ranking(leaders: list[dict[Hashable, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("rank", "lr", "batch size", "seed", "val accuracy", "val loss", "updates"):
        table.add_column(heading, justify="right")
    for place, row in enumerate(leaders, start=1):
        cells = (place, row["lr"], row["batch_size"], row["seed"])
        metrics = (f"{row['val_accuracy']:.2%}", f"{row['val_loss']:.4f}", f"{row['updates']:,}")
        table.add_row(*map(str, cells), *metrics)
    return table


def _cells(cells: list[dict[Hashable, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("lr", "batch size", "seeds", "mean val accuracy", "lowest", "highest"):
        table.add_column(heading, justify="right")
    for cell in cells:
        accuracies = (f"{cell[name]:.2%}" for name in ("val_accuracy", "lowest", "highest"))
        table.add_row(*map(str, (cell["lr"], cell["batch_size"], cell["seeds"])), *accuracies)
    return table


def describe_score(score: "Score") -> list[str]:
    """Return lines: how often each label was taken for each digit, and how many were right.

    Plain text, because rich cuts a table whose numbers are too long for a terminal.
    """
    rows = score.confusion.tolist()
    lines = [["label", *map(str, range(len(rows))), "right"]]
    for digit, row in enumerate(rows):
        share = f"{row[digit] / sum(row):.1%}" if sum(row) else "none"
        lines.append([str(digit), *(str(count or "") for count in row), share])
    width = max(len(cell) for line in lines for cell in line)
    return [
        "Labels, and as what they were recognised:",
        *(" ".join(cell.rjust(width) for cell in line) for line in lines),
        f"{score.right / score.images:.2%} of the images recognised: "
        f"{score.right:,} of {score.images:,}",
    ]


def describe_verdict(findings: "Sequence[Finding]") -> list[str]:
    """Return the verdict as lines: what the study shows, and what to run next."""
    from digitrec.results.report.summary import make_visible

    lines = []
    for finding in map(make_visible, findings):
        lines.append(f"- {finding.sentence}")
        if finding.command is not None:
            lines.append(f"    {finding.command}")
    return [*lines, ""] if lines else []


def describe(outcome: "StudyResult") -> list[str]:
    """Return the closing lines: winner, what did not complete and why, files, how to go on."""
    lines = []
    if outcome.winner is not None:
        best = outcome.ranked.iloc[0].to_dict()
        winner, saved = f"Winner: lr {best['lr']}, batch size {best['batch_size']}", best["seed"]
        recognised = "of the validation images recognised"
        if outcome.cells.empty:
            lines.append(f"{winner}, seed {saved}: {best['val_accuracy']:.2%} {recognised}.")
        else:
            cell = outcome.cells.iloc[0].to_dict()
            lines.append(
                f"{winner}: {cell['val_accuracy']:.2%} {recognised}, mean of {cell['seeds']} "
                f"seeds. The model is that of seed {saved}: {best['val_accuracy']:.2%}."
            )
    if outcome.best is not None and "refit" in outcome.best:
        lines.append(f"The model was then trained on all {outcome.best['refit']['rows']:,} rows.")
    if outcome.best is not None and "test" in outcome.best:
        test = outcome.best["test"]
        lines.append(
            f"Test data: {test['accuracy']:.2%} of the {test['rows']:,} images of "
            f"{visible(test['source'])}."
        )
    statuses = outcome.tables.trials["status"].value_counts()
    lines += [
        f"{statuses[status]} of {len(outcome.tables.trials)} trials {status}."
        for status in ("diverged", "failed", "stopped")
        if status in statuses
    ]
    reasons = [error.strip().splitlines()[-1] for error in outcome.failures.values()]
    lines += [f"Failed: {visible(reason)}" for reason in dict.fromkeys(reasons)]
    if reasons:
        lines.append(f"The whole errors are in {outcome.directory / 'stacks'}.")
    if outcome.winner is None:
        lines.append(f"No trial completed, so there is no winner.{_advice(outcome)}")
    lines += [
        f"tables   {outcome.directory / 'trials.csv'}, epochs.csv",
        f"report   {outcome.directory / 'report.html'}, report.md",
        f"figures  {outcome.directory / 'plots' / 'comparison.png'}, heatmap.png, updates.png",
    ]
    if outcome.best is not None:
        lines.append(f"model    {outcome.directory / 'best' / 'model.safetensors'}, model.json")
    if not outcome.tables.complete:
        lines.append("The same `digitrec tune` command goes on with what is missing.")
    return lines


def _advice(outcome: "StudyResult") -> str:
    """Return what to try where every trial diverged, as a sentence; empty otherwise."""
    trials = outcome.tables.trials
    if not (trials["status"] == "diverged").all():
        return ""
    highest = min(float(trials["lr"].min()) / 10, 0.1)
    lower = ",".join(f"{highest / factor:.3g}" for factor in (100, 10, 1))
    return f" Every learning rate is too high for its loss to stay finite; try --lr {lower}"


def _listed(number: type[Number]) -> Callable[[str], tuple[Number, ...]]:
    """Return a parser of numbers separated by commas."""

    def parse(text: str) -> tuple[Number, ...]:
        return tuple(_parsed(number, item) for item in text.split(",") if item.strip())

    return parse


def _parsed(number: type[Number], text: str) -> Number:
    try:
        return number(text)
    except ValueError as error:
        what = "a whole number" if number is int else "a number"
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not {what}") from error


def _stack_size(text: str) -> int | None:
    return None if text == "auto" else _parsed(int, text)

"""The commands and their options, made from the fields of `Request` and the hyperparameters."""

import argparse
import importlib.metadata
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NoReturn, TypeAlias

from digitrec.cli.exports import EXPORTS
from digitrec.errors import WRONG_INPUT, InputError
from digitrec.request import (
    SEARCH,
    SEARCH_OPTIONS,
    Option,
    Request,
    check_name,
    default_of,
    option_name,
    options_of_request,
)
from digitrec.space.hyperparameters import HYPERPARAMETERS
from digitrec.store.folder import Folder

Commands: TypeAlias = "argparse._SubParsersAction[OneLineParser]"

PASSING_ON = ("submit", "cluster")  # commands that pass options on, to `tune` and `ray start`
RANGE = " or a range such as 0.1..0.5"
# The headings of the help, in its order.
GROUPS = ("data", SEARCH, "training", "race", "winner", "results", "machine")


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
    _add_watch(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_doctor(commands)
    _add_submit(commands)
    _add_cluster(commands)
    _add_completion(commands)
    return parser


def make_request(options: argparse.Namespace) -> Request:
    """Return the request that options make; what they do not name has its default.

    Raises:
        InputError: a value is out of its range.
    """
    known = (*options_of_request(), *HYPERPARAMETERS, *SEARCH_OPTIONS)
    return Request.of(**{name: value for name, value in vars(options).items() if name in known})


def _add_tune(commands: Commands) -> None:
    parser = commands.add_parser(
        "tune",
        help="train the points of a search space and rank the results",
        description=(
            "Train the MLP at every point of a grid of hyperparameters and seeds, or at --points "
            "drawn from their ranges, and rank the results by validation accuracy. The study "
            "directory keeps finished trials: the same command again trains only the missing ones, "
            "and a wider grid or more points only the new ones."
        ),
        epilog="Exit codes: 0 complete; 1 failed trials or stopped early; 2 wrong input.",
    )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for name in (each.name for each in fields(Request)):
        if name == "space":
            _add_search_options(groups[SEARCH])
        else:
            _add_option(groups[options_of_request()[name].group], name)
    groups["results"].add_argument(
        "--live",
        action="store_true",
        help="serve a page about the study on this machine while it runs, and print its address",
    )


def _add_option(
    group: argparse._ActionsContainer, name: str, description: str | None = None
) -> None:
    """Add the option of a field; description: the help, if not that of `digitrec tune`."""
    declared = options_of_request()[name]
    _add_declared(
        group, name, declared._replace(help=description or declared.help), default_of(name)
    )


def _add_declared(
    group: argparse._ActionsContainer, name: str, declared: Option, default: Any
) -> None:
    if default is False:
        group.add_argument(option_name(name), action="store_true", help=declared.help)
        return
    reader = _list_reader if declared.is_list else _reader
    more: dict[str, Any] = {
        "type": reader(declared.parse, declared.kind),
        "choices": declared.choices or None,
        "metavar": None if declared.choices else declared.metavar,
        "dest": name,
    }
    shown = ",".join(map(str, default)) if declared.is_list else default
    group.add_argument(
        option_name(name), **more, default=default, help=_with_default(declared.help, shown)
    )
    if declared.former:
        group.add_argument(
            declared.former, **more, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def _add_search_options(group: argparse._ActionsContainer) -> None:
    for each in HYPERPARAMETERS.values():
        shown = ",".join(map(each.write, each.values))
        group.add_argument(
            each.option,
            type=_list_reader(each.read, each.kind + (RANGE if each.takes_ranges else "")),
            default=each.values,
            metavar=f"{(each.short or each.name).upper()},...",
            help=_with_default(each.help, shown),
        )
    for name, (declared, default) in SEARCH_OPTIONS.items():
        _add_declared(group, name, declared, default)


def _with_default(text: str, default: Any) -> str:
    return text if default is None else f"{text} (default: {default})"


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="rank a study again and redraw its figures",
        description=(
            "Rank the finished trials of a study, print the ranking, and write its tables, figures "
            "and report again. The study may be unfinished. Trains nothing and needs no Ray."
        ),
    )
    _add_directory(parser)


def _add_watch(commands: Commands) -> None:
    parser = commands.add_parser(
        "watch",
        help="show a running study in a browser",
        description=(
            "Serve a page about a study on 127.0.0.1, at an address that is printed and cannot be "
            "guessed, until Ctrl-C: what is in training, the curves so far, a provisional verdict. "
            "The page is made from the files of the study directory, so the study may run on any "
            "machine that shares it. Changes nothing, and needs no Ray."
        ),
    )
    _add_directory(parser)


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="recognise the digits on images with a study's winner",
        description=(
            "Recognise the digits on images with the winner of a study, and write them in the "
            "format of Kaggle's Digit Recognizer: ImageId,Label, ids from 1. Images that have "
            "labels are scored as well. Needs neither Ray nor torch."
        ),
    )
    _add_directory(parser)
    parser.add_argument(
        "images",
        metavar="IMAGES",
        type=_read_name,
        help="as for `digitrec tune --data`, but labels may be missing; also .png files in one "
        "folder, or one of them",
    )
    parser.add_argument(
        "--to",
        metavar="FILE",
        required=True,
        type=_read_name,
        help="the file to write, such as submission.csv",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="add the columns probability0 to probability9",
    )


def _add_export(commands: Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a study or its winner for other tools",
        description=(
            "Write the winner of a study, or its trials, in the formats of other tools. The study "
            "may be unfinished. Needs neither Ray nor torch."
        ),
    )
    _add_directory(parser)
    for name, each in EXPORTS.items():
        parser.add_argument(f"--{name}", metavar=each.metavar, type=_read_name, help=each.help)


def _add_doctor(commands: Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="examine the machine and the cluster before a study",
        description=(
            "Examine what a study needs: versions, cores and threads, memory, GPUs, disks, the "
            "data and the study directory; with the address of a cluster also its nodes, its "
            "token, its dashboard and what a job would upload. Says what is wrong and what to do. "
            "Trains nothing."
        ),
        epilog="Exit codes: 0 no problem (there may be warnings); 1 problems; 2 wrong command.",
    )
    _add_option(parser, "data", "as for `digitrec tune`")
    _add_option(parser, "out", "as for `digitrec tune`")
    _add_option(
        parser,
        "address",
        "a Ray cluster, HOST:PORT or auto, whose nodes to examine; with the address of a "
        "dashboard, http://HOST:PORT, only the dashboard is examined",
    )


def _add_submit(commands: Commands) -> None:
    parser = commands.add_parser(
        "submit",
        help="run `digitrec tune` as a job on a Ray cluster",
        description=(
            "Check on this machine whatever can be checked before an upload, submit a study to a "
            "cluster's dashboard, print the job's log as it comes, and exit with the study's exit "
            "code. Further options are those of `digitrec tune`. Only the code and one small data "
            "file of the project are uploaded."
        ),
        allow_abbrev=False,
    )
    _add_option(parser, "data", "as for `digitrec tune`, on storage that the head node can read")
    _add_option(parser, "test_data", "as --data")
    _add_option(parser, "out", "the study directory, absolute or s3://...")
    parser.add_argument(
        "--address",
        metavar="http://HOST:PORT",
        help="of the dashboard (default: RAY_API_SERVER_ADDRESS, or the cluster that `digitrec "
        "cluster start` started)",
    )


def _add_cluster(commands: Commands) -> None:
    parser = commands.add_parser(
        "cluster",
        help="start or stop a Ray cluster on this machine, to practise on",
        description=(
            "Start a head node with its dashboard on 127.0.0.1, or end it with all its processes. "
            "Further options are those of `ray start`."
        ),
        epilog="Exit codes: 0 done; 2 it cannot be done.",
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument(
        "--dashboard-port",
        type=_reader(int, "a whole number"),
        default=8265,
        metavar="PORT",
        help=_with_default("of the dashboard", 8265),
    )


def _add_completion(commands: Commands) -> None:
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description=(
            "Print a script that lets a shell complete the commands and options of digitrec; it "
            "says where to save it. Needs the package shtab: pip install 'digitrec[completion]'."
        ),
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=_read_directory, help="a study directory")


def _read_directory(text: str) -> Folder:
    """Return the study directory of this name; whether there is a study shows when it is read."""
    folder: Folder = _checked(Folder.at, _read_name(text))
    if folder.path is not None and folder.path.exists() and not folder.path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory; give a study directory")
    return folder


def _read_name(text: str) -> str:
    _checked(lambda name: check_name("the name", name), text)
    return text


def _checked(read: Callable[[str], Any], text: str) -> Any:
    """Return what is read from a text; argparse shows no message but of its own errors."""
    try:
        return read(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _reader(parse: Callable[[str], Any], kind: str) -> Callable[[str], Any]:
    """Return a parser whose error says what the text has to be."""

    def read(text: str) -> Any:
        try:
            return _checked(parse, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text.strip()!r} is not {kind}") from error

    return read


def _list_reader(parse: Callable[[str], Any], kind: str) -> Callable[[str], tuple[Any, ...]]:
    """Return a parser of values separated by commas."""
    read = _reader(parse, kind)
    return lambda text: tuple(read(item) for item in text.split(",") if item.strip())

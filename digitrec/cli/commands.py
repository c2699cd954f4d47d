"""The commands: each runs what its options ask for, prints, and returns the exit code."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from rich.console import Console

from digitrec.api import run
from digitrec.cli.display import (
    describe_average,
    describe_score,
    print_lines,
    print_result,
)
from digitrec.cli.exports import EXPORTS
from digitrec.cli.options import make_parser, make_request
from digitrec.errors import COMPLETE, UNFINISHED, DamagedError, InputError
from digitrec.lean_import import import_without
from digitrec.request import Request


def run_tune(options: argparse.Namespace) -> int:
    """Run the study that the options ask for; return the exit code."""
    request = make_request(options)
    console = Console()
    with _live_page(request, console) if options.live else nullcontext():
        result = run(request, console)
    print_result(result, console)
    if request.refit and result.best is not None and "refit" not in result.best:
        said = (
            "The refit did not finish; best/ holds the model trained on the training rows only. "
            "The same command tries the refit again."
        )
        print_lines([said], console)
        return UNFINISHED
    return COMPLETE if result.complete else UNFINISHED


@contextmanager
def _live_page(request: Request, console: Console) -> Iterator[None]:
    """Serve the live page of a study for the length of the block."""
    from digitrec.results.live.beside import served_beside

    with served_beside(request.directory) as url:
        print_lines([f"live page  {url}"], console)
        yield


def run_watch(options: argparse.Namespace) -> int:
    """Serve the live page of a study until Ctrl-C; return the exit code."""
    from digitrec.results.live.server import NICENESS, LiveServer
    from digitrec.store.spec import read_spec

    with suppress(DamagedError):  # which the page says as well
        read_spec(options.directory)
    os.nice(NICENESS)
    with LiveServer(options.directory) as server, suppress(KeyboardInterrupt):
        print_lines([f"live page  {server.url}", "Ctrl-C ends it."], Console())
        server.serve_forever()
    return COMPLETE


def run_report(options: argparse.Namespace) -> int:
    """Write the tables, figures and report of a study directory; return the exit code."""
    console = Console()
    with console.status("Reading the study and drawing its figures"):
        import_without("scipy", "seaborn")  # no figure needs that part, which takes half a second
        from digitrec.results.outcome import conclude

        result = conclude(options.directory)
    print_result(result, console)
    return COMPLETE if result.complete else UNFINISHED


def run_predict(options: argparse.Namespace) -> int:
    """Predict with a study's winner; return the exit code."""
    from digitrec.winner.classifier import load_classifier
    from digitrec.winner.predict import write_predictions

    console, classifier = Console(), load_classifier(options.directory / "best")
    predictions = write_predictions(
        classifier,
        options.images,
        options.to,
        directory=options.directory.path,
        probabilities=options.probabilities,
        console=console,
    )
    lines = [] if predictions.score is None else describe_score(predictions.score)
    how = describe_average(classifier)
    print_lines([*lines, f"{predictions.images:,} predictions   {options.to}{how}"], console)
    return COMPLETE


def run_export(options: argparse.Namespace) -> int:
    """Write a study or its winner in other formats; return the exit code."""
    asked = [name for name in EXPORTS if getattr(options, name) is not None]
    if not asked:
        raise InputError(f"export needs one of {', '.join(f'--{name}' for name in EXPORTS)}")
    for name in asked:
        line = EXPORTS[name].write(options.directory, getattr(options, name))
        print_lines([line], Console())
    return COMPLETE


def run_doctor(options: argparse.Namespace) -> int:
    """Examine the machine and the cluster; return the exit code: 1 if there is a problem."""
    from digitrec.doctor.examine import describe_diagnosis, examine

    console, levels = Console(), []
    for one in examine(make_request(options), console):
        levels.append(one.level)
        console.print(describe_diagnosis(one), highlight=False, soft_wrap=True)
    return UNFINISHED if "problem" in levels else COMPLETE


def run_submit(options: argparse.Namespace) -> int:
    """Run a study as a job on a cluster; return its exit code."""
    from cluster.submit import run

    return run(options, options.further)


def run_cluster(options: argparse.Namespace) -> int:
    """Start or stop the cluster to practise on; return the exit code."""
    from cluster.local import run

    return run(options.action, options.dashboard_port, options.further)


def run_completion(options: argparse.Namespace) -> int:
    """Print a script that completes commands in a shell; return the exit code."""
    try:
        import shtab
    except ImportError as error:
        raise InputError(
            "the package shtab is missing; install it: pip install 'digitrec[completion]'"
        ) from error
    print(shtab.complete(make_parser(), options.shell))
    return COMPLETE


RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "tune": run_tune,
    "report": run_report,
    "watch": run_watch,
    "predict": run_predict,
    "export": run_export,
    "doctor": run_doctor,
    "submit": run_submit,
    "cluster": run_cluster,
    "completion": run_completion,
}
"""Command -> the function that runs it."""

"""The command line: arguments in, messages out; nothing else."""

import argparse
import select
import sys
from collections.abc import Sequence

from digitrec.cli.options import PASSING_ON, make_parser, make_request
from digitrec.errors import COMPLETE, STOPPED, UNFINISHED, WRONG_INPUT, InputError
from digitrec.signals import sigterm_as_sigint
from digitrec.store.folder import describe_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 complete, 1 unfinished, 2 wrong input."""
    parser = make_parser()
    options, further = parser.parse_known_args(arguments)
    if options.command in PASSING_ON:
        options.further = further
    elif further:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    if options.command is None:
        parser.print_help()
        return COMPLETE
    try:
        with sigterm_as_sigint():
            from digitrec.cli import commands  # printing the help needs none of it

            return commands.RUN[options.command](options)
    except InputError as error:
        print(f"digitrec: {error}", file=sys.stderr)
        return WRONG_INPUT
    except (OSError, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise
        print(_describe_end(error, options), file=sys.stderr)
        return UNFINISHED


def _nobody_reads() -> bool:
    """Return whether the output goes to a pipe whose other end is closed."""
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)
    except (TypeError, ValueError):  # it is no file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _describe_end(error: OSError | KeyboardInterrupt, options: argparse.Namespace) -> str:
    """Return what ended a command; only a `tune` that has begun can be continued."""
    again = "the same command continues the study." if _has_begun(options) else ""
    if isinstance(error, KeyboardInterrupt):
        return f"{STOPPED} {again.capitalize()}".rstrip()
    kept = ". What was finished is kept; once this is mended, " if again else ""
    return f"digitrec: {describe_error(error)}{kept}{again}"


def _has_begun(options: argparse.Namespace) -> bool:
    """Return whether a command trains a study that its directory knows of already."""
    if options.command != "tune":
        return False
    from digitrec.store.spec import NAME  # with numpy, which the help does not need

    path = make_request(options).directory.path
    return path is None or (path / NAME).exists()

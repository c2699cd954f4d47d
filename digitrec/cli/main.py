"""The command line: arguments in, messages out; nothing else."""

import sys
from collections.abc import Sequence

from digitrec.cli.options import make_parser
from digitrec.errors import COMPLETE, STOPPED, UNFINISHED, WRONG_INPUT, InputError
from digitrec.signals import sigterm_as_sigint
from digitrec.store.folder import describe_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 complete, 1 unfinished, 2 wrong input."""
    parser = make_parser()
    options = parser.parse_args(arguments)
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
        print(_describe_end(error, options.command), file=sys.stderr)
        return UNFINISHED


def _describe_end(error: OSError | KeyboardInterrupt, command: str) -> str:
    """Return what ended a command; only `tune` can be continued."""
    again = "the same command continues the study." if command == "tune" else ""
    if isinstance(error, KeyboardInterrupt):
        return f"{STOPPED} {again.capitalize()}".rstrip()
    kept = ". What was finished is kept; once this is mended, " if again else ""
    return f"digitrec: {describe_error(error)}{kept}{again}"

"""`python -m digitrec`, and the command `digitrec`."""

import gc
import os
import sys
from collections.abc import Sequence

from digitrec.errors import STOPPED
from digitrec.import_path import leave_out_working_directory


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a Ctrl-C while it is imported is one line as well."""
    try:
        leave_out_working_directory()
        from digitrec.cli.main import main

        code = main(arguments)
    except BrokenPipeError:  # nobody reads the output any more: `digitrec ... | head`
        code = 1
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 1
    gc.freeze()  # else Python looks through all that is imported once more: half a second
    return _flush(code)


def _flush(code: int) -> int:
    """Write what is left of the output; return the exit code: 1 if that is not possible."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if code == 0 and not isinstance(error, BrokenPipeError):
            print(f"digitrec: the output cannot be written: {error.strerror}", file=sys.stderr)
        # Else Python fails once more when it writes the rest; see "Note on SIGPIPE" of its signals.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


if __name__ == "__main__":
    raise SystemExit(run())

"""`python -m digitrec`, and the command `digitrec`."""

import gc
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
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 1
    gc.freeze()  # else Python looks through all that is imported once more: half a second
    return code


if __name__ == "__main__":
    raise SystemExit(run())

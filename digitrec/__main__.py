"""`python -m digitrec`, and the command `digitrec`."""

import gc
import sys

from digitrec.errors import STOPPED


def run() -> int:
    """Run the command line; a Ctrl-C while it is imported is one line as well."""
    try:
        from digitrec.cli.main import main

        code = main()
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 1
    gc.freeze()  # else Python looks through all that is imported once more: half a second
    return code


if __name__ == "__main__":
    raise SystemExit(run())

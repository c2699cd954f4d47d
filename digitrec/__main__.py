"""`python -m digitrec`, and the command `digitrec`."""

import sys

from digitrec.errors import STOPPED


def run() -> int:
    """Run the command line; a Ctrl-C while it is imported is one line as well."""
    try:
        from digitrec.cli import main

        return main()
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(run())

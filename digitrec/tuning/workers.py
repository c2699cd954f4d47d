"""The runner of a study, started when it is first needed or ahead of that."""

import os
from contextlib import ExitStack

from rich.console import Console

from digitrec.request import Request
from digitrec.store.timings import Timings
from digitrec.tuning.runner import MakeRunner, Runner


class Workers:
    """The runner of a study for the length of a `with` block, in which it starts at most once."""

    def __init__(
        self, request: Request, console: Console, timings: Timings, make_runner: MakeRunner
    ) -> None:
        self._request = request
        self._console = console
        self._timings = timings
        self._make_runner = make_runner
        self._runner: Runner | None = None
        self._closing = ExitStack()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, trials: int) -> Runner:
        """Return the runner; start it, for this number of trials, if it is not running."""
        if self._runner is None:
            request = self._request
            one_core_each = not request.gpus_per_stack and request.cpus_per_stack <= 1
            runner = self._make_runner(
                request.address,
                self._console,
                self._timings,
                preload=one_core_each and trials >= (os.cpu_count() or 1),
                dashboard=request.dashboard,
            )
            self._runner = self._closing.enter_context(runner)
        return self._runner

    def end(self) -> None:
        """Begin to end the runner; `close` waits for its end."""
        if self._runner:
            self._runner.end()

    def close(self) -> None:
        """End the runner and wait for its end."""
        self._closing.close()

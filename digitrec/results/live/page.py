"""The live page: progress, provisional verdict, curves so far and the best trials so far."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from digitrec.errors import InputError, visible
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.figures.chart import Chart, FigureInputs
from digitrec.results.figures.comparison import make_comparison
from digitrec.results.live.running import with_running
from digitrec.results.report.page import LEVELS, make_environment, policy_of, source_of
from digitrec.results.report.summary import Summary, summarise, winning_trial
from digitrec.store.folder import Folder
from digitrec.store.progress import RunProgress, read_progress
from digitrec.store.record import StudyRecord, read_record
from digitrec.store.spec import NAME

MOST_ROWS = 10  # of the table
MOST_STACKS = 8  # of those in training
SILENCE = 30.0  # seconds without another beat after which a run counts as killed
NOT_YET = "The study has not begun: its data is being read, or Ray starts."


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the live page shows of a study."""

    summary: Summary
    findings: Sequence[Finding]
    chart: Chart | None
    headings: Sequence[str]  # of the table of the best
    rows: Sequence[Sequence[str]]


class LivePage:
    """The live page of a study directory, made anew only from files that have changed."""

    def __init__(self, directory: Folder, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._heard = (0, -math.inf)  # the last beat of the run, and when it was new
        self._environment = make_environment()
        css = [source_of(self._environment, name) for name in ("page.css", "live.css")]
        self._style, self._script = "\n".join(css), source_of(self._environment, "live.js")
        self.policy = policy_of(self._style, self._script) + "; connect-src 'self'"
        self._trained: tuple[object, StudyRecord, Summary] | None = None
        self._drawn: tuple[object, Chart | None] | None = None

    def signature(self) -> tuple[object, RunProgress | None]:
        """Return what changes whenever the page would: a digest of the files, and the progress.

        A run that no longer writes its progress was killed: it has none.
        """
        try:
            spec = hashlib.sha256(self._directory.read(NAME)).hexdigest()
        except FileNotFoundError:
            spec = ""
        names = tuple((self._directory / "stacks").names())
        return (spec, names), self._read_progress()

    def _read_progress(self) -> RunProgress | None:
        progress = read_progress(self._directory)
        if progress is None:
            return None
        beat, since = self._heard
        if progress.beat != beat:
            since = self._clock()
            self._heard = progress.beat, since
        return progress if self._clock() - since < SILENCE else None

    def make(self, files: object, progress: RunProgress | None) -> str:
        """Return the page.

        Args:
            files: as from `signature`.
            progress: as from `signature`.
        """
        shown, problem = None, ""
        try:
            shown = self._show(files, progress)
        except InputError as error:
            problem = visible(str(error)) if files != ("", ()) else NOT_YET
        stacks = [] if progress is None else progress.stacks
        return self._environment.get_template("live.html").render(
            shown=shown,
            problem=problem,
            name=visible(self._directory.name),
            place=visible(str(self._directory)),
            progress=progress,
            line="" if progress is None else visible(progress.line),
            stacks=stacks[:MOST_STACKS],
            more_stacks=len(stacks) - MOST_STACKS,
            levels=LEVELS,
            time=time.strftime("%H:%M:%S"),
            style=self._style,
            script=self._script,
            policy=self.policy,
        )

    def _show(self, files: object, progress: RunProgress | None) -> Shown:
        """Return what to show; a verdict or a figure that would be the same is kept."""
        if self._trained is None or self._trained[0] != files:
            record = read_record(self._directory)
            self._trained = files, record, summarise(record, reach_verdict(record))
        _, record, summary = self._trained
        curves = None if progress is None else [stack.curves for stack in progress.stacks]
        if self._drawn is None or self._drawn[0] != (files, curves):
            self._drawn = (files, curves), _draw(record, progress)
        headings, rows = summary.best(MOST_ROWS)
        return Shown(
            summary=summary,
            findings=_final(summary) if progress is None else _provisional(summary),
            chart=self._drawn[1],
            headings=headings,
            rows=rows,
        )


def _final(summary: Summary) -> list[Finding]:
    return [each for each in summary.findings if each.rule != "unfinished"]


def _provisional(summary: Summary) -> list[Finding]:
    """Return the winner so far and what went wrong; what to run next can be said at the end."""
    return [each for each in _final(summary) if each.rule == "winner" or each.command is None]


def _draw(record: StudyRecord, progress: RunProgress | None) -> Chart | None:
    """Return the curves so far; None: there are none."""
    winner = winning_trial(record)
    if progress is not None:
        record = with_running(record, progress)
    if record.tables.epochs.empty:
        return None
    return make_comparison(FigureInputs(record, winner))

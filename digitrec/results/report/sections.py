"""The sections of a report: which figures it shows, in which order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from digitrec.results.figures.best_of_n import make_best_of_n
from digitrec.results.figures.calibration import make_calibration
from digitrec.results.figures.chart import Chart, FigureInputs, Omission
from digitrec.results.figures.classes import make_classes
from digitrec.results.figures.comparison import make_comparison
from digitrec.results.figures.confusion import make_confusion
from digitrec.results.figures.effects import make_effects
from digitrec.results.figures.gap import make_gap
from digitrec.results.figures.heatmap import make_heatmaps
from digitrec.results.figures.importance import make_importance
from digitrec.results.figures.mistakes import Mistake, make_mistakes
from digitrec.results.figures.parallel import make_parallel
from digitrec.results.figures.race import make_race
from digitrec.results.figures.style import render_png
from digitrec.results.figures.sweep import make_sweep
from digitrec.results.figures.timeline import make_timeline
from digitrec.results.figures.timings import make_timings
from digitrec.results.figures.updates import make_updates
from digitrec.results.report.summary import saved_winner, winning_trial
from digitrec.store.folder import Folder
from digitrec.store.record import StudyRecord

Make = Callable[[FigureInputs], Chart | Omission | Sequence[Chart]]

SECTIONS: dict[tuple[str, str], Sequence[Make]] = {
    ("reached", "What was reached"): [make_race, make_comparison, make_heatmaps, make_updates],
    ("why", "What made the difference"): [
        make_sweep,
        make_parallel,
        make_effects,
        make_importance,
        make_gap,
        make_best_of_n,
    ],
    ("winner", "The winner, digit by digit"): [make_confusion, make_classes, make_calibration],
    ("time", "Where the time went"): [make_timings, make_timeline],
}
"""Name and title of each section, and its figures."""
PLOTS = ("race", "comparison", "heatmap", "updates")  # the figures that are also PNG files


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Figures that belong together."""

    name: str
    title: str
    note: str
    """What holds for all of them; may be empty."""
    charts: list[Chart]
    omissions: list[Omission]


def draw_sections(record: StudyRecord) -> list[Section]:
    """Return all figures of a report, in their order."""
    inputs = _inputs(record)
    return [_draw_section(name, title, inputs) for name, title in SECTIONS]


def draw_mistakes(record: StudyRecord) -> list[Mistake]:
    """Return the winner's most confident mistakes, most confident first; none if not kept."""
    return make_mistakes(_inputs(record))


def _inputs(record: StudyRecord) -> FigureInputs:
    return FigureInputs(record, winning_trial(record))


def draw_figures(record: StudyRecord, first: str) -> Iterator[Chart | Omission]:
    """Yield the figures of a report as they are drawn; those first whose name begins as `first`."""
    inputs = _inputs(record)
    makes = [make for section in SECTIONS.values() for make in section]
    wanted = f"make_{first.partition('-')[0]}"
    for make in sorted(makes, key=lambda make: not make.__name__.startswith(wanted)):
        yield from _make(make, inputs)


def _make(make: Make, inputs: FigureInputs) -> Sequence[Chart | Omission]:
    made = make(inputs)
    return made if isinstance(made, Sequence) else [made]


def _draw_section(name: str, title: str, inputs: FigureInputs) -> Section:
    made = [each for make in SECTIONS[name, title] for each in _make(make, inputs)]
    return Section(
        name=name,
        title=title,
        note=_describe_model(inputs) if name == "winner" else "",
        charts=[each for each in made if isinstance(each, Chart)],
        omissions=[each for each in made if isinstance(each, Omission)],
    )


def _describe_model(inputs: FigureInputs) -> str:
    """Return which model the winner's figures are of; nothing where there is only one."""
    best = saved_winner(inputs.record)
    if best is None:
        return ""
    notes = []
    if "members" in best:
        notes.append(
            "Figures and mistakes are those of the winner alone; the saved model averages it with "
            f"{len(best['members']) - 1} more."
        )
    if "refit" in best:
        notes.append(
            "Figures and mistakes are those of the model before it was trained again on all "
            f"{best['refit']['rows']:,} rows, which include the validation images. The saved model "
            "is the later one."
        )
    return " ".join(notes)


def write_plots(sections: Sequence[Section], folder: Folder) -> None:
    """Write the figures of `PLOTS` as PNG files of a folder; only a race has that of the race."""
    charts = {chart.name: chart for section in sections for chart in section.charts}
    for name in PLOTS:
        if name in charts:
            folder.write(f"{name}.png", render_png(charts[name].figure))
        else:
            folder.remove(f"{name}.png")

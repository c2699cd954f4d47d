"""The comparison of searches as a page.

Everything is read off the runs' events and the incumbents' scores; nothing is measured here.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.peers.events import Event, epochs_trained, incumbent, reached
from tests.benchmarks.peers.points import Point
from tests.benchmarks.peers.scores import Score

TIMES = (30, 60, 100, 120, 200, 300)  # seconds at which the incumbent is shown
NEAR = 0.002  # how close to the best known accuracy counts as there


@dataclass(frozen=True, slots=True)
class Run:
    """One search with one seed."""

    contender: str
    seed: int
    limit: float  # seconds that it was given
    wall: float  # seconds until its command had ended
    points: int | None  # of a race; peers draw as many as fit
    events: Sequence[Event]
    delivered: float | None = None  # the saved model's accuracy on the unseen rows

    def found(self, seconds: float) -> Event | None:
        """Return the incumbent at a time."""
        return incumbent(self.events, seconds)

    def epochs_per_second(self) -> float:
        """Return the epochs of all trials over the time in which they were trained."""
        until = min(self.limit, self.wall)
        return epochs_trained(self.events, until) / until


def markdown(runs: Sequence[Run], scores: Mapping[Point, Score], limits: Sequence[float]) -> str:
    """Return the page: the incumbents over time, trained again, and the searches' speed."""
    best = max((event.accuracy for run in runs for event in run.events), default=0.0)
    parts = [
        ["Best validation accuracy seen so far, mean over the search seeds, in %:", ""],
        table(["search", *(f"{t} s" for t in TIMES)], [over_time(group) for group in groups(runs)]),
        ["", f"The best accuracy that any search saw: {100 * best:.2f} %.", ""],
        table(SPEED_HEADINGS, [speed(group, best - NEAR) for group in groups(runs)]),
        ["", "Incumbents trained again, 3 fresh seeds: validation / unseen rows, in %:", ""],
        table(
            ["search", *(f"{limit:g} s" for limit in limits)],
            [again(group, scores, limits) for group in by_contender(runs)],
        ),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


SPEED_HEADINGS = [
    *("search", "points or trials", "epochs", "epochs/s"),
    *("ended after, s", f"within {100 * NEAR:.1f} points of it after, s"),
    "saved model, unseen rows, %",
]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table."""
    rule = ["---", *("---:" for _ in headings[1:])]
    return ["| " + " | ".join(row) + " |" for row in [headings, rule, *rows]]


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each contender and limit, all seeds together."""
    keys = dict.fromkeys((run.contender, run.limit) for run in runs)
    return [[run for run in runs if (run.contender, run.limit) == key] for key in keys]


def by_contender(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each contender."""
    names = dict.fromkeys(run.contender for run in runs)
    return [[run for run in runs if run.contender == name] for name in names]


def title(group: Sequence[Run]) -> str:
    """Return the name of a group's row."""
    return f"{group[0].contender} ({group[0].limit:g} s)"


def over_time(group: Sequence[Run]) -> list[str]:
    """Return the incumbent's accuracy at each time; empty where a seed has none, or it is over."""
    cells = [title(group)]
    for seconds in TIMES:
        found = [run.found(seconds) for run in group]
        there = [event.accuracy for event in found if event]
        whole = len(there) == len(group) and seconds <= group[0].limit
        cells.append(percent(statistics.fmean(there)) if whole else "")
    return cells


def speed(group: Sequence[Run], near: float) -> list[str]:
    """Return how much each search trained, and when it was near the best known accuracy."""
    trials = [run.points or len({event.trial for event in run.events}) for run in group]
    near_after = [reached(run.events, near) for run in group]
    return [
        title(group),
        spread(trials),
        spread(epochs_trained(run.events, run.limit) for run in group),
        f"{statistics.fmean(run.epochs_per_second() for run in group):.2f}",
        spread(run.wall for run in group),
        ", ".join("never" if after is None else f"{after:.0f}" for after in near_after),
        ", ".join(percent(run.delivered) for run in group if run.delivered is not None),
    ]


def again(
    group: Sequence[Run], scores: Mapping[Point, Score], limits: Sequence[float]
) -> list[str]:
    """Return the retrained incumbents' accuracies: means over the search seeds."""
    cells = [group[0].contender]
    for limit in limits:
        found = [run.found(limit) for run in of_limit(group, limit)]
        known = [scores[event.point] for event in found if event and event.point in scores]
        val = statistics.fmean(score.val for score in known) if known else None
        unseen = statistics.fmean(score.unseen for score in known) if known else None
        cells.append(f"{percent(val)} / {percent(unseen)}" if val and unseen else "")
    return cells


def of_limit(group: Sequence[Run], limit: float) -> list[Run]:
    """Return, for each seed, the run to ask at a time: the shortest that was given so much."""
    long_enough = [run for run in group if run.limit >= limit]
    least = min((run.limit for run in long_enough), default=None)
    return [run for run in long_enough if run.limit == least]


def incumbents(runs: Sequence[Run], limits: Sequence[float]) -> list[Point]:
    """Return the distinct incumbents at the limits, which are to be trained again."""
    found = (
        run.found(limit)
        for group in by_contender(runs)
        for limit in limits
        for run in of_limit(group, limit)
    )
    return list(dict.fromkeys(event.point for event in found if event))


def percent(accuracy: float | None) -> str:
    """Return an accuracy in per cent."""
    return "" if accuracy is None else f"{100 * accuracy:.2f}"


def spread(values: Iterable[float]) -> str:
    """Return the mean, and the lowest and the highest where they differ."""
    found = list(values)
    low, high = round(min(found)), round(max(found))
    return f"{statistics.fmean(found):.0f}" + (f" ({low} to {high})" if low != high else "")

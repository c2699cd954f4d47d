"""The course of a race: its decisions while it runs, and the lines that tell of them."""

from collections.abc import Sequence
from dataclasses import replace

from digitrec.results.text import count
from digitrec.space.race import Cut, Race, Standing
from digitrec.store.spec import StudySpec


class Course:
    """The decisions of a race while it runs.

    Args:
        spec: of the study.
        earlier: the decisions of earlier runs; one stands if it was made from the same results.
    """

    def __init__(self, spec: StudySpec, earlier: Sequence[Cut]) -> None:
        race = spec.raced
        assert race is not None, "the study is a race"
        self.race = race
        self._spec = spec
        self._earlier = list(earlier)

    @property
    def spec(self) -> StudySpec:
        """The spec of the study with the decisions so far, and those that may still stand."""
        decided = self.race.cuts
        cuts = (*decided, *self._earlier[len(decided) :])
        return replace(self._spec, race=replace(self.race, cuts=cuts).to_json())

    def decide(self, standings: Sequence[Standing]) -> None:
        """Make the cut at the open rung."""
        place = len(self.race.cuts)
        made = self.race.decide(standings)
        if place < len(self._earlier) and self._earlier[place].results == made.cuts[-1].results:
            made = replace(made, cuts=(*self.race.cuts, self._earlier[place]))
        else:
            del self._earlier[place:]
        self.race = made


def describe_rung(race: Race, alive: int, points: int) -> str:
    """Return which rung of a race is being trained, and how many trials take part."""
    rung = f"rung {len(race.cuts) + 1} of {len(race.rungs)}"
    return f"{rung}, {alive:,} of {points:,} alive" if race.cuts else rung


def describe_cut(race: Race, entered: int) -> str:
    """Return one line about the last decision of a race."""
    cut, epochs = race.cuts[-1], race.rungs[len(race.cuts) - 1]
    verb = "goes" if len(cut.kept) == 1 else "go"
    audit = f", {len(race.audited):,} more for the audit" if race.audited else ""
    return (
        f"After {count(epochs, 'epoch')}, {len(cut.kept):,} of {count(entered, 'trial')} "
        f"{verb} on{audit}"
    )

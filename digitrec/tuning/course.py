"""The course of a study in rounds: suggestions, decisions, and the lines that tell of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from digitrec.results.text import count
from digitrec.space.hyperparameters import Trial
from digitrec.space.race import Cut, Race, Standing
from digitrec.store.spec import StudySpec


class Course:
    """The suggestions of a sampler and the decisions of a race while a study is trained.

    Args:
        spec: of the study, with the suggestions of earlier runs, which stand.
        earlier: the decisions of earlier runs; one stands if it was made from the same results.
    """

    def __init__(self, spec: StudySpec, earlier: Sequence[Cut]) -> None:
        self.race: Race | None = spec.raced
        self._spec = spec
        self._earlier = list(earlier)

    @property
    def spec(self) -> StudySpec:
        """The spec of the study with the decisions so far, and those that may still stand."""
        if self.race is None:
            return self._spec
        decided = self.race.cuts
        cuts = (*decided, *self._earlier[len(decided) :])
        return replace(self._spec, race=replace(self.race, cuts=cuts).to_json())

    @property
    def first_goal(self) -> int:
        """The epochs after which points are suggested from results: those of the first rung."""
        return self.race.rungs[0] if self.race else self._spec.epochs

    def suggest(self, generation: int, accuracies: Mapping[Trial, float]) -> None:
        """Add the points of a generation; see `Space.with_suggested`."""
        space = self._spec.search_space.with_suggested(generation, accuracies)
        self._spec = replace(self._spec, space=space.to_json())

    def decide(self, standings: Sequence[Standing]) -> Race:
        """Make the cut at the open rung; return the race after it."""
        assert self.race is not None, "the study is a race"
        place = len(self.race.cuts)
        made = self.race.decide(standings)
        if place < len(self._earlier) and self._earlier[place].results == made.cuts[-1].results:
            made = replace(made, cuts=(*self.race.cuts, self._earlier[place]))
        else:
            del self._earlier[place:]
        self.race = made
        return made


def describe_generation(place: int, generations: int) -> str:
    """Return which generation of points is being trained."""
    return f"generation {place + 1} of {generations}"


def describe_suggestion(new: int, before: int) -> str:
    """Return one line about points that were suggested."""
    return f"From {count(before, 'point')}, {new:,} more {'is' if new == 1 else 'are'} suggested"


def describe_rung(race: Race, alive: int, points: int) -> str:
    """Return which rung of a race is being trained, and how many trials take part."""
    rung = f"rung {len(race.cuts) + 1} of {len(race.rungs)}"
    return f"{rung}, {alive:,} of {points:,} alive" if race.cuts else rung


def describe_cut(race: Race, entered: int) -> str:
    """Return one line about the last decision of a race.

    Args:
        race: with that decision.
        entered: how many trials competed, without those of the audit.
    """
    cut, epochs = race.cuts[-1], race.rungs[len(race.cuts) - 1]
    verb = "goes" if len(cut.kept) == 1 else "go"
    audit = f", {len(race.audited):,} more for the audit" if race.audited else ""
    return (
        f"After {count(epochs, 'epoch')}, {len(cut.kept):,} of {count(entered, 'trial')} "
        f"{verb} on{audit}"
    )

"""A race: all points start, at each rung most of them are dropped, and few finish.

Successive halving: Jamieson and Talwalkar, 2016. Unlike it, a rung keeps whoever cannot be told
apart from the last trial that is kept, the first cut is made within groups of trials that share
what divides stacks, and an audit trains some of the dropped trials to the end. Every decision is a
pure function of the results at a rung, so it does not depend on which worker was faster.

Letters: N' validation images.
"""

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from digitrec.errors import InputError
from digitrec.space.hyperparameters import HYPERPARAMETERS, Trial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HALVE, AUDIT = 3, 4
ONE_SIDED_95 = 1.6449  # standard deviations
LATE_EPOCHS = 3  # of the first rung, where a hyperparameter is searched whose values learn late


class Goal(NamedTuple):
    """How long a study trains a trial as far as is decided, and the trial's status after that."""

    epochs: int  # without those of a cooldown
    status: str  # completed, dropped, or stopped: it is to be trained further


class Standing(NamedTuple):
    """A trial at a rung."""

    trial: Trial
    accuracy: float  # of the validation images; NaN: it diverged
    loss: float
    correct: "NDArray[np.bool_]"  # image by image, (N',)

    @property
    def diverged(self) -> bool:
        """Whether a loss or an accuracy is no number."""
        return math.isnan(self.accuracy) or math.isnan(self.loss)


@dataclass(frozen=True, slots=True)
class Cut:
    """The decision at a rung, by names of trials."""

    results: str  # a digest of the trials whose results decided
    kept: tuple[str, ...]  # best first; at the first rung within each group
    audited: tuple[str, ...] = ()  # dropped, but trained to the end; only at the first rung


@dataclass(frozen=True, slots=True)
class Race:
    """The rungs of a race and the decisions made so far.

    Raises:
        InputError: a value is out of its range.
    """

    rungs: tuple[int, ...]  # epochs; the last is the number of epochs of those that finish
    halve: int = HALVE  # one in so many is kept
    audit: int = AUDIT  # how many of the dropped trials are trained to the end
    seed: int = 0  # draws these
    cuts: tuple[Cut, ...] = ()

    def __post_init__(self) -> None:
        written = ",".join(map(str, self.rungs))
        if not self.rungs or self.rungs[0] < 1 or not _ascend(self.rungs):
            raise InputError(f"rungs {written!r} are not ascending whole numbers above 0")
        if self.halve < 2:
            raise InputError(f"halve {self.halve} is not a whole number above 1")
        if self.audit < 0:
            raise InputError(f"audit {self.audit} is less than 0")

    @property
    def open_rung(self) -> int:
        """The epochs of the first rung that is not decided, or of the last rung."""
        return self.rungs[len(self.cuts)]

    @property
    def decided(self) -> bool:
        """Whether only the last rung is left."""
        return len(self.cuts) == len(self.rungs) - 1

    @property
    def audited(self) -> tuple[str, ...]:
        """The dropped trials that are trained to the end."""
        return self.cuts[0].audited if self.cuts else ()

    def rungs_to(self, epochs: int) -> tuple[int, ...]:
        """Return the rungs with another last one, of so many epochs; the earlier ones stay."""
        return (*(rung for rung in self.rungs if rung < epochs), epochs)

    def alive(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return the trials that are still trained, those of the audit included."""
        if not self.cuts:
            return list(trials)
        names = {*self.cuts[-1].kept, *self.audited}
        return [trial for trial in trials if trial.name in names]

    def goals(self, trials: Iterable[Trial]) -> dict[Trial, Goal]:
        """Return how long each trial is trained as far as is decided."""
        going_on = [{*cut.kept, *self.audited} for cut in self.cuts]
        last = Goal(self.open_rung, "completed" if self.decided else "stopped")
        goals = {}
        for trial in trials:
            dropped = (
                Goal(epochs, "dropped")
                for epochs, names in zip(self.rungs, going_on, strict=False)
                if trial.name not in names
            )
            goals[trial] = next(dropped, last)
        return goals

    def decide(self, standings: Sequence[Standing]) -> "Race":
        """Return the race after the cut at its open rung.

        Args:
            standings: of the trials that have results at this rung; the failed ones are left out.
        """
        first = not self.cuts
        finite = sorted((each for each in standings if not each.diverged), key=_place)
        racing = [each for each in finite if each.trial.name not in self.audited]
        kept = [
            each.trial.name
            for group in (_groups(racing) if first else [racing])
            for each in self._keep(group)
        ]
        dropped = {each.trial.name for each in racing}.difference(kept)
        audited = self._draw(dropped) if first else ()
        cut = Cut(_digest(each.trial.name for each in standings), tuple(kept), audited)
        return replace(self, cuts=(*self.cuts, cut))

    def _keep(self, ranked: Sequence[Standing]) -> list[Standing]:
        """Return the best of a group, and those that cannot be told apart from the last of them."""
        if not ranked:
            return []
        places = math.ceil(len(ranked) / self.halve)
        kept, rest = list(ranked[:places]), ranked[places:]
        alike = [each for each in rest if not is_worse(each.correct, kept[-1].correct)]
        return kept + alike[: places // 2]

    def _draw(self, dropped: Iterable[str]) -> tuple[str, ...]:
        """Return the trials of the audit: those whose digests with the search seed are least."""
        by_digest = sorted(dropped, key=lambda name: _digest([str(self.seed), name]))
        return tuple(sorted(by_digest[: self.audit]))

    def same_question(self, other: "Race | None") -> bool:
        """Return whether another race has the same rules, whatever was decided."""
        return other is not None and replace(self, cuts=()) == replace(other, cuts=())

    def fits(self, trials: Iterable[Trial]) -> bool:
        """Return whether every decision names only trials that were still in the race."""
        racing = {trial.name for trial in trials}
        for place, cut in enumerate(self.cuts):
            named = [*cut.kept, *cut.audited]
            if len({*named}) < len(named) or not racing.issuperset(named):
                return False
            if cut.audited and place > 0:
                return False
            racing = {*cut.kept}
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the race as plain values."""
        cuts = [
            {"results": cut.results, "kept": list(cut.kept)}
            | ({"audited": list(cut.audited)} if cut.audited else {})
            for cut in self.cuts
        ]
        rules = {"rungs": list(self.rungs), "halve": self.halve, "audit": self.audit}
        return rules | {"seed": self.seed, "cuts": cuts}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Race":
        """Return the race that `to_json` wrote.

        Raises:
            InputError, KeyError, TypeError, ValueError: the values describe no race.
        """
        cuts = tuple(
            Cut(str(cut["results"]), tuple(cut["kept"]), tuple(cut.get("audited", ())))
            for cut in values["cuts"]
        )
        numbers = [*values["rungs"], values["halve"], values["audit"], values["seed"]]
        if not all(type(number) is int for number in numbers):
            raise TypeError("a number of the race is not a whole number")
        if len(cuts) >= len(values["rungs"]):
            raise ValueError("the race has more cuts than rungs to cut at")
        return cls(tuple(values["rungs"]), values["halve"], values["audit"], values["seed"], cuts)


def default_rungs(epochs: int, halve: int, *, late: bool) -> tuple[int, ...]:
    """Return the rungs that lead to a number of epochs: 27 -> 1, 3, 9, 27.

    Args:
        epochs: those of the last rung.
        halve: the ratio of a rung to the one before, above 1.
        late: whether the first rung is late, for values that learn slowly at first.
    """
    least = min(LATE_EPOCHS if late else 1, epochs)
    rungs = [epochs]
    while math.ceil(rungs[0] / halve) >= least and rungs[0] > 1:
        rungs.insert(0, math.ceil(rungs[0] / halve))
    return tuple(rungs)


def learn_late(values: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether values are searched that learn late."""
    return any(
        each.learns_late and tuple(values[name]) != each.values
        for name, each in HYPERPARAMETERS.items()
    )


def is_worse(correct: "NDArray[np.bool_]", than: "NDArray[np.bool_]") -> bool:
    """Return whether answers (N',) are worse than others, by McNemar's one-sided test at 5 %."""
    won, lost = int((correct & ~than).sum()), int((than & ~correct).sum())
    return lost - won > ONE_SIDED_95 * math.sqrt(won + lost)


def _place(standing: Standing) -> tuple[float, float, str]:
    return (-standing.accuracy, standing.loss, standing.trial.name)


def _groups(standings: Sequence[Standing]) -> list[list[Standing]]:
    """Return the standings by what divides stacks, in the order of their best."""
    groups: dict[tuple[Any, ...], list[Standing]] = {}
    for each in standings:
        groups.setdefault(each.trial.configuration.shared, []).append(each)
    return list(groups.values())


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:16]


def _ascend(numbers: Sequence[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))

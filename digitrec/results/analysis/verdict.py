"""What a study shows, how certain that is, and what to run next: the rules in their order."""

from collections.abc import Callable, Sequence

from digitrec.results.analysis.evidence import Evidence, gather_evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.rules.average import judge_average
from digitrec.results.analysis.rules.cooldown import judge_cooldown
from digitrec.results.analysis.rules.cost import judge_price, judge_updates
from digitrec.results.analysis.rules.importance import judge_importance
from digitrec.results.analysis.rules.race import judge_audit, judge_race
from digitrec.results.analysis.rules.space import (
    judge_chance,
    judge_divergence,
    judge_edge,
    judge_edge_of_stability,
    judge_nothing_but_divergence,
    judge_range_edge,
)
from digitrec.results.analysis.rules.state import judge_failures, judge_unfinished
from digitrec.results.analysis.rules.training import (
    judge_convergence,
    judge_overfitting,
    judge_stability,
)
from digitrec.results.analysis.rules.trust import judge_optimism, judge_seeds, judge_test
from digitrec.results.analysis.rules.winner import judge_winner
from digitrec.store.record import StudyRecord

Rule = Callable[[Evidence], Finding | None]

RULES: Sequence[Rule] = (
    judge_winner,
    judge_cooldown,
    judge_race,
    judge_audit,
    judge_average,
    judge_unfinished,
    judge_failures,
    judge_seeds,
    judge_edge,
    judge_range_edge,
    judge_edge_of_stability,
    judge_importance,
    judge_convergence,
    judge_overfitting,
    judge_divergence,
    judge_stability,
    judge_updates,
    judge_price,
    judge_optimism,
    judge_test,
)
# Where no configuration learned anything, the best of them needs no advice.
RULES_AT_CHANCE: Sequence[Rule] = (
    judge_winner,
    judge_chance,
    judge_unfinished,
    judge_failures,
    judge_divergence,
    judge_test,
)
RULES_WITHOUT_WINNER: Sequence[Rule] = (
    judge_nothing_but_divergence,
    judge_unfinished,
    judge_failures,
)


def reach_verdict(record: StudyRecord) -> list[Finding]:
    """Return what a study shows, the winner first; it need not be finished."""
    evidence = gather_evidence(record)
    if not evidence.compared:
        rules = RULES_WITHOUT_WINNER
    elif evidence.at_chance:
        rules = RULES_AT_CHANCE
    else:
        rules = RULES
    findings = (rule(evidence) for rule in rules)
    return [finding for finding in findings if finding is not None]

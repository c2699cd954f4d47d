"""Which configuration won, and which others are as good?"""

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.text import NO_WINNER, count, first_few, percent, points

MOST_ALIKE, MOST_ALIKE_OF_LONG_NAMES = 5, 2  # configurations that a sentence names


def judge_winner(evidence: Evidence) -> Finding:
    """Name the winner, its interval, and the configurations that cannot be told apart from it.

    Source: Playbook, "Determining whether to adopt a training pipeline change or hyperparameter
    configuration", for the kinds of chance; `compare_with_winner` and `adjust_for_choice` for the
    tests, which keep the chance of any false "is better than" at 5%.
    """
    clear = evidence.comparisons is not None and not evidence.alike
    sentences = [
        name_winner(evidence),
        *_say_basis(evidence),
        *_say_alike(evidence),
        *_say_confirmation(evidence),
        *_say_not_compared(evidence),
        *_say_one_seed(evidence),
    ]
    return Finding(
        rule="winner",
        level="good" if clear and evidence.several_seeds else "note",
        sentence=" ".join(sentences),
        evidence=_describe_comparison(evidence),
    )


def name_winner(evidence: Evidence) -> str:
    """Return the sentence that names the winner, its accuracy and the interval."""
    if not evidence.compared:
        return f"{NO_WINNER.capitalize()}."
    winner, (low, high) = evidence.winner, evidence.interval
    alone = len(evidence.configurations) == 1
    fresh = "fresh " if evidence.confirmed else ""
    seeds = f", mean of {len(winner.trials)} {fresh}seeds" if evidence.several_seeds else ""
    does = "after its cooldown it recognises" if evidence.cooled else "it recognises"
    return (
        f"{'The only configuration with a result' if alone else 'The winner'} is {winner}: {does} "
        f"{percent(winner.accuracy)} of the {count(evidence.images, 'validation image')}"
        f" (95% interval {percent(low)} to {percent(high)}{seeds})."
    )


def _say_basis(evidence: Evidence) -> list[str]:
    """Say with what the others are compared, where the winner alone cooled down."""
    if not evidence.cooled or evidence.compared_cooled or len(evidence.compared) < 2:
        return []
    return ["The others are compared with what it was before."]


def _say_alike(evidence: Evidence) -> list[str]:
    others, alike = len(evidence.compared) - 1, evidence.alike
    if not others:
        return []
    if evidence.comparisons is None:
        return [
            "The study directory does not hold the validation labels, so the winner was not "
            "compared with the others."
        ]
    if not alike:
        every = f"each of the other {others:,} configurations"
        if others == 1:
            every = "the only other configuration"
        return [f"On these images it is better than {every}."]
    short = evidence.names_are_long
    names = first_few(
        (
            f"{evidence.spell_beside_winner(each.values)} ({percent(each.accuracy)})"
            for each in alike
        ),
        MOST_ALIKE_OF_LONG_NAMES if short else MOST_ALIKE,
    )
    how = " (only values that differ from the winner's are named)" if short else ""
    return [f"{_count_alike(len(alike), others)} be told apart from it{how}: {names}."]


def _count_alike(alike: int, others: int) -> str:
    if others == 1:
        return "The only other configuration cannot"
    if alike == others:
        return f"None of the other {others:,} can"
    return f"{alike:,} of the other {others:,} cannot"


def _say_confirmation(evidence: Evidence) -> list[str]:
    """Say whether fresh seeds changed the winner."""
    if not evidence.confirmed:
        return []
    if evidence.first_leader.values == evidence.winner.values:
        return ["It was also ahead before the leaders were trained again with fresh seeds."]
    return [
        f"Before the leaders were trained again with fresh seeds, {evidence.first_leader} was "
        "ahead."
    ]


def _say_not_compared(evidence: Evidence) -> list[str]:
    left_out = evidence.ranking[~evidence.ranking["compared"]]
    if evidence.confirmed:
        names = map(evidence.spell, left_out.to_dict("records"))
        bad = sum(name in evidence.unconfirmed for name in names)
        reasons = ["without fresh seeds", "that diverged or failed with fresh seeds"]
    else:
        bad = int((left_out["diverged"] > 0).sum())
        reasons = ["with one seed only", "with a seed that diverged"]
    return [
        f"Not compared: {count(number, 'configuration')} {reason}."
        for number, reason in zip((len(left_out) - bad, bad), reasons, strict=True)
        if number
    ]


def _say_one_seed(evidence: Evidence) -> list[str]:
    if evidence.several_seeds:
        return []
    return [
        "All of this holds for one seed, that is, one draw of the initial weights and one order of "
        "the images; how much another seed would change has not been measured."
    ]


def _describe_comparison(evidence: Evidence) -> str:
    winner, comparisons = evidence.winner, evidence.comparisons
    images = count(evidence.images, "image")
    if comparisons is None:
        return f"{round(winner.accuracy * evidence.images):,} of {images} recognised"
    nearest = evidence.nearest
    named = evidence.spell_beside_winner(evidence.compared[1 + nearest].values)
    test = (
        f"Welch's t-test over {len(winner.trials)} seeds and the same {images}"
        if evidence.several_seeds
        else f"McNemar's exact test on the same {images}"
    )
    return (
        f"{test}, corrected for {count(len(comparisons.p_values), 'comparison')} and for the "
        f"choice of the winner (5% chance of any false claim); the nearest is "
        f"{named}, {points(abs(comparisons.differences[nearest]))} lower "
        f"(standard error {points(comparisons.errors[nearest])}), "
        f"p = {comparisons.p_values[nearest]:.2g}, corrected {comparisons.adjusted[nearest]:.2g}"
    )

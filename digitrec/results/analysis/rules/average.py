"""Which models does the saved one average, and what do they reach together?"""

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.text import first_few, join_words, percent


def judge_average(evidence: Evidence) -> Finding | None:
    """Say which trials' probabilities are averaged, and the accuracy of their mean.

    Source: Hansen and Salamon 1990, "Neural network ensembles": several networks together err less
    than each, as far as their mistakes differ.
    """
    best, asked = evidence.saved, evidence.spec.average
    if best is None or (asked == 1 and "members" not in best):
        return None
    members = [each["trial"] for each in best.get("members", [best])]
    trials = evidence.record.tables.trials
    accuracies = dict(zip(trials["trial"], trials["val_accuracy"], strict=True))
    if not accuracies.keys() >= set(members):  # the model is that of an earlier run
        return None
    few = f"The saved model holds only {len(members)} of the {asked} trials to average. "
    said = _say_members(evidence, members, accuracies)
    return Finding(
        rule="average",
        level="caution" if len(members) < asked else "note",
        sentence=few + said if len(members) < asked else said,
        evidence="validation accuracy of each: "
        + first_few(f"{name} {percent(accuracies[name])}" for name in members),
    )


def _say_members(evidence: Evidence, members: list[str], accuracies: dict[str, float]) -> str:
    if len(members) == 1:
        return "Predictions are those of the winner alone."
    assert evidence.saved is not None, "its members are known"
    together = percent(evidence.saved["average"]["val_accuracy"])
    alone = percent(accuracies[members[0]])
    return (
        f"Predictions are the mean of the probabilities of {len(members)} models: "
        f"{_name(evidence, members)}. Together they recognise {together} of the validation "
        f"images, the winner's model alone {alone}. They were chosen on the same images, which "
        "makes both a little too high."
    )


def _name(evidence: Evidence, members: list[str]) -> str:
    """Return the configurations of the members, each with its seeds."""
    trials = evidence.record.tables.trials.set_index("trial")
    seeds: dict[str, list[str]] = {}
    for row in trials.loc[members].to_dict("records"):
        seeds.setdefault(evidence.spell(row), []).append(str(row["seed"]))
    return first_few(
        f"{name} ({'seed' if len(own) == 1 else 'seeds'} {join_words(own)})"
        for name, own in seeds.items()
    )

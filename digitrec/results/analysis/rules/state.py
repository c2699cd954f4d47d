"""Is the study complete?"""

from digitrec.results.analysis.evidence import Evidence
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.next_command import tune_command
from digitrec.results.text import count, first_few


def judge_unfinished(evidence: Evidence) -> Finding | None:
    """Say that the verdict is provisional while trials are missing."""
    trials = evidence.record.tables.trials
    missing = trials[trials["status"] == "stopped"]
    unsuggested = evidence.spec.search_space.unsuggested
    if missing.empty and not unsuggested:
        return None
    trial_names = f"missing: {first_few(missing['trial'])}" if len(missing) else ""
    return Finding(
        rule="unfinished",
        level="caution",
        sentence=f"{_say_missing(len(missing), len(trials), unsuggested)}. The command continues "
        "the study.",
        evidence=trial_names,
        command=tune_command(evidence.record),
    )


def _say_missing(missing: int, trials: int, unsuggested: int) -> str:
    """Say how many trials are missing, or points that the sampler has not suggested yet."""
    if missing == trials:
        return "No trial is finished yet"
    verb = "is" if (missing or unsuggested) == 1 else "are"
    what = (
        f"{missing} of {count(trials, 'trial')} {verb} not trained yet"
        if missing
        else f"{count(unsuggested, 'point')} {verb} not suggested yet"
    )
    return f"{what}, so this verdict is provisional"


def judge_failures(evidence: Evidence) -> Finding | None:
    """Say which trials failed, and with which errors.

    Source: Playbook, "Extracting insight from experimental results": what fraction of trials is
    infeasible; many of them can mean a bug.
    """
    trials = evidence.record.tables.trials
    failed = trials[trials["status"] == "failed"]
    if failed.empty:
        return None
    errors = [evidence.record.failures.get(trial, "").strip() for trial in failed["trial"]]
    reasons = dict.fromkeys(error.splitlines()[-1] for error in errors if error)
    verb, them = ("is", "it") if len(failed) == 1 else ("are", "them")
    return Finding(
        rule="failed",
        level="caution",
        sentence=f"{len(failed)} of {count(len(trials), 'trial')} failed with an error "
        f"and {verb} left out of this verdict. The command trains {them} again.",
        evidence=f"{first_few(failed['trial'])}: {'; '.join(reasons) or 'no error is recorded'}",
        command=tune_command(evidence.record),
    )

"""The runs of a study, and which stacks each of them trained.

A study may be trained in many runs, days apart, on machines that are more or less busy. So the
seconds of stacks can be compared within a run, not between runs.
"""

import pandas as pd

LONGEST_PAUSE = 60.0  # seconds without training within a run
# A run keeps its workers, so a shorter pause ends it where all workers after the pause are new.
LONGEST_CHANGE = 10.0


def number_runs(stacks: pd.DataFrame) -> "pd.Series[int]":
    """Return the run of each stack, from 0 on.

    Args:
        stacks: columns node, pid (the worker), started, ended (seconds); in the order of `started`.
    """
    idle = stacks["started"] - stacks["ended"].cummax().shift()
    workers = stacks.groupby(["node", "pid"])["started"]
    # Before a stack: how many workers have begun, and how many have begun their last.
    begun = (workers.cumcount() == 0).cumsum().shift(fill_value=0)
    done = (workers.cumcount(ascending=False) == 0).cumsum().shift(fill_value=0)
    changed = (begun == done) & (idle > LONGEST_CHANGE)
    return (changed | (idle > LONGEST_PAUSE)).astype(int).cumsum()

"""Question: which learning rate and batch size train the MLP best in three epochs?

    ray job submit --working-dir . -- python -m tune_jobs.mnist_grid --data train.csv --out DIR

takes the options of `digitrec tune` and, left without them, asks the question of 5 learning rates
and 5 batch sizes on the packaged sample of 5,000 MNIST digits. Without a cluster,
`python -m tune_jobs.mnist_grid` runs on this machine's cores.
"""

from collections.abc import Sequence

from digitrec.cli import main as digitrec


def main(arguments: Sequence[str]) -> int:
    """Run the study; returns the exit code of `digitrec tune`."""
    return digitrec(["tune", *arguments])


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))

"""How long does the usual Ray Tune program take: one trial per configuration, `DataLoader` inside?

Data, model and loop are those of `plain_loop.py`. Ray Tune runs one trial per core, passes the
arrays through the object store, and otherwise keeps its defaults. 42,000 rows, the 5 x 5 grid and
3 epochs take about 120 s on two cores.

    python -m tests.benchmarks.usual_ray_tune --data train.csv --out build/ray-tune
"""

import argparse
import logging
from typing import Any

import pandas as pd
import ray
import torch
from ray import tune

from tests.benchmarks.plain_loop import (
    COLUMNS,
    METRICS,
    Arrays,
    parse_options,
    run,
    train_configuration,
)


def trainable(config: dict[str, Any], arrays: Arrays, epochs: int, seed: int) -> None:
    """Train one configuration; the function that Ray Tune runs."""
    torch.set_num_threads(1)
    for metrics in train_configuration(arrays, config["lr"], config["batch_size"], epochs, seed):
        tune.report({name: metrics[name] for name in ("epoch", *METRICS)})


def train_grid(arrays: Arrays, options: argparse.Namespace) -> pd.DataFrame:
    """Train every learning rate with every batch size, a trial each."""
    # "local" so that no other Ray of this machine is joined by accident.
    ray.init("local", log_to_driver=False, logging_level=logging.ERROR)
    function = tune.with_parameters(
        trainable, arrays=arrays, epochs=options.epochs, seed=options.seed
    )
    results = tune.Tuner(
        tune.with_resources(function, {"cpu": 1}),
        param_space={
            "lr": tune.grid_search(options.lr),
            "batch_size": tune.grid_search(options.batch_size),
        },
        run_config=tune.RunConfig(storage_path=str(options.out.resolve() / "ray"), verbose=0),
    ).fit()
    if results.errors:
        raise RuntimeError(f"a trial failed: {results.errors[0]}")
    table = pd.concat([results[i].metrics_dataframe for i in range(len(results))])
    table = table.rename(columns={"config/lr": "lr", "config/batch_size": "batch_size"})
    return table[COLUMNS].sort_values(["lr", "batch_size", "epoch"])


if __name__ == "__main__":
    OPTIONS = parse_options(__doc__)
    run(OPTIONS, lambda arrays: train_grid(arrays, OPTIONS))

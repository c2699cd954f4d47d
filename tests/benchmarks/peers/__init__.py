"""The searches that `tests.benchmarks.race` compares, each a program of its own.

points.py             the space that all search, and its points
training.py           the training that all peers share: plain torch, resident tensors
events.py             what a search found when: one line per epoch, in files
studies.py            digitrec's race and its variants
optuna_processes.py   Optuna: TPE and Hyperband, two processes
ray_asha.py           Ray Tune: OptunaSearch and ASHA
syne_tune_asha.py     Syne Tune: ASHA, and ASHA with conformal quantile regression
scores.py             incumbents trained again by one code, on fresh seeds
table.py              the comparison as a page
"""

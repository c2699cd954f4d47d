# The commands of digitrec; `make` or `make help` lists them.

PYTHON ?= python3
DATA ?= sample
OUT ?=
DIR ?= results/sample
IMAGES ?=
TO ?= submission.csv
ARGS ?=
PORT ?= 8265
ADDRESS ?=

# A file's tests share fixtures, so one process runs them; files that take long come first.
PARALLEL := --dist loadfile --no-loadscope-reorder
# Bytecode is kept even where the environment says otherwise, as that of containers does: without it,
# every process compiles digitrec, and every process of pytest rewrites all tests.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PARALLEL)

VENV := .venv
BIN := $(VENV)/bin
LOCK := cluster/requirements.lock
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help tune best report predict cluster submit cluster-stop test test-fast coverage soak fuzz bench bench-race bench-gpu bench-timeline check format lock clean

help: ## list the commands
	@echo "make COMMAND, where COMMAND is"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "make tune DATA=train.csv OUT=results/kaggle ARGS=\"--epochs 10\" tunes on a file of yours."

# Installs exact versions from the lock file: once, and again when the lock or the project changes.
$(READY): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "digitrec needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..."; exit 2; }
	@echo "Making the environment $(VENV); this is done once and takes some minutes"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint $(LOCK) --editable '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true # on all cores, where pip uses one
	@touch $@

tune: $(READY) ## search the grid: DATA=sample|openml|FILE, OUT=directory, ARGS="more options"
	@$(BIN)/digitrec tune --data '$(DATA)' $(if $(OUT),--out '$(OUT)') $(ARGS)

best: $(READY) ## search for the best model of train.csv in minutes: DATA=FILE, OUT=directory
	@$(BIN)/python -m tune_jobs.best_digits --data '$(DATA)' $(if $(OUT),--out '$(OUT)') $(ARGS)

predict: $(READY) ## recognise digits: DIR=study directory, IMAGES=sample|openml|FILE, TO=submission.csv
	$(if $(IMAGES),,$(error make predict needs IMAGES=FILE, the images to recognise))
	@$(BIN)/digitrec predict '$(DIR)' '$(IMAGES)' --to '$(TO)' $(ARGS)

report: $(READY) ## write the tables, figures and report of a study again: DIR=directory
	@$(BIN)/digitrec report '$(DIR)' $(ARGS)

cluster: $(READY) ## start a Ray cluster on this machine for practice: PORT=8265 (dashboard)
	@$(BIN)/digitrec cluster start --dashboard-port '$(PORT)' $(ARGS)

submit: $(READY) ## search the grid on a Ray cluster: DATA=..., OUT=..., ADDRESS=http://HEAD:8265, ARGS="..."
	@$(BIN)/digitrec submit --data '$(DATA)' $(if $(OUT),--out '$(OUT)') \
		$(if $(ADDRESS),--address '$(ADDRESS)') $(ARGS)

cluster-stop: $(READY) ## end the Ray cluster that 'make cluster' started
	@$(BIN)/digitrec cluster stop

test: $(READY) ## run the tests, three files at a time
	@$(PYTEST) -n 3 $(ARGS)

test-fast: $(READY) ## run the quick tests, which need neither Ray nor a browser; a minute
	@$(PYTEST) -n 2 -m 'not (ray or cluster or browser or slow)' $(ARGS)

# What clusters and browsers run is in processes of its own, where nothing is measured.
coverage: $(READY) ## measure branch coverage of the tests without clusters and browsers
	@$(PYTEST) -n 3 -m 'not (cluster or browser)' --cov --cov-report=term:skip-covered $(ARGS)

soak: $(READY) ## interrupt a study at 200 points and compare results; an hour or two: ARGS="--cuts 50 --minutes 15"
	@$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(READY) ## damage study files 20,000 times and check that readers report it; 15 minutes: ARGS="--files 500"
	@$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(READY) ## compare speed with the plain loop and usual Ray Tune code: DATA=..., ARGS="--rounds 3"
	@$(BIN)/python -m tests.benchmarks.bench --data '$(DATA)' $(if $(OUT),--out '$(OUT)') $(ARGS)

bench-race: $(READY) ## compare a race with Optuna, Ray's ASHA and Syne Tune; hours: ARGS="--seconds 60 --search-seeds 0"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(LOCK) --editable '.[bench]'
	@$(BIN)/python -m tests.benchmarks.race --data '$(DATA)' $(if $(OUT),--out '$(OUT)') $(ARGS)

bench-gpu: $(READY) ## measure an NVIDIA GPU: steps, memory, grid, race: DATA=..., ARGS="--sections steps,grid"
	@$(BIN)/python -m tests.benchmarks.gpu --data '$(DATA)' $(ARGS)

bench-timeline: $(READY) ## show where the seconds of a study go, as a picture: DATA=..., ARGS="--to timeline.png"
	@$(BIN)/python -m tests.benchmarks.timeline --data '$(DATA)' $(ARGS)

check: $(READY) ## check format, lint and types
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

format: $(READY) ## format the code and apply automatic lint fixes
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

lock: ## rewrite the lock file with the newest versions that pyproject.toml allows
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,launch]'
	@{ echo "# Exact versions, for make, the container image and the cluster. Made by 'make lock'."; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > $(LOCK)

clean: ## remove the environment, build/ and caches; results/ stays
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	@find digitrec tune_jobs cluster tests -name __pycache__ -type d -prune -exec rm -rf {} +

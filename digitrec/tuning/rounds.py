"""The training of a study: the grid, its leaders anew, their cooldown, the best on all rows."""

import itertools
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from digitrec.data.digits import SharedData, Split, fit_scaler
from digitrec.request import Request
from digitrec.signals import Interruption
from digitrec.space.hyperparameters import Trial, with_role
from digitrec.space.stacks import MAX_STACK_SIZE, Stack, Task, plan_stacks
from digitrec.store.directory import find_damage
from digitrec.store.folder import Folder
from digitrec.store.lock import Lock
from digitrec.store.spec import StudySpec, write_spec
from digitrec.store.stacks import (
    StackResult,
    clear_failures,
    read_failures,
    read_stacks,
    results_after,
    set_aside,
)
from digitrec.store.timings import Timings
from digitrec.tuning.runner import Assignment, MakeRunner, Node, Runner
from digitrec.tuning.session import count_workers
from digitrec.winner.inputs import Refit

if TYPE_CHECKING:
    import pandas as pd


class StudyRunner:
    """Trains the missing trials of a study; starts a runner only if there are any."""

    def __init__(
        self,
        request: Request,
        shared: SharedData,
        console: Console,
        timings: Timings,
        lock: Lock,
        interruption: Interruption,
        make_runner: MakeRunner,
    ) -> None:
        self.request = request
        self.shared = shared
        self.console = console
        self.timings = timings
        self.lock = lock
        self.interruption = interruption
        self.make_runner = make_runner
        self._runner: Runner | None = None
        self._closing = ExitStack()

    def __enter__(self) -> "StudyRunner":
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def train(self, spec: StudySpec, trials: Sequence[Trial]) -> None:
        """Train the trials whose results the study directory lacks.

        Raises:
            InputError: no node can train a stack, or not all nodes share the study directory.
        """
        directory = self.request.directory
        results, _ = read_stacks(directory, spec.key)
        missing = missing_trials(spec, results).intersection(trials)
        if not missing:
            write_spec(directory, spec)
            return
        runner = self._start(len(missing))
        tasks = plan(self.request, runner.nodes(), spec, trials, missing, results)
        self.console.print(describe_plan(spec, tasks), highlight=False, soft_wrap=True)
        clear_failures(directory, {trial.name for trial in missing})
        write_spec(directory, spec)
        with self.timings.part("train"):
            self._search(runner, directory, spec, self.shared, tasks, self.console)

    def confirm(self, spec: StudySpec) -> StudySpec:
        """Train the leaders of a study again with fresh seeds, the same for all leaders.

        Returns:
            The spec with the confirming trials; unchanged if the search was stopped.
        """
        trials = self._trials(spec)
        if self.interruption.came or (trials["status"] == "stopped").any():
            return spec
        from digitrec.results.analysis.ranking import rank_configurations

        ranked = rank_configurations(trials)
        leaders = ranked[ranked["compared"]].head(self.request.confirm)
        best = {trial.name: trial.configuration for trial in spec.trials()}
        seeds = fresh_seeds(self.request.space.seeds, self.request.confirm_seeds)
        confirmed = [Trial(best[names[0]], seed) for names in leaders["trials"] for seed in seeds]
        spec = replace(spec, confirmed=[trial.values() for trial in confirmed])
        self.train(spec, confirmed)
        return spec

    def cool(self, spec: StudySpec) -> StudySpec:
        """Train the finalists of a study on, while their learning rates fall to 0.

        Returns:
            The spec with the trials that cool down; unchanged if there are no finalists yet.
        """
        trials = self._trials(spec)
        if self.interruption.came or (trials["status"] == "stopped").any():
            return spec
        from digitrec.results.analysis.ranking import find_finalists

        finalists = find_finalists(trials, spec.confirmed_trials, spec.average)
        cooled = [
            replace(trial, cooldown=self.request.cooldown)
            for trial in spec.trials()
            if trial.name in finalists
        ]
        spec = replace(spec, cooled=[trial.values() for trial in cooled])
        self.train(spec, cooled)
        return spec

    def refit(self, spec: StudySpec) -> Refit | None:
        """Train the winner, and the trials that it is averaged with, on all rows.

        Returns:
            None if there is no winner, or the grid or this training is not finished.
        """
        trials = self._trials(spec)
        from digitrec.results.analysis.ranking import choose_members, rank

        ranked = rank(trials, spec.confirmed_trials, spec.cooled_trials)
        if self.interruption.came or ranked.empty or (trials["status"] == "stopped").any():
            return None
        names = choose_members(ranked, spec.confirmed_trials, spec.cooled_trials, spec.average)
        by_name = {trial.name: trial for trial in spec.trials()}
        members = [by_name[name] for name in names]
        directory = self.request.directory / "refit"
        whole = spec_of_refit(spec, members)
        shared = share_all_rows(self.shared, whole)
        directory.prepare()
        for damage in find_damage(directory, whole.key):
            set_aside(directory, damage)
        self._train_refit(directory, whole, shared, members)
        results, _ = read_stacks(directory, whole.key)
        trained = {
            trial: result.epochs[-1][k] for trial, result, k in results_after(whole.epochs, results)
        }
        if any(trial not in trained or trained[trial].diverged for trial in members):
            for reason in dict.fromkeys(read_failures(directory).values()):
                self.console.print(f"failed: {reason}", style="red", markup=False, soft_wrap=True)
            return None
        return Refit(directory=directory, spec=whole, trials=names, shared=shared)

    def _train_refit(
        self, directory: Folder, whole: StudySpec, shared: SharedData, members: Sequence[Trial]
    ) -> None:
        """Train on all rows the members that have not been; each in a stack of its own.

        So a model does not depend on how many others it is averaged with.
        """
        results, _ = read_stacks(directory, whole.key)
        missing = missing_trials(whole, results)
        todo = [trial for trial in members if trial in missing]
        if not todo:
            return
        runner = self._start(len(todo))
        who = todo[0].name if len(todo) == 1 else f"{len(todo)} trials"
        rows = f"{whole.data['rows']:,}"
        self.console.print(f"Training {who} on all {rows} rows", highlight=False)
        quiet = Console(quiet=True)  # the refit's accuracies are on rows that it trained on
        tasks = [Task(Stack((trial,))) for trial in todo]
        status = "Training the winner" if len(members) == 1 else "Training the averaged trials"
        with self.timings.part("train"), self.console.status(status):
            self._search(runner, directory, whole, shared, tasks, quiet)

    def _search(
        self,
        runner: Runner,
        directory: Folder,
        spec: StudySpec,
        shared: SharedData,
        tasks: Sequence[Task],
        console: Console,
    ) -> None:
        runner.train(
            Assignment(
                request=self.request,
                directory=directory,
                spec=spec,
                shared=shared,
                tasks=tasks,
                console=console,
                lock=self.lock,
                interruption=self.interruption,
            )
        )
        if self.interruption.came:  # printed now: a cluster may kill a stopped job before it ends
            self.console.print("Stopped. The same `digitrec tune` command trains the rest.")

    def _trials(self, spec: StudySpec) -> "pd.DataFrame":
        from digitrec.store.tables import make_tables

        directory = self.request.directory
        results, _ = read_stacks(directory, spec.key)
        failures = read_failures(directory)
        return make_tables(spec.trials(), spec.epochs, results, failures).trials

    def end(self) -> None:
        """Begin to end the runner; leaving the block waits for its end."""
        if self._runner:
            self._runner.end()

    def _start(self, trials: int) -> Runner:
        """Return the runner; start it, for this number of trials, if it is not running."""
        if self._runner is None:
            one_core_each = not self.request.gpus_per_stack and self.request.cpus_per_stack <= 1
            preload = one_core_each and trials >= (os.cpu_count() or 1)
            runner = self.make_runner(
                self.request.address, self.console, self.timings, preload=preload
            )
            self._runner = self._closing.enter_context(runner)
            runner.check_shared(self.request.directory)
        return self._runner


def describe_plan(spec: StudySpec, tasks: Sequence[Task]) -> str:
    """Return one line: the data, and the number of configurations, stacks and epochs."""
    data = spec.data
    configurations = sum(len(task.stack.members) for task in tasks)
    cooldown = tasks[0].stack.cooldown
    if cooldown:
        return (
            f"Cooldown of {configurations} trials in {len(tasks)} stacks, to epoch "
            f"{spec.epochs + cooldown}, while the {with_role('step size').label} falls to 0"
        )
    going_on = sum(len(task.stack.members) for task in tasks if task.continues)
    grown = f"; {going_on} of them continue from fewer epochs" if going_on else ""
    return (
        f"{data['train_rows']:,} digits to train on, {data['val_rows']:,} to validate on; "
        f"{configurations} configurations in {len(tasks)} stacks, {spec.epochs} epochs each" + grown
    )


def missing_trials(spec: StudySpec, results: Iterable[StackResult]) -> set[Trial]:
    """Return the trials of a study that are in no finished stack."""
    there = {trial for trial, _, _ in results_after(spec.epochs, results)}
    return set(spec.trials()) - there


def plan(
    request: Request,
    nodes: Sequence[Node],
    spec: StudySpec,
    trials: Sequence[Trial],
    missing: set[Trial],
    results: Sequence[StackResult],
) -> list[Task]:
    """Return the stacks that train the missing trials on the nodes, longest first.

    The whole grid of trials is planned, then finished trials are dropped. So an interrupted study
    continues with the same stacks and ends with the same numbers, bit for bit. A trial that was
    trained for fewer epochs continues from there, a trial that cools down from its last epoch.

    Raises:
        InputError: the nodes cannot train even one trial at a time.
    """
    whole = plan_stacks(
        trials,
        workers=count_workers(nodes, request.cpus_per_stack, request.gpus_per_stack),
        images=spec.data["train_rows"] * (trials[0].cooldown or spec.epochs),
        stack_size=request.stack_size or (MAX_STACK_SIZE if request.gpus_per_stack else None),
    )
    earlier = _longest_within(spec.epochs, results)
    tasks = []
    for stack in whole:
        parts: dict[str | None, list[Trial]] = {}
        for member in stack.members:
            if member in missing:
                parts.setdefault(earlier.get(member.before_cooldown), []).append(member)
        tasks += [Task(Stack(tuple(members)), key) for key, members in parts.items()]
    return tasks


def _longest_within(epochs: int, results: Sequence[StackResult]) -> dict[Trial, str]:
    """Return trial -> key of the stack that trained it for the most epochs, these at most."""
    lengths = sorted({result.epochs_before_cooldown for result in results})
    return {
        trial: result.key
        for length in lengths
        if length <= epochs
        for trial, result, _ in results_after(length, results)
    }


def fresh_seeds(taken: Sequence[int], how_many: int) -> list[int]:
    """Return the next seeds above the highest taken one, continuing with 0 after the last seed."""
    following = ((max(taken) + step) % 2**32 for step in itertools.count(1))
    return list(itertools.islice((seed for seed in following if seed not in taken), how_many))


def spec_of_refit(spec: StudySpec, members: Sequence[Trial]) -> StudySpec:
    """Return the spec of training trials on all rows, their cooldowns included."""
    winner, *others = (trial.before_cooldown.values() for trial in members)
    return replace(
        spec,
        data=spec.data | {"train_rows": spec.data["rows"]},
        space={name: [value] for name, value in winner.items()},
        val_fraction=0.0,
        confirmed=others,
        cooled=[trial.values() for trial in members if trial.cooldown],
    )


def share_all_rows(shared: SharedData, spec: StudySpec) -> SharedData:
    """Return the data with every row to train on, and a scaler fitted on every row."""
    train, val = shared.split
    return replace(
        shared,
        key=spec.key,
        split=Split(train=np.concatenate([train, val]), val=val),
        scaler=fit_scaler(shared.images),
    )

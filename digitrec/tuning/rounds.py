"""What a study trains: the grid, its leaders with fresh seeds, the winner on all rows."""

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
from digitrec.space.hyperparameters import Trial
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
from digitrec.tuning.session import Session, count_workers
from digitrec.winner.inputs import Refit

if TYPE_CHECKING:
    import pandas as pd


class StudyRunner:
    """Trains what a study misses, by a runner that is started when there is something to train."""

    def __init__(
        self,
        request: Request,
        shared: SharedData,
        console: Console,
        timings: Timings,
        lock: Lock,
        make_runner: MakeRunner = Session,
    ) -> None:
        self.request = request
        self.shared = shared
        self.console = console
        self.timings = timings
        self.lock = lock
        self.make_runner = make_runner
        self.stopped = False  # by a Ctrl-C: nothing further is trained
        self._runner: Runner | None = None
        self._closing = ExitStack()

    def __enter__(self) -> "StudyRunner":
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def train(self, question: StudySpec, trials: Sequence[Trial]) -> None:
        """Train those trials of a study that the study directory has no result of.

        Raises:
            InputError: no node can train a stack, or not all nodes share the study directory.
        """
        study = self.request.directory
        results, _ = read_stacks(study, question.key)
        missing = missing_trials(question, results).intersection(trials)
        if not missing:
            write_spec(study, question)
            return
        runner = self._start(len(missing))
        tasks = plan(self.request, runner.nodes(), question, trials, missing, results)
        self.console.print(describe_plan(question, tasks), highlight=False, soft_wrap=True)
        clear_failures(study, {trial.name for trial in missing})
        write_spec(study, question)
        with self.timings.part("train"):
            self._search(runner, study, question, self.shared, tasks, self.console)

    def confirm(self, question: StudySpec) -> StudySpec:
        """Train the leaders of a study again with fresh seeds, the same for all of them.

        Returns:
            The question with what was trained; as it is when the grid was stopped.
        """
        trials = self._trials(question)
        if self.stopped or (trials["status"] == "stopped").any():
            return question
        from digitrec.results.analysis.ranking import rank_configurations

        ranked = rank_configurations(trials)
        leaders = ranked[ranked["compared"]].head(self.request.confirm)
        best = {trial.name: trial.configuration for trial in question.trials()}
        seeds = fresh_seeds(self.request.space.seeds, self.request.confirm_seeds)
        confirmed = [Trial(best[names[0]], seed) for names in leaders["trials"] for seed in seeds]
        question = replace(question, confirmed=[trial.values() for trial in confirmed])
        self.train(question, confirmed)
        return question

    def refit(self, question: StudySpec) -> Refit | None:
        """Train the winner on all rows.

        Returns:
            None where there is no winner, or the grid or this training is not finished.
        """
        trials = self._trials(question)
        from digitrec.results.analysis.ranking import rank

        ranked = rank(trials, question.confirmed_trials)
        if self.stopped or ranked.empty or (trials["status"] == "stopped").any():
            return None
        best = ranked["trial"].iloc[0]
        winner = next(trial for trial in question.trials() if trial.name == best)
        study = self.request.directory / "refit"
        whole = question_of_refit(question, winner)
        shared = share_all_rows(self.shared, whole)
        study.prepare()
        for damage in find_damage(study, whole.key):
            set_aside(study, damage)
        results, _ = read_stacks(study, whole.key)
        if missing_trials(whole, results):
            runner = self._start(1)
            rows = f"{whole.data['rows']:,}"
            self.console.print(f"Training {winner.name} on all {rows} rows", highlight=False)
            quiet = Console(quiet=True)  # its accuracies are on rows that it has seen
            tasks = [Task(Stack((winner,)))]
            with self.timings.part("train"), self.console.status("Training the winner"):
                self._search(runner, study, whole, shared, tasks, quiet)
            results, _ = read_stacks(study, whole.key)
        trained = [result.epochs[-1][k] for _, result, k in results_after(whole.epochs, results)]
        if not trained or trained[0].diverged:
            for reason in dict.fromkeys(read_failures(study).values()):
                self.console.print(f"failed: {reason}", style="red", markup=False, soft_wrap=True)
            return None
        return Refit(study=study, question=whole, trial=winner.name, scaler=shared.scaler)

    def _search(
        self,
        runner: Runner,
        study: Folder,
        question: StudySpec,
        shared: SharedData,
        tasks: Sequence[Task],
        console: Console,
    ) -> None:
        finished = runner.train(
            Assignment(
                request=self.request,
                study=study,
                question=question,
                shared=shared,
                tasks=tasks,
                console=console,
                lock=self.lock,
            )
        )
        if not finished:  # said first: of a stopped job, a cluster kills what takes long
            self.console.print("Stopped. The same `digitrec tune` command goes on with the rest.")
        self.stopped = self.stopped or not finished

    def _trials(self, question: StudySpec) -> "pd.DataFrame":
        from digitrec.store.tables import make_tables

        study = self.request.directory
        results, _ = read_stacks(study, question.key)
        failures = read_failures(study)
        return make_tables(question.trials(), question.epochs, results, failures).trials

    def end(self) -> None:
        """Begin to end what was started; leaving the block waits for it."""
        if self._runner:
            self._runner.end()

    def _start(self, trials: int) -> Runner:
        """Return the runner, which is started for so many trials if it is not yet."""
        if self._runner is None:
            one_core_each = not self.request.gpus_per_stack and self.request.cpus_per_stack <= 1
            preload = one_core_each and trials >= (os.cpu_count() or 1)
            runner = self.make_runner(
                self.request.address, self.console, self.timings, preload=preload
            )
            self._runner = self._closing.enter_context(runner)
            runner.check_shared(self.request.directory)
        return self._runner


def describe_plan(question: StudySpec, tasks: Sequence[Task]) -> str:
    """Return one line: what is trained on what."""
    data = question.data
    configurations = sum(len(task.stack.members) for task in tasks)
    going_on = sum(len(task.stack.members) for task in tasks if task.continues)
    grown = f"; {going_on} of them go on from fewer epochs" if going_on else ""
    return (
        f"{data['train_rows']:,} digits to train on, {data['val_rows']:,} to validate on; "
        f"{configurations} configurations in {len(tasks)} stacks, {question.epochs} epochs each"
        + grown
    )


def missing_trials(question: StudySpec, results: Iterable[StackResult]) -> set[Trial]:
    """Return the trials of a study that no finished stack holds."""
    there = {trial for trial, _, _ in results_after(question.epochs, results)}
    return set(question.trials()) - there


def plan(
    request: Request,
    nodes: Sequence[Node],
    question: StudySpec,
    trials: Sequence[Trial],
    missing: set[Trial],
    results: Sequence[StackResult],
) -> list[Task]:
    """Return the stacks to train on the nodes, longest first.

    The whole grid is planned, then what is there already is left out: a study that was cut
    short so goes on with the same stacks, and ends with the same numbers to the last bit. A
    trial that was trained for fewer epochs goes on from there.

    Args:
        request: what the study asks for.
        nodes: resources of each.
        question: the study's.
        trials: the whole grid.
        missing: those of them to train.
        results: the finished stacks of the study, of any number of epochs.

    Raises:
        InputError: the nodes cannot train even one trial at a time.
    """
    workers = count_workers(nodes, request.cpus_per_stack, request.gpus_per_stack)
    size = request.stack_size or (MAX_STACK_SIZE if request.gpus_per_stack else None)
    whole = plan_stacks(
        trials,
        workers=workers,
        images=question.data["train_rows"] * question.epochs,
        stack_size=size,
    )
    earlier = {
        member: result.key
        for epochs in range(1, question.epochs)
        for member, result, _ in results_after(epochs, results)
    }
    tasks = []
    for stack in whole:
        parts: dict[str | None, list[Trial]] = {}
        for member in stack.members:
            if member in missing:
                parts.setdefault(earlier.get(member), []).append(member)
        tasks += [Task(Stack(tuple(members)), key) for key, members in parts.items()]
    return tasks


def fresh_seeds(taken: Sequence[int], how_many: int) -> list[int]:
    """Return the next seeds after the highest that is taken; after the last comes 0."""
    following = ((max(taken) + step) % 2**32 for step in itertools.count(1))
    return list(itertools.islice((seed for seed in following if seed not in taken), how_many))


def question_of_refit(question: StudySpec, winner: Trial) -> StudySpec:
    """Return the question that training a winner on all rows answers."""
    return replace(
        question,
        data=question.data | {"train_rows": question.data["rows"]},
        space={name: [value] for name, value in winner.values().items()},
        val_fraction=0.0,
        confirmed=[],
    )


def share_all_rows(shared: SharedData, question: StudySpec) -> SharedData:
    """Return the data with every row to train on, and a scaler fitted on every row."""
    train, val = shared.split
    return replace(
        shared,
        key=question.key,
        split=Split(train=np.concatenate([train, val]), val=val),
        scaler=fit_scaler(shared.images),
    )

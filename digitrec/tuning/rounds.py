"""The training of a study: the grid, its leaders anew, their cooldown, the best on all rows."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from digitrec.data.digits import SharedData, Split, fit_scaler
from digitrec.errors import DamagedError, InputError
from digitrec.request import Request
from digitrec.signals import Interruption
from digitrec.space.hyperparameters import Trial
from digitrec.space.race import Race, Standing
from digitrec.space.stacks import Stack, Task
from digitrec.store.directory import find_damage
from digitrec.store.folder import Folder
from digitrec.store.lock import Lock
from digitrec.store.spec import StudySpec, read_spec, write_spec
from digitrec.store.stacks import (
    StackResult,
    clear_failures,
    last_accuracies,
    read_failures,
    read_stacks,
    remove_weights,
    results_of,
    set_aside,
    with_weights,
)
from digitrec.store.timings import Timings
from digitrec.tuning.course import (
    Course,
    describe_cut,
    describe_generation,
    describe_rung,
    describe_suggestion,
)
from digitrec.tuning.planning import describe_plan, missing_trials, plan
from digitrec.tuning.runner import Assignment, Node, Round, Runner
from digitrec.tuning.session import count_workers
from digitrec.tuning.workers import Workers
from digitrec.winner.inputs import Refit

if TYPE_CHECKING:
    import pandas as pd


NO_CUT = "this race has one rung, so it drops no trial; more --epochs or --rungs make more rungs"
FRESH_SEEDS, COOLDOWN = "fresh seeds", "cooldown"  # headings of their progress


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
        workers: Workers,
    ) -> None:
        self.request = request
        self.shared = shared
        self.console = console
        self.timings = timings
        self.lock = lock
        self.interruption = interruption
        self.workers = workers
        self._spec: StudySpec  # with what was suggested and decided so far
        self._checked = False  # whether all nodes see the study directory
        self._known_nodes: Sequence[Node] = ()  # those that a round was planned for last

    def train(self, spec: StudySpec) -> None:
        """Train the trials whose results the study directory lacks, and those that follow them.

        The search, its leaders with fresh seeds and the cooldown of its finalists are rounds of one
        training, so that the workers keep torch and the data. What is suggested or decided in
        between is written to the spec in the directory before it is acted on.

        Raises:
            InputError: no node can train a stack, or not all nodes share the study directory.
        """
        self._spec = spec
        following = self._rounds()
        first = next(following, None)
        if first is not None:
            if first.decision:
                self.console.print(first.decision, highlight=False, soft_wrap=True)
            rounds = itertools.chain([first], following)
            runner, directory = self._start(first.trials), self.request.directory
            with self.timings.part("train"):
                self._search(runner, directory, spec, self.shared, rounds, self.console)

    def _rounds(self) -> Iterator[Round]:
        """Yield what is to be trained, and decide in between what follows."""
        spec = self._spec
        if spec.race or spec.search_space.generations:
            yield from self._rounds_of(self._course(spec))
        else:
            yield from self._round_of(spec.trials())
        if self.request.confirm and (trials := self._finished()) is not None:
            yield from self._confirm(trials)
        if self.request.cooldown and (trials := self._finished()) is not None:
            yield from self._cool(trials)

    def _finished(self) -> "pd.DataFrame | None":
        """Return the trials so far; None if the training of some was stopped."""
        from digitrec.store.tables import make_tables

        directory, spec = self.request.directory, self._spec
        results, _ = read_stacks(directory, spec.key)
        trials = make_tables(spec.goals(), results, read_failures(directory)).trials
        stopped = self.interruption.came or (trials["status"] == "stopped").any()
        return None if stopped else trials

    def _round_of(self, trials: Sequence[Trial], heading: str = "") -> Iterator[Round]:
        """Yield the missing ones of these trials of the study, if there are any."""
        spec = self._spec
        results, _ = read_stacks(self.request.directory, spec.key)
        missing = missing_trials(spec, results).intersection(trials)
        if not missing:
            self._write(spec)
            return
        each = self._round(spec, trials, missing, results, spec.epochs, heading)
        self._write(spec)
        yield replace(each, decision=describe_plan(spec, each.tasks))

    def _rounds_of(self, course: Course) -> Iterator[Round]:
        """Yield the rounds of a search whose points are suggested, that drops most, or both."""
        self._write(course.spec)
        if course.race and course.race.decided:
            self.console.print("[yellow]note[/yellow] " + NO_CUT, highlight=False, soft_wrap=True)
        tried: set[Trial] = set()
        for each in self._generations(course):
            tried.update(member for task in each.tasks for member in task.stack.members)
            yield each
        yield from self._rungs(course, tried)

    def _write(self, spec: StudySpec) -> None:
        """Write a decision, before it is acted on."""
        self._spec = spec
        write_spec(self.request.directory, spec)

    def _generations(self, course: Course) -> Iterator[Round]:
        """Yield what is to be trained, generation by generation, and suggest the next from results.

        A race trains the points of all generations to its first rung.
        """
        directory, seeds = self.request.directory, len(course.spec.search_space.seeds)
        generations, epochs = course.spec.search_space.generations, course.first_goal
        if not generations:
            return
        results, _ = read_stacks(directory, course.spec.key)
        decision = ""
        for place, points in enumerate(generations):
            there = len(course.spec.search_space.configurations())
            if there < points.stop:
                goals = dict.fromkeys(course.spec.points(), epochs)
                course.suggest(place, last_accuracies(goals, results))
                self._write(course.spec)
                decision = describe_suggestion(points.stop - there, points.start)
            generation = course.spec.points()[points.start * seeds : points.stop * seeds]
            missing = _missing(generation, epochs, results)
            if missing:
                heading = describe_generation(place, len(generations))
                yield self._round(
                    course.spec, generation, missing, results, epochs, heading, decision
                )
                results, _ = read_stacks(directory, course.spec.key)

    def _rungs(self, course: Course, tried: Set[Trial]) -> Iterator[Round]:
        """Yield what is to be trained, rung by rung, and decide between them who goes on.

        Args:
            course: of the study.
            tried: trials that this run has trained to the first rung, or that have failed there.
        """
        directory, points = self.request.directory, course.spec.points()
        decision = ""
        results, _ = read_stacks(directory, course.spec.key)
        race = course.race
        while race:
            spec, alive = course.spec, race.alive(points)
            missing = _missing(alive, race.open_rung, results).difference(
                () if race.cuts else tried
            )
            if missing:
                heading = describe_rung(race, len(alive), len(points))
                yield self._round(spec, alive, missing, results, race.open_rung, heading, decision)
                results, _ = read_stacks(directory, spec.key)
            goals = dict.fromkeys(alive, race.open_rung)
            self._remove_weights_before(race, goals, results)
            if race.decided:
                return
            entered = len(alive) - len(race.audited)
            race = course.decide(self._standings(goals, results))
            self._write(course.spec)
            decision = describe_cut(race, entered)

    def _round(
        self,
        spec: StudySpec,
        trials: Sequence[Trial],
        missing: set[Trial],
        results: Sequence[StackResult],
        epochs: int,
        heading: str,
        decision: str = "",
    ) -> Round:
        """Return the stacks that train the missing ones of these trials."""
        directory = self.request.directory
        self._known_nodes = self._nodes(len(missing), self._known_nodes)
        clear_failures(directory, {trial.name for trial in missing})
        kept = with_weights(directory, results)
        tasks = plan(self.request, self._known_nodes, spec, trials, missing, kept, epochs=epochs)
        return Round(tasks, len(trials), heading, decision)

    def _remove_weights_before(
        self, race: Race, goals: Mapping[Trial, int], results: Sequence[StackResult]
    ) -> None:
        """Remove the weights of the rung before the open one, except for trials yet to go on.

        All others that go on have newer weights. A dropped trial that a larger race takes back is
        trained again, to the same numbers.
        """
        if not race.cuts:
            return
        before = race.rungs[len(race.cuts) - 1]
        waiting = set(goals).difference(trial for trial, _, _ in results_of(goals, results))
        old = [
            result
            for result in results
            if result.epochs_before_cooldown == before and waiting.isdisjoint(result.stack.members)
        ]
        remove_weights(self.request.directory, old)

    def _nodes(self, trials: int, before: Sequence[Node]) -> Sequence[Node]:
        """Return the nodes to plan a rung for: those of the rung before if none is left to train.

        Ray waits for a node that replaces a lost one, as it does within a rung.
        """
        nodes, request = self._start(trials).nodes(), self.request
        try:
            count_workers(nodes, request.cpus_per_stack, request.gpus_per_stack)
        except InputError:
            if before:
                return before
            raise
        return nodes

    def _standings(
        self, goals: Mapping[Trial, int], results: Sequence[StackResult]
    ) -> list[Standing]:
        """Return the results at a rung."""
        labels = self.shared.labels[self.shared.split.val]
        return [
            Standing(
                trial,
                result.epochs[-1][k].val_accuracy,
                result.epochs[-1][k].val_loss,
                result.predictions[k] == labels,
            )
            for trial, result, k in results_of(goals, results)
        ]

    def _course(self, spec: StudySpec) -> Course:
        """Return the course of a study with what earlier runs suggested and decided.

        A study of fewer points may lack the trials that decisions name; then they are left out.
        """
        try:
            earlier = read_spec(self.request.directory)
        except (InputError, DamagedError):
            return Course(spec, ())
        spec = replace(spec, space=spec.search_space.with_points_of(earlier.search_space).to_json())
        race = earlier.raced
        same = race and race.same_question(spec.raced) and race.fits(spec.points())
        return Course(spec, race.cuts if race and same else ())

    def _confirm(self, trials: "pd.DataFrame") -> Iterator[Round]:
        """Yield the leaders of the finished trials with fresh seeds, the same for all leaders."""
        from digitrec.results.analysis.ranking import rank_configurations

        spec = self._spec
        ranked = rank_configurations(trials)
        leaders = ranked[ranked["compared"]].head(self.request.confirm)
        best = {trial.name: trial.configuration for trial in spec.trials()}
        seeds = fresh_seeds(self.request.space.seeds, self.request.confirm_seeds)
        confirmed = [Trial(best[names[0]], seed) for names in leaders["trials"] for seed in seeds]
        self._spec = replace(spec, confirmed=[trial.values() for trial in confirmed])
        yield from self._round_of(confirmed, FRESH_SEEDS)

    def _cool(self, trials: "pd.DataFrame") -> Iterator[Round]:
        """Yield the finalists of the finished trials, whose learning rates fall to 0."""
        from digitrec.results.analysis.ranking import find_finalists

        spec = self._spec
        finalists = find_finalists(trials, spec.confirmed_trials, spec.average)
        cooled = [
            replace(trial, cooldown=self.request.cooldown)
            for trial in spec.trials()
            if trial.name in finalists
        ]
        self._spec = replace(spec, cooled=[trial.values() for trial in cooled])
        yield from self._round_of(cooled, COOLDOWN)

    def refit(self) -> Refit | None:
        """After the training, train the winner, and what it is averaged with, on all rows.

        Returns:
            None if there is no winner, or the grid or this training is not finished.
        """
        from digitrec.results.analysis.ranking import choose_members, rank

        spec, trials = self._spec, self._finished()
        if trials is None:
            return None
        ranked = rank(trials, spec.confirmed_trials, spec.cooled_trials)
        names = choose_members(ranked, spec.confirmed_trials, spec.cooled_trials, spec.average)
        if not names:
            return None
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
            trial: result.epochs[-1][k]
            for trial, result, k in results_of(whole.epochs_of(), results)
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
        tasks = [Task(Stack((trial,)), whole.epochs) for trial in todo]
        status = "Training the winner" if len(members) == 1 else "Training the averaged trials"
        with self.timings.part("train"), self.console.status(status):
            rounds = iter([Round(tasks, trials=len(tasks))])
            self._search(runner, directory, whole, shared, rounds, quiet)

    def _search(
        self,
        runner: Runner,
        directory: Folder,
        spec: StudySpec,
        shared: SharedData,
        rounds: Iterator[Round],
        console: Console,
    ) -> None:
        runner.train(
            Assignment(
                request=self.request,
                directory=directory,
                spec=spec,
                shared=shared,
                rounds=rounds,
                console=console,
                lock=self.lock,
                interruption=self.interruption,
            )
        )
        if self.interruption.came:  # printed now: a cluster may kill a stopped job before it ends
            self.console.print("Stopped. Run the same again to train the rest.")

    def _start(self, trials: int) -> Runner:
        """Return the runner; start it, for this number of trials, if it is not running."""
        runner = self.workers.start(trials)
        if not self._checked:
            runner.check_shared(self.request.directory)
            self._checked = True
        return runner


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
        race=None,
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


def _missing(trials: Iterable[Trial], epochs: int, results: Iterable[StackResult]) -> set[Trial]:
    """Return the trials without a result of so many epochs."""
    goals = dict.fromkeys(trials, epochs)
    return set(goals).difference(trial for trial, _, _ in results_of(goals, results))

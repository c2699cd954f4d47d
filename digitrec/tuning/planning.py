"""What is to be trained: the trials that lack results, and the stacks that train them."""

from collections.abc import Iterable, Sequence

from digitrec.request import Request
from digitrec.results.text import count
from digitrec.space.hyperparameters import Trial, with_role
from digitrec.space.stacks import MAX_STACK_SIZE, Stack, Task, plan_stacks
from digitrec.store.spec import StudySpec
from digitrec.store.stacks import StackResult, longest_results, results_of
from digitrec.tuning.runner import Node
from digitrec.tuning.session import count_workers


def describe_plan(spec: StudySpec, tasks: Sequence[Task]) -> str:
    """Return one line: what is trained, in how many stacks, for how many epochs."""
    data, members = spec.data, [member for task in tasks for member in task.stack.members]
    stacks, cooldown = count(len(tasks), "stack"), members[0].cooldown
    if cooldown:
        return (
            f"Cooldown of {count(len(members), 'trial')} in {stacks}, to "
            f"epoch {spec.epochs + cooldown}, while the {with_role('step size').label} falls to 0"
        )
    going_on = sum(len(task.stack.members) for task in tasks if task.continues)
    grown = f"; {going_on} of them continue from fewer epochs" if going_on else ""
    how = f"in {stacks}, {count(spec.epochs, 'epoch')} each{grown}"
    if members[0].name in spec.confirmed_trials:
        return f"The leaders again with fresh seeds: {count(len(members), 'trial')} {how}"
    return (
        f"{data['train_rows']:,} digits to train on, {data['val_rows']:,} to validate on; "
        f"{count(len(members), 'configuration')} {how}"
    )


def missing_trials(spec: StudySpec, results: Iterable[StackResult]) -> set[Trial]:
    """Return the trials of a study that are in no finished stack."""
    epochs = spec.epochs_of()
    return set(epochs).difference(trial for trial, _, _ in results_of(epochs, results))


def plan(
    request: Request,
    nodes: Sequence[Node],
    spec: StudySpec,
    trials: Sequence[Trial],
    missing: set[Trial],
    results: Sequence[StackResult],
    *,
    epochs: int,
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
        images=spec.data["train_rows"] * (trials[0].cooldown or epochs),
        stack_size=request.stack_size or (MAX_STACK_SIZE if request.gpus_per_stack else None),
    )
    earlier = longest_results(epochs, results)
    tasks = []
    for stack in whole:
        parts: dict[int, list[tuple[Trial, str]]] = {}  # epochs trained -> members and their stacks
        for member in stack.members:
            if member in missing:
                trained, key = earlier.get(member.before_cooldown, (0, ""))
                parts.setdefault(trained, []).append((member, key))
        for trained, part in parts.items():
            members, keys = zip(*part, strict=True)
            tasks.append(Task(Stack(members), epochs, keys if trained else ()))
    return tasks

"""Questions that every node of a cluster answers, such as whether it sees the study directory."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from digitrec.errors import InputError
from digitrec.store.folder import Folder

SECONDS = 120.0  # for all nodes to answer
Fields = dict[str, Any]  # of a node, as Ray has them
Answer = TypeVar("Answer")


def alive_nodes() -> list[Fields]:
    """Return the nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def ask_nodes(
    question: Callable[[Fields], Answer], *, seconds: float = SECONDS
) -> list[tuple[Fields, Answer | None]]:
    """Run a function on every node that is alive, and return each node with its answer.

    Args:
        question: gets the node; called in a worker there.
        seconds: for all nodes together; the answer of a node that takes longer, or is gone, which
            Ray notices late, is None.

    Raises:
        InputError: a node cannot run digitrec.
    """

    @ray.remote(num_cpus=0, max_retries=0)
    def ask(node: Fields) -> Answer:
        return question(node)

    nodes = alive_nodes()
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = [
        ask.options(scheduling_strategy=place).remote(node)
        for node, place in zip(nodes, places, strict=True)
    ]
    ray.wait(asked, num_returns=len(asked), timeout=seconds)
    return [(node, _answer(task)) for node, task in zip(nodes, asked, strict=True)]


def _answer(task: "ray.ObjectRef[Answer]") -> Answer | None:
    """Return the result of a task if there is one by now.

    Raises:
        InputError: it failed.
    """
    try:
        return ray.get(task, timeout=0)
    except RayTaskError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"a node of the cluster cannot run digitrec: {reason}") from error
    except RayError:
        return None


@contextmanager
def marked(directory: Folder) -> Iterator[Callable[[], bool]]:
    """Leave a file in a folder for this block; yield a function that looks for it, on any node."""
    name = f".seen-by-all-{uuid.uuid4().hex}"

    def sees() -> bool:
        try:
            directory.read(name)
        except OSError:
            return False
        return True

    directory.write(name, b"")
    try:
        yield sees
    finally:
        directory.remove(name)


def nodes_without(directory: Folder) -> list[str]:
    """Return the addresses of the nodes that do not see what this process writes to a folder.

    Raises:
        InputError: a node cannot run digitrec.
    """
    with marked(directory) as sees:
        answers = ask_nodes(lambda _: sees())
    return [node["NodeManagerAddress"] for node, seen in answers if seen is False]

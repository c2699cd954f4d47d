"""What the nodes of a cluster report about themselves."""

from contextlib import nullcontext
from dataclasses import dataclass

import ray

import digitrec
from digitrec.doctor.machine import Machine, inspect_machine
from digitrec.store.folder import Folder
from digitrec.tuning.nodes import Fields, ask_nodes, marked

NODE_SECONDS = 180.0  # for all nodes to answer; a node with GPUs imports torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What Ray knows about a node, and what the node reports about itself."""

    address: str
    cpus: float
    gpus: float
    object_store: float  # bytes
    machine: Machine | None  # None: it does not answer
    sees_study: bool | None  # whether it sees the driver's file; None: unknown


def inspect_nodes(directory: Folder | None) -> list[Node]:
    """Return what every node that is alive reports about itself.

    Args:
        directory: where to leave a file that the nodes look for; None: nowhere.

    Raises:
        InputError: a node cannot run this package.
    """
    with marked(directory) if directory else nullcontext() as sees:

        def report(node: Fields) -> tuple[Machine, bool | None]:
            machine = inspect_machine(ask_torch=node["Resources"].get("GPU", 0) > 0)
            return machine, sees() if sees else None

        # The nodes may not have this package: they get its code with the question.
        ray.cloudpickle.register_pickle_by_value(digitrec)
        try:
            answers = ask_nodes(report, seconds=NODE_SECONDS)
        finally:
            ray.cloudpickle.unregister_pickle_by_value(digitrec)
    return [_node(node, answer) for node, answer in answers]


def _node(node: Fields, answer: tuple[Machine, bool | None] | None) -> Node:
    machine, sees_study = answer or (None, None)
    resources = node["Resources"]
    return Node(
        address=node["NodeManagerAddress"],
        cpus=resources.get("CPU", 0),
        gpus=resources.get("GPU", 0),
        object_store=resources.get("object_store_memory", 0),
        machine=machine,
        sees_study=sees_study,
    )

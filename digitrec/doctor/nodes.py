"""What the nodes of a cluster say of themselves."""

import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import digitrec
from digitrec.doctor.machine import Machine, inspect_machine
from digitrec.store.folder import Folder

NODE_SECONDS = 180.0  # for all nodes to answer; on a node with GPUs, torch is imported
Fields = dict[str, Any]  # of a node, as Ray has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What Ray knows of a node, and what the node says of itself."""

    address: str
    cpus: float
    gpus: float
    object_store: float  # bytes
    machine: Machine | None  # None: it does not answer
    sees_study: (
        bool | None
    )  # whether it sees the driver's file in the study directory; None: no file


def ask_nodes(study: Folder | None) -> list[Node]:
    """Return what every node that is alive says of itself.

    Args:
        study: a folder to leave a file in meanwhile, which the nodes look for; None: nowhere.
    """
    name = f".doctor-{uuid.uuid4().hex}"
    if study is None:
        return _ask(None, name)
    study.write(name, b"")
    try:
        return _ask(study, name)
    finally:
        study.remove(name)


def _ask(study: Folder | None, name: str) -> list[Node]:
    """Ask all nodes; they get this package's code with the question, as they may not have it."""

    @ray.remote(num_cpus=0, max_retries=0)
    def answer(gpus: float) -> tuple[Machine, bool | None]:
        seen = None if study is None else _sees(study, name)
        return inspect_machine(ask_torch=gpus > 0), seen

    alive = [node for node in ray.nodes() if node["Alive"]]
    ray.cloudpickle.register_pickle_by_value(digitrec)
    try:
        asked = [
            answer.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(node["Resources"].get("GPU", 0))
            for node in alive
        ]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(digitrec)
    ray.wait(asked, num_returns=len(asked), timeout=NODE_SECONDS)
    return [_node(node, one) for node, one in zip(alive, asked, strict=True)]


def _sees(study: Folder, name: str) -> bool:
    try:
        study.read(name)
    except OSError:
        return False
    return True


def _node(node: Fields, answer: Any) -> Node:
    try:
        machine, sees_study = ray.get(answer, timeout=0)
    except ray.exceptions.RayError:  # it is late, or cannot start a worker
        machine, sees_study = None, None
    resources = node["Resources"]
    return Node(
        address=node["NodeManagerAddress"],
        cpus=resources.get("CPU", 0),
        gpus=resources.get("GPU", 0),
        object_store=resources.get("object_store_memory", 0),
        machine=machine,
        sees_study=sees_study,
    )

"""The files of cluster/ are what Ray, KubeRay and the shell take, and agree on versions."""

import ast
import copy
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHERS = [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
SCRIPTS = [*CLUSTER.glob("*.sbatch"), ROOT / ".ci" / "run"]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PEERS = ROOT / "tests" / "benchmarks" / "peers"  # import tools that only a benchmark needs
SCHEMA = json.loads((ROOT / "tests" / "kuberay_schema.json").read_text())


def name(path: Path) -> str:
    return path.name


def lock() -> dict[str, str]:
    """Distribution -> the version that the lock file pins."""
    lines = (CLUSTER / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(distribution): version for distribution, version in pins}


def load(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def prepared(path: Path) -> dict[str, Any]:
    """A launcher file with Ray's defaults filled in, as `ray up` would use it."""
    return dict(prepare_config(load(path)))


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_ray_takes_a_launcher_file(path: Path) -> None:
    validate_config(prepared(path))


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_ray_refuses_a_launcher_file_with_an_unknown_field(path: Path) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepared(path) | {"idle_timeout": 5})


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_no_command_of_rays_defaults_is_left(path: Path) -> None:
    commands = [
        command
        for field, listed in prepared(path).items()
        if field.endswith("_commands")
        for command in listed
    ]
    assert commands
    assert not [command for command in commands if "0.0.0.0" in command]
    assert not [command for command in commands if ".whl" in command or "latest" in command]


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_every_ray_that_a_launcher_file_starts_asks_for_a_token(path: Path) -> None:
    config = prepared(path)
    starts = [
        command
        for field in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[field]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_a_launcher_file_has_spot_workers_with_and_without_gpus_from_none(path: Path) -> None:
    types = dict(prepared(path)["available_node_types"])
    types.pop(prepared(path)["head_node_type"])
    assert set(types) == {"cpu-spot", "gpu-spot"}
    assert all("spot" in json.dumps(kind["node_config"]).lower() for kind in types.values())
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in types.values())


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_the_files_that_a_launcher_file_copies_exist(path: Path) -> None:
    ours = [source for source in load(path)["file_mounts"].values() if source[0] != "~"]
    assert ours
    assert all((ROOT / source).exists() for source in ours)


def check_manifest(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, {"$ref": f"#/$defs/{manifest['kind']}", **SCHEMA})


@pytest.mark.parametrize("path", MANIFESTS, ids=name)
def test_a_manifest_has_only_fields_that_kuberay_knows(path: Path) -> None:
    check_manifest(load(path))


@pytest.mark.parametrize(
    "place",
    [
        ("spec",),
        ("spec", "rayClusterSpec"),
        ("spec", "rayClusterSpec", "authOptions"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0),
    ],
)
def test_an_unknown_field_of_a_manifest_is_refused(place: tuple[str | int, ...]) -> None:
    manifest = copy.deepcopy(load(CLUSTER / "kuberay" / "rayjob.yaml"))
    spot: Any = manifest
    for step in place:
        spot = spot[step]
    spot["unknown"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        check_manifest(manifest)


def cluster_specs() -> list[dict[str, Any]]:
    job, cluster = (load(CLUSTER / "kuberay" / f"{kind}.yaml") for kind in ("rayjob", "raycluster"))
    return [job["spec"]["rayClusterSpec"], cluster["spec"]]


@pytest.mark.parametrize("spec", cluster_specs(), ids=["rayjob", "raycluster"])
def test_a_kubernetes_cluster_asks_for_a_token_and_runs_without_root(spec: dict[str, Any]) -> None:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in pods)
    assert all(pod["containers"][0]["resources"]["requests"] for pod in pods)


def test_a_kubernetes_job_is_tried_again_on_shared_storage() -> None:
    job = load(CLUSTER / "kuberay" / "rayjob.yaml")["spec"]
    (head_volume,) = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    claim = load(CLUSTER / "kuberay" / "storage.yaml")
    assert job["backoffLimit"] >= 1
    assert "--out /shared/" in job["entrypoint"]
    assert head_volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_bash_reads_a_script(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_shellcheck_finds_nothing_in_a_script(path: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=PATH)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run([shellcheck, str(path)], capture_output=True, text=True, check=False)
    assert found.stdout + found.stderr == ""


def requirements() -> list[str]:
    """What is pinned; what `make bench-race` compares digitrec with is not."""
    extras = PROJECT["optional-dependencies"]
    pinned = [asked for name, extra in extras.items() if name != "bench" for asked in extra]
    return [*PROJECT["dependencies"], *pinned]


@pytest.mark.parametrize("asked", requirements())
def test_the_lock_file_pins_what_the_project_asks_for(asked: str) -> None:
    requirement = Requirement(asked)
    assert requirement.specifier.contains(lock()[canonicalize_name(requirement.name)])


def imported_by(folder: str) -> set[str]:
    """The distributions that the modules of a folder import, wherever in them, but PEERS."""
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        if PEERS in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    ours = {"digitrec", "tune_jobs", "cluster", "tests", *sys.stdlib_module_names}
    of_module = importlib.metadata.packages_distributions()
    return {canonicalize_name(of_module[module][0]) for module in modules - ours}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("digitrec", ["onnx", "notebook", "search", "completion", "mlflow"]),
        ("tune_jobs", []),
        ("cluster", []),
        ("tests", ["dev"]),
    ],
)
def test_what_is_imported_is_declared(folder: str, extras: list[str]) -> None:
    optional = (asked for extra in extras for asked in PROJECT["optional-dependencies"][extra])
    declared = [Requirement(asked).name for asked in (*PROJECT["dependencies"], *optional)]
    assert imported_by(folder) <= {canonicalize_name(name) for name in declared}


def asked_by(pinned: str, version: str) -> list[Requirement]:
    """What an installed distribution of this version asks for; nothing if it is not installed."""
    try:
        installed = importlib.metadata.distribution(pinned)
    except importlib.metadata.PackageNotFoundError:
        return []
    if Version(installed.version).public != Version(version).public:  # torch's +cpu aside
        return []
    asked = [Requirement(text) for text in installed.requires or []]
    return [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]


def test_the_pins_of_the_lock_file_admit_each_other() -> None:
    pins = lock() | {"setuptools": "999"}  # which `pip freeze` leaves out
    refused = [
        f"{pinned} {version} asks for {asked}"
        for pinned, version in lock().items()
        for asked in asked_by(pinned, version)
        if not asked.specifier.contains(pins.get(canonicalize_name(asked.name), "0"))
    ]
    assert refused == []


def test_the_lock_file_is_sorted_and_names_nothing_twice() -> None:
    lines = (CLUSTER / "requirements.lock").read_text().splitlines()[1:]
    names = [line.split("==")[0].lower() for line in lines]
    assert names == sorted(names)
    assert len(names) == len(set(names))


# Where a file may name a version of Ray, Python or the project; every mention has to be the same.
RAY = re.compile(r"(?:\bray(?:\[[a-z,]+\])?==|rayVersion: \"|rayproject/ray:)([0-9][0-9.]*)")
PYTHON = re.compile(r"(?:python:|--python )([0-9][0-9.]*)")
TORCH = re.compile(r"torch==([0-9][0-9.]*)")
DIGITREC = re.compile(
    r"(?:digitrec: ?|image\.version=\"|app.kubernetes.io/version: )([0-9]+\.[0-9]+\.[0-9]+)"
)
SHIPPED = [
    path
    for path in [*CLUSTER.rglob("*"), ROOT / "Makefile"]
    if path.is_file() and path.suffix not in {".py", ".pyc"}
]


def mentions(pattern: re.Pattern[str]) -> dict[str, set[str]]:
    """File -> the versions that it names."""
    found = {path.name: set(pattern.findall(path.read_text())) for path in SHIPPED}
    return {file: versions for file, versions in found.items() if versions}


def test_all_files_name_the_same_ray() -> None:
    named = mentions(RAY)
    assert {"requirements.lock", "rayjob.yaml", "raycluster.yaml"} <= set(named)
    assert set.union(*named.values()) == {lock()["ray"]}


def test_all_files_name_the_same_torch() -> None:
    named = mentions(TORCH)
    assert {"requirements.lock", "Makefile"} <= set(named)
    assert set.union(*named.values()) == {lock()["torch"]}


def test_all_files_name_the_same_python_which_the_project_takes() -> None:
    named = mentions(PYTHON)
    assert {"Dockerfile", "aws.yaml", "gcp.yaml"} <= set(named)
    (version,) = set.union(*named.values())
    least = Version(PROJECT["requires-python"].removeprefix(">="))
    assert Version(version) >= least
    assert Version(version).release[:2] == least.release[:2]


def test_all_files_name_the_version_of_the_project() -> None:
    named = mentions(DIGITREC)
    assert {"Dockerfile", "rayjob.yaml", "raycluster.yaml"} <= set(named)
    assert set.union(*named.values()) == {PROJECT["version"]}


@pytest.mark.parametrize(
    "path",
    [CLUSTER / "Dockerfile", *LAUNCHERS, CLUSTER / "slurm.sbatch", ROOT / "Makefile"],
    ids=name,
)
def test_what_installs_or_starts_takes_its_versions_from_the_lock_file(path: Path) -> None:
    text = path.read_text()
    assert "cluster/requirements.lock" in text
    assert not re.search(r"pip install[^\n]*(ray|digitrec)(\[[a-z,]+\])?==", text)

"""Run a study as a job on a Ray cluster: `digitrec submit`.

Check on this machine whatever can be checked before an upload, submit `tune_jobs/mnist_grid.py` to
the cluster's dashboard, print the job's log as it comes, and exit with the study's exit code. (`ray
job submit` exits with 0 for a job that was stopped.)
"""

import argparse
import asyncio
import importlib.metadata
import logging
import os
import re
import shlex
import sys
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.local import running_head
from digitrec.cli.invocation import program
from digitrec.cli.options import make_parser, make_request
from digitrec.errors import COMPLETE, UNFINISHED, InputError
from digitrec.request import PACKAGED
from digitrec.store.folder import OBJECT_STORES
from digitrec.tuning import ray_internals
from digitrec.tuning.dashboard import asks_for_token
from digitrec.tuning.token import HOW_TO_GET_ONE, find_token

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PROJECT = Path(__file__).parent.parent  # where the code is: a checkout, or the installed packages
RUNTIME_ENV = PROJECT / "cluster" / "runtime_env.yaml"
MOST_DATA_BYTES = 10 * 2**20  # of an uploaded file: it goes through the head's memory to each node
READABLE = "the absolute path of a file that the head node can read, or s3://... or gs://..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job that has passed all checks that do not need the cluster."""

    identifier: str  # as the dashboard shows it
    entrypoint: str
    metadata: dict[str, str]
    runtime_env: dict[str, Any]


def make_submission(
    data: str,
    out: str | None,
    options: Sequence[str],
    *,
    test_data: str | None = None,
    on_this_machine: bool,
) -> Submission:
    """Return the job that trains a study.

    Args:
        data: what `digitrec tune --data` takes.
        out: the study directory; None: in results/, if the cluster is on this machine.
        options: further options of `digitrec tune`.
        test_data: what `digitrec tune --test-data` takes.
        on_this_machine: whether the head node is this machine and so has the same files.

    Raises:
        InputError: the head cannot read the data or write the study, or an option is wrong.
    """
    runtime_env = yaml.safe_load(RUNTIME_ENV.read_text()) | {"working_dir": str(PROJECT)}
    data = _data_for_the_head(data, runtime_env, on_this_machine=on_this_machine)
    out = _study_directory(data, out, on_this_machine=on_this_machine)
    arguments = ["--data", data, "--out", out, *options]
    if test_data is not None:
        test_data = _data_for_the_head(test_data, runtime_env, on_this_machine=on_this_machine)
        arguments += ["--test-data", test_data]
    request = make_request(make_parser().parse_args(["tune", *arguments]))
    study = out.partition("?")[0].rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", study).strip("-") or "study"
    return Submission(
        identifier=f"digitrec-{name}-{time.strftime('%Y%m%d-%H%M%S')}",
        entrypoint=shlex.join(["python", "-m", "tune_jobs.mnist_grid", *arguments]),
        metadata={
            "job_name": study,
            "study": out,
            "data": data,
            "configurations": str(len(request.space.trials())),
            "digitrec": importlib.metadata.version("digitrec"),
            "program": shlex.join(program()),  # for the commands that the study prints
        },
        runtime_env=runtime_env,
    )


def _study_directory(data: str, out: str | None, *, on_this_machine: bool) -> str:
    if out is None and on_this_machine:
        return str(Path.cwd() / "results" / data.rstrip("/").rsplit("/", 1)[-1].split(".")[0])
    if out is None or not (out.startswith(("/", *OBJECT_STORES))):
        said = "there is no study directory" if out is None else f"the study directory {out}"
        raise InputError(
            f"{said}: a job runs elsewhere, so name one that all nodes share by an absolute path "
            "or s3://...: --out /shared/study"
        )
    return out


def _data_for_the_head(data: str, runtime_env: dict[str, Any], *, on_this_machine: bool) -> str:
    """Return the job's name for the data; add a small file of the project to the upload."""
    if data in PACKAGED or data.startswith(OBJECT_STORES):
        return data
    if "://" in data:
        raise InputError(f"{data}: cannot be read; --data takes {READABLE}")
    path = Path(data).expanduser()
    if path.is_absolute():
        if on_this_machine and not path.exists():
            raise InputError(f"{path}: there is no such file")
        return str(path)
    if on_this_machine and path.exists() and not path.resolve().is_relative_to(PROJECT):
        return str(path.resolve())
    return _uploaded(path.resolve(), data, runtime_env)


def _uploaded(path: Path, data: str, runtime_env: dict[str, Any]) -> str:
    """Add a file of the project to the upload; return its path there."""
    if not path.exists():
        raise InputError(f"{data}: there is no such file here; --data takes {READABLE}")
    if path.is_dir() or "idx3-ubyte" in path.name:
        raise InputError(f"{data}: several files are not uploaded with a job; name {READABLE}")
    if not path.is_relative_to(PROJECT):
        raise InputError(
            f"{data}: lies outside {PROJECT} and is not uploaded with the job; name {READABLE}"
        )
    size = path.stat().st_size
    if size > MOST_DATA_BYTES:
        raise InputError(
            f"{data}: {size / 2**20:.0f} MiB are too much to upload with a job (at most "
            f"{MOST_DATA_BYTES // 2**20} MiB); name {READABLE}"
        )
    inside = path.relative_to(PROJECT)
    name = inside.as_posix()
    if name not in (uploaded_files(runtime_env) or {}):
        runtime_env["excludes"] += _readmitting(inside)
        if name not in (uploaded_files(runtime_env) or {name}):
            raise InputError(
                f"{data}: is git-ignored, so Ray would not upload it; name {READABLE}, "
                f"such as {path} if the head is this machine"
            )
    return name


def _readmitting(inside: Path) -> list[str]:
    """Return patterns that include this one file of an excluded folder again."""
    patterns = []
    for part in [*reversed(inside.parents), inside][1:]:
        escaped = re.sub(r"([\\*?\[\]!# ])", r"\\\1", part.as_posix())
        patterns += [f"!/{escaped}"] + ([] if part == inside else [f"/{escaped}/*"])
    return patterns


def uploaded_files(runtime_env: dict[str, Any]) -> dict[str, int] | None:
    """Return the files that Ray would upload, and the bytes of each; None: not known."""
    return ray_internals.uploaded_files(
        Path(runtime_env["working_dir"]), excludes=runtime_env["excludes"]
    )


def connect(address: str) -> "JobSubmissionClient":
    """Return a client of the cluster's dashboard.

    Raises:
        InputError: no dashboard answers there within seconds, or it rejects the token.
    """
    token = find_token()
    if asks_for_token(address) and token is None:
        raise InputError(f"{address} asks for a token, and there is none here: {HOW_TO_GET_ONE}")
    # Ray would silently use these instead of the address.
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.pop("RAY_API_SERVER_ADDRESS", None)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(
            address, headers={"Authorization": f"Bearer {token.text}"} if token else None
        )
    except AuthenticationError as error:
        source = token.source if token else "nobody"
        raise InputError(f"{address} rejects the token from {source}") from error


def dashboard_address(named: str | None) -> str:
    """Return the address of the dashboard to submit to, as http://HOST:PORT.

    Raises:
        InputError: none is named and no local cluster runs, or the address is malformed.
    """
    head = running_head()
    named = named or os.environ.get("RAY_API_SERVER_ADDRESS") or (head.address if head else None)
    if named is None:
        raise InputError(
            "no cluster to submit to: start one here with `digitrec cluster start`, or name one: "
            "--address http://HEAD:8265"
        )
    address = (named if "://" in named else f"http://{named}").rstrip("/")
    parts = urllib.parse.urlsplit(address)
    try:
        right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise InputError(f"{named} is not the address of a dashboard, which is http://HOST:PORT")
    return address


def submit(client: "JobSubmissionClient", submission: Submission) -> None:
    """Upload the code and submit the job.

    Raises:
        InputError: the cluster rejects it.
    """
    try:
        client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.identifier,
            metadata=submission.metadata,
            runtime_env=submission.runtime_env,
        )
    except (OSError, RuntimeError) as error:
        raise InputError(f"the cluster rejects the job: {error}") from error


def follow(client: "JobSubmissionClient", identifier: str) -> "JobDetails":
    """Print a job's log as it comes until the job ends; return the job's final state."""
    asyncio.run(_print_log(client, identifier))
    details = client.get_job_info(identifier)
    while not details.status.is_terminal():  # Ray sets it a moment after the log ends
        time.sleep(0.2)
        details = client.get_job_info(identifier)
    return details


async def _print_log(client: "JobSubmissionClient", identifier: str) -> None:
    from aiohttp import ClientError

    try:
        async for lines in client.tail_job_logs(identifier):
            print(lines, end="", flush=True)
    except ClientError as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


def exit_code(details: "JobDetails") -> int:
    """Return the exit code of an ended job's entry point; 1 if the job was stopped."""
    if details.status == "SUCCEEDED":
        return COMPLETE
    code = details.driver_exit_code
    return UNFINISHED if not code or code < 0 else code


def run(options: argparse.Namespace, for_tune: Sequence[str]) -> int:
    """Submit a study and follow it; return its exit code, 1 if it was stopped.

    Raises:
        InputError: it was not submitted.
    """
    logging.disable(logging.WARNING)  # Ray logs every file and request
    address = dashboard_address(options.address)
    head = running_head()
    here = head is not None and head.address == address
    submission = make_submission(
        options.data, options.out, for_tune, test_data=options.test_data, on_this_machine=here
    )
    if not here:
        submission.metadata["dashboard"] = address
    client = connect(address)
    submit(client, submission)
    later = (
        f"RAY_AUTH_MODE=token {Path(sys.executable).parent / 'ray'} job {{}} "
        f"--address {address} {submission.identifier}"
    )
    print(f"job        {submission.identifier}, {address}/#/jobs/{submission.identifier}")
    print(f"study      {submission.metadata['study']}", flush=True)
    try:
        details = follow(client, submission.identifier)
    except KeyboardInterrupt:
        print(f"\nThe job continues. Its log: {later.format('logs --follow')}\n", file=sys.stderr)
        print(f"To stop it: {later.format('stop')}", file=sys.stderr)
        return UNFINISHED
    except (OSError, RuntimeError) as error:
        print(f"digitrec: lost the connection: {error}", file=sys.stderr)
        print(
            f"If the cluster still runs, so does the job: {later.format('logs')}", file=sys.stderr
        )
        return UNFINISHED
    print(f"job        {submission.identifier} {details.status.lower()}", flush=True)
    return exit_code(details)

"""What of Ray a study on this machine starts, and in what its trials run."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from digitrec.store.timings import Timings
from digitrec.tuning import ray_internals
from digitrec.tuning.session import OF_A_TRIAL, Session

PROGRAM = """
import io, json, sys
from contextlib import suppress

import psutil
import ray
from ray.tune.execution.class_cache import _ActorClassCache
from rich.console import Console

from digitrec.store.timings import Timings
from digitrec.tuning.ray_internals import keep_environment
from digitrec.tuning.session import Session


class Trial:
    def look(self):
        return "digitrec.engine.train" in sys.modules


with Session(None, Console(file=io.StringIO()), Timings(), preload=True):
    keep_environment()
    trial = _ActorClassCache().get(Trial).options(num_cpus=1).remote()
    imported = ray.get(trial.look.remote())
    children = psutil.Process().children(recursive=True)
    addresses = set()
    for process in (psutil.Process(), *children):
        with suppress(psutil.NoSuchProcess):
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    addresses.add(socket.laddr.ip.removeprefix("::ffff:"))
    commands = []
    for child in children:
        with suppress(psutil.NoSuchProcess):
            commands.append(" ".join(child.cmdline()))
_, left = psutil.wait_procs(children, timeout=60)
print(json.dumps([imported, commands, len(left), sorted(addresses)]))
"""


@pytest.mark.ray
def test_a_local_ray_is_bare_on_loopback_alone_and_its_own_workers_run_the_trials(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    imported, commands, left, addresses = json.loads(done.stdout.splitlines()[-1])
    assert imported
    assert any("raylet" in command for command in commands)
    for needless in ("monitor.py", "log_monitor.py", "dashboard/dashboard.py"):
        assert not any(needless in command for command in commands), needless
    assert left == 0
    assert addresses == ["127.0.0.1"]
    folder, token = tmp_path / ".ray", tmp_path / ".ray" / "auth_token"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, token)] == [0o700, 0o600]


@pytest.mark.parametrize("preload", [[], OF_A_TRIAL])
def test_rays_workers_preload_only_what_is_asked_for(preload: list[str]) -> None:
    before = dict(os.environ)
    with ray_internals.bare_start(preload):
        asked = {name: value for name, value in os.environ.items() if name not in before}
    assert asked == ({"RAY_preload_python_modules": ",".join(preload)} if preload else {})
    assert dict(os.environ) == before


def test_an_error_while_ray_starts_is_not_taken_for_a_missing_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("embedded null byte")

    monkeypatch.setattr("ray.init", fail)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    session = Session("local", Console(file=io.StringIO()), Timings())
    with pytest.raises(OSError, match="Ray did not start: embedded null byte"), session:
        pass

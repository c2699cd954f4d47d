"""What of Ray a study on this machine starts, and in what its trials run."""

import gc
import io
import json
import os
import stat
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from rich.console import Console

from digitrec.store.timings import Timings
from digitrec.tuning.session import Session
from tests.head import ONE_CORE

PROGRAM = """
import io, json, sys
from contextlib import suppress

import psutil
import ray
from ray.tune.execution.class_cache import _ActorClassCache
from rich.console import Console

from digitrec.store.timings import Timings
from digitrec.tuning.dashboard import asks_for_token
from digitrec.tuning.ray_internals import nothing_passed_on
from digitrec.tuning.session import Session


class Trial:
    def look(self):
        return "digitrec.engine.train" in sys.modules


said = io.StringIO()
chosen = {name: name == sys.argv[1] for name in ("preload", "dashboard")}
with Session(None, Console(file=said, width=200), Timings(), **chosen) as session:
    if chosen["dashboard"]:
        assert asks_for_token(session.dashboard_url)
    with nothing_passed_on():
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
print(json.dumps([imported, commands, len(left), sorted(addresses), said.getvalue()]))
"""


@pytest.mark.ray
@pytest.mark.parametrize("chosen", ["preload", "dashboard"])
def test_a_local_ray_is_bare_on_loopback_alone_and_its_own_workers_run_the_trials(
    chosen: str, tmp_path: Path
) -> None:
    """With a dashboard only if it is asked for."""
    environment = {**os.environ, **ONE_CORE, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, chosen],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    imported, commands, left, addresses, said = json.loads(done.stdout.splitlines()[-1])
    assert imported == (chosen == "preload")
    assert any("raylet" in command for command in commands)
    for needless in ("monitor.py", "log_monitor.py"):
        assert not any(needless in command for command in commands), needless
    assert any("idle_agent.py" in command for command in commands) == (chosen == "preload")
    has_dashboard = any("dashboard/dashboard.py" in command for command in commands)
    assert has_dashboard == ("dashboard  http://127.0.0.1:" in said) == (chosen == "dashboard")
    assert left == 0
    assert addresses == ["127.0.0.1"]
    folder, token = tmp_path / ".ray", tmp_path / ".ray" / "auth_token"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, token)] == [0o700, 0o600]


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


def test_what_a_search_leaves_in_cycles_is_gone_before_ray_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Leftover:
        def __init__(self) -> None:
            self.itself = self

    there: list[bool] = []
    session = Session(None, Console(quiet=True), Timings())
    gc.disable()  # so that it is not collected by chance
    try:
        left = weakref.ref(Leftover())
        monkeypatch.setattr("ray.shutdown", lambda: there.append(left() is not None))
        session.end()
        session.__exit__()
    finally:
        gc.enable()
    assert there == [False]

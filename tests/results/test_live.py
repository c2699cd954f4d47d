import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from digitrec.cli import main as cli
from digitrec.results.live import page as live_page
from digitrec.results.live import server as live_server
from digitrec.results.live.beside import served_beside
from digitrec.results.live.page import LivePage
from digitrec.results.live.running import with_running
from digitrec.results.live.server import LiveServer
from digitrec.space.hyperparameters import Configuration
from digitrec.store.folder import Folder
from digitrec.store.progress import (
    NAME,
    RunningStack,
    RunProgress,
    read_progress,
    remove_progress,
    write_progress,
)
from digitrec.store.tables import make_tables
from digitrec.tuning import bulletin
from tests.browser import emulate, needs_chromium
from tests.studies import SMALL, folder, interrupting, make_raced_record, make_record, run

HOSTILE = "</script><script>alert(1)</script>\"'&amp;"


def make_progress(
    curves: dict[str, list[list[float]]] | None = None,
    line: str = "2/4 configurations",
    beat: int = 1,
) -> RunProgress:
    stack = RunningStack(shared="batch size 32", own="lr 0.1", epoch=1, curves=curves or {})
    return RunProgress(line=line, fraction=0.5, epochs=3, stacks=[stack], beat=beat)


class Draft:
    """A page that counts how often it is made."""

    policy = "default-src 'none'"

    def __init__(self, directory: Folder) -> None:
        self.made = 0
        self.files = "first"

    def signature(self) -> tuple[object, RunProgress | None]:
        return self.files, None

    def make(self, files: object, progress: RunProgress | None) -> str:
        self.made += 1
        return f"<main>{files}</main>"


@contextmanager
def serving(directory: Path) -> Iterator[LiveServer]:
    with LiveServer(Folder.at(directory)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    """A server of drafts, which it makes as often as it wants."""
    monkeypatch.setattr(live_page, "LivePage", Draft)
    monkeypatch.setattr(live_server, "LEAST_PAUSE", 0.0)
    with serving(tmp_path) as server:
        yield server


def ask(
    server: LiveServer, path: str, method: str = "GET", host: str | None = "127.0.0.1"
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(live_server.ADDRESS, server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_the_page_listens_on_this_machine_only(drafts: LiveServer) -> None:
    assert drafts.server_address[0] == "127.0.0.1"
    assert drafts.url == f"http://127.0.0.1:{drafts.server_port}{drafts.path}"


def test_only_who_knows_the_path_gets_the_page(drafts: LiveServer) -> None:
    assert len(drafts.path) >= 32
    for path in (
        "/",
        "/x",
        "//[",
        drafts.path[:-1],
        f"{drafts.path}trials.csv",
        f"/..{drafts.path}",
    ):
        answer, content = ask(drafts, path)
        assert (answer.status, content) == (404, b"There is no such page.\n")
    answer, content = ask(drafts, drafts.path)
    assert (answer.status, content) == (200, b"<main>first</main>")


def test_two_servers_have_two_paths(tmp_path: Path) -> None:
    with LiveServer(Folder.at(tmp_path)) as one, LiveServer(Folder.at(tmp_path)) as other:
        assert one.path != other.path


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "10.0.0.1", "", None])
def test_a_name_that_somebody_points_here_is_refused(drafts: LiveServer, host: str | None) -> None:
    assert ask(drafts, drafts.path, host=host)[0].status == 403


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:8000", "LOCALHOST"])
def test_a_tunnel_may_have_another_port(drafts: LiveServer, host: str) -> None:
    assert ask(drafts, drafts.path, host=host)[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_the_page_can_only_be_read(drafts: LiveServer, method: str) -> None:
    answer, _ = ask(drafts, drafts.path, method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_head_request_gets_the_headers_alone(drafts: LiveServer) -> None:
    answer, content = ask(drafts, drafts.path, "HEAD")
    assert (answer.status, content) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(b"<main>first</main>"))


def test_every_answer_forbids_frames_guesses_and_referrers(drafts: LiveServer) -> None:
    for path in (drafts.path, "/"):
        headers = ask(drafts, path)[0].headers
        assert headers["Content-Security-Policy"].endswith("; frame-ancestors 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"].strip() == "digitrec"


def test_a_page_is_made_only_when_files_have_changed_and_somebody_asks(drafts: LiveServer) -> None:
    version = ask(drafts, drafts.path)[0].headers["ETag"]
    draft = drafts.editions._page
    answer, content = ask(drafts, f"{drafts.path}?since={version}")
    assert (answer.status, content, draft.made) == (204, b"", 1)
    draft.files = "second"
    answer, content = ask(drafts, f"{drafts.path}?since={version}")
    assert (answer.status, content, draft.made) == (200, b"<main>second</main>", 2)


def test_a_page_that_takes_long_is_made_rarely(
    drafts: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_server, "REST", 1e12)
    ask(drafts, drafts.path)
    drafts.editions._page.files = "second"
    assert ask(drafts, drafts.path)[1] == b"<main>first</main>"


def test_a_directory_that_cannot_be_read_is_said_so(
    drafts: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Draft) -> None:
        raise PermissionError(13, "Permission denied", "/study")

    monkeypatch.setattr(Draft, "signature", fail)
    answer, content = ask(drafts, drafts.path)
    assert (answer.status, content) == (503, b"/study: Permission denied\n")


def test_progress_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory, progress = Folder.at(tmp_path), make_progress({"trial": [[1, 0.5, 0.5, 0.5, 0.5]]})
    assert read_progress(directory) is None
    write_progress(directory, progress)
    assert read_progress(directory) == progress
    assert directory.entries() == []
    remove_progress(directory)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"line": "", "fraction": "x"}', '{"stacks": [{"curves": 3}]}']
)
def test_damaged_progress_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(content)
    assert read_progress(Folder.at(tmp_path)) is None


def test_progress_that_cannot_be_written_does_not_end_a_study(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    write_progress(Folder.at(tmp_path), make_progress())
    remove_progress(Folder.at(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_writes_the_curves_of_what_it_trains_until_it_ends(
    stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[RunProgress] = []

    def keep(directory: Folder, progress: RunProgress) -> None:
        written.append(progress)
        write_progress(directory, progress)

    monkeypatch.setattr(bulletin, "write_progress", keep)
    monkeypatch.setattr(bulletin, "WRITE_INTERVAL", 0.0)
    options = {"confirm": 1, "runner": interrupting(2, [])} if stopped else {}
    result = run(tmp_path, SMALL, epochs=2, **options)  # type: ignore[arg-type]
    assert result.interrupted == stopped
    assert not (tmp_path / NAME).exists()
    assert [progress.beat for progress in written] == list(range(1, len(written) + 1))
    assert {len(progress.stacks) for progress in written} <= {0, 1}
    metrics = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    epochs = result.tables.epochs
    found = {
        (trial, epoch): values
        for trial, epoch, *values in epochs[["trial", "epoch", *metrics]].itertuples(index=False)
    }
    seen = {(trial, row[0]): row for p in written for s in p.stacks for trial, r in s.curves.items()
            for row in r}  # fmt: skip
    assert seen
    for place, row in seen.items():
        assert row[1:] == pytest.approx(found[place], abs=1e-5)


def test_trials_in_training_have_their_epochs_and_the_others_wait(tmp_path: Path) -> None:
    record = make_record(tmp_path, untrained=[0.1])
    now = with_running(record, make_progress({"lr0.1-bs32-seed0": [[1, 0.9, 0.6, 0.8, 0.7]]}))
    statuses = dict(zip(now.tables.trials["trial"], now.tables.trials["status"], strict=True))
    assert statuses["lr0.1-bs32-seed0"] == "running"
    assert statuses["lr0.1-bs128-seed0"] == "waiting"
    assert statuses["lr1.0-bs32-seed0"] == "completed"
    own = now.tables.epochs[now.tables.epochs["trial"] == "lr0.1-bs32-seed0"]
    assert own[["epoch", "val_accuracy", "lr", "seed"]].values.tolist() == [[1, 0.7, 0.1, 0]]
    assert list(own) == list(record.tables.epochs)


def test_trials_at_the_next_rung_have_the_epochs_of_the_rung_before(tmp_path: Path) -> None:
    def accuracy(configuration: Configuration, epoch: int) -> float:
        return 0.5 + configuration.lr + 0.01 * epoch

    record = make_raced_record(tmp_path, accuracy, cuts=1)
    earlier = [each for each in record.results if len(each.epochs) == 1]
    tables = make_tables(record.spec.goals(), earlier, {})
    alive = tables.trials.loc[tables.trials["status"] == "stopped", "trial"].tolist()
    progress = make_progress({alive[0]: [[1, 0.9, 0.6, 0.8, 0.7], [2, 0.9, 0.6, 0.8, 0.7]]})
    epochs = with_running(replace(record, tables=tables), progress).tables.epochs
    assert epochs.loc[epochs["trial"] == alive[0], "epoch"].tolist() == [1, 2]
    assert epochs.loc[epochs["trial"] == alive[1], "epoch"].tolist() == [1]


def test_a_run_that_is_silent_counts_as_killed(tmp_path: Path) -> None:
    seconds = [0.0]
    page = LivePage(Folder.at(tmp_path), clock=lambda: seconds[0])

    def trains() -> bool:
        return page.signature()[1] is not None

    write_progress(Folder.at(tmp_path), make_progress(beat=1))
    assert trains()
    seconds[0] = 29
    assert trains()
    write_progress(Folder.at(tmp_path), make_progress(beat=2))
    seconds[0] = 31
    assert trains()
    seconds[0] = 62
    assert not trains()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study."""
    return folder(run(tmp_path_factory.mktemp("live") / "study", SMALL, epochs=2))


def page_of(directory: Path) -> str:
    page = LivePage(Folder.at(directory))
    return page.make(*page.signature())


def test_before_a_study_begins_the_page_says_so(tmp_path: Path) -> None:
    assert "The study has not begun" in page_of(tmp_path / "nothing")


def test_the_page_shows_what_trains_the_winner_so_far_and_the_best(study: Path) -> None:
    write_progress(Folder.at(study), make_progress(line=HOSTILE))
    text = page_of(study)
    remove_progress(Folder.at(study))
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script>") == 1
    assert "batch size 32</b> <span>epoch 1 of 3</span> lr 0.1" in text
    assert "Provisional verdict" in text
    assert "The winner is lr" in text
    assert text.count("<tr>") == 5
    assert "data:image/svg+xml;base64," in text
    assert "Provisional" not in page_of(study)


def test_the_page_lets_only_its_own_script_act_and_ask_only_its_server(study: Path) -> None:
    policy = LivePage(Folder.at(study)).policy
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy


def test_a_figure_is_drawn_anew_only_for_other_curves(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, draw = LivePage(Folder.at(study)), live_page._draw
    drawn: list[int] = []

    def draw_and_count(*inputs: Any) -> Any:
        drawn.append(1)
        return draw(*inputs)

    monkeypatch.setattr(live_page, "_draw", draw_and_count)
    files, _ = page.signature()
    for beat in (1, 2):
        page.make(files, make_progress(line=f"line {beat}", beat=beat))
    assert len(drawn) == 1


def is_refused(url: str) -> bool:
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=10)
    try:
        connection.request("GET", "/")
        assert connection.getresponse().status == 404
    except ConnectionError:
        return True
    finally:
        connection.close()
    return False


def await_(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_page_beside_a_study_ends_with_it(tmp_path: Path) -> None:
    with served_beside(Folder.at(tmp_path)) as url:
        assert not is_refused(url)
    assert is_refused(url)


def test_a_page_beside_a_study_that_is_killed_ends_too(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from digitrec.results.live.beside import served_beside\n"
        "from digitrec.store.folder import Folder\n"
        "if __name__ == '__main__':\n"
        "    with served_beside(Folder.at(sys.argv[1])) as url:\n"
        "        print(url, flush=True)\n"
        "        time.sleep(100)\n"
    )
    (tmp_path / "study.py").write_text(code)
    command = [sys.executable, str(tmp_path / "study.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert not is_refused(url)
        process.kill()
    await_(lambda: is_refused(url))


def test_watch_serves_a_study_until_ctrl_c(study: Path) -> None:
    command = [sys.executable, "-m", "digitrec", "watch", str(study)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        (url,) = re.findall(r"^live page  (http://127\.0\.0\.1:\d+/[\w-]{32}/)$", said)
        assert not is_refused(url)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_watch_refuses_a_directory_without_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err


@needs_chromium
def test_an_open_page_follows_the_study_and_says_when_it_ends(
    browser: webdriver.Chrome, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_server, "REST", 0.0)
    directory = Folder.at(study)
    write_progress(directory, make_progress(line="1 of 4"))
    try:
        with serving(study) as server:
            browser.get(server.url)
            assert now(browser) == "1 of 4"
            browser.execute_script("window.loadedOnce = true")
            for width in (1280, 390):
                emulate(browser, "light", width)
                page_width, window_width = browser.execute_script(
                    "return [document.documentElement.scrollWidth,"
                    " document.documentElement.clientWidth]"
                )
                assert page_width == window_width
            browser.execute_script("document.querySelector('.picture').scrollTo(100, 0)")
            write_progress(directory, make_progress(line="2 of 4", beat=2))
            await_(lambda: now(browser) == "2 of 4")
            assert browser.execute_script("return loadedOnce")
            place = browser.execute_script("return document.querySelector('.picture').scrollLeft")
            assert place == 100
            assert not browser.find_element(By.ID, "lost").is_displayed()
            assert browser.get_log("browser") == []
        await_(lambda: browser.find_element(By.ID, "lost").is_displayed())
        assert now(browser) == "2 of 4"
    finally:
        remove_progress(directory)


def now(browser: webdriver.Chrome) -> str:
    text: str = browser.execute_script("return document.querySelector('.now').textContent")
    return text

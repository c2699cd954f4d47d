"""SIGTERM and Ctrl-C have one effect, at points where it does no harm."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from digitrec.signals import Interrupted, sigint_noted, sigint_put_off, sigterm_as_sigint

SECONDS = 30.0


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_sigterm_is_as_before_after_the_block() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with sigterm_as_sigint():
            assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        send(signal.SIGTERM)
        wait_for(lambda: bool(came))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


PLAIN = """
import os, signal, sys, time
from digitrec.signals import sigterm_as_sigint
try:
    with sigterm_as_sigint():
        print("begun", flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("stopped")
"""
# As Ray's, which aborts the process.
HANDLED = PLAIN.replace(
    "        print", "        signal.signal(15, lambda *_: os._exit(3))\n        print"
)
IGNORED = PLAIN.replace("try:", "signal.signal(signal.SIGINT, signal.SIG_IGN)\ntry:")


@pytest.mark.parametrize(
    ("program", "number"),
    [
        pytest.param(PLAIN, signal.SIGINT, id="Ctrl-C"),
        pytest.param(PLAIN, signal.SIGTERM, id="SIGTERM"),
        pytest.param(HANDLED, signal.SIGTERM, id="SIGTERM, with another handler"),
        pytest.param(IGNORED, signal.SIGTERM, id="SIGTERM, with Ctrl-C ignored"),
    ],
)
def test_either_signal_interrupts_as_ctrl_c_does(program: str, number: signal.Signals) -> None:
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(number)
    assert child.communicate(timeout=SECONDS)[0] == "stopped\n"


def test_a_thread_blocks_sigterm_as_the_main_thread_does() -> None:
    blocked: list[bool] = []

    def look() -> None:
        blocked.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    with sigterm_as_sigint():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert blocked == [True]


def test_a_child_process_as_ray_starts_them_ends_on_sigterm() -> None:
    with sigterm_as_sigint():
        command = [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(600)"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=lambda: None)
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=SECONDS)
    assert child.returncode == -signal.SIGTERM


def test_the_first_ctrl_c_is_noted_and_takes_effect_where_it_is_looked_for() -> None:
    with sigint_noted() as interruption:
        interruption.check()
        send(signal.SIGINT)
        wait_for(lambda: interruption.came)
        with pytest.raises(Interrupted):
            interruption.check()


def test_the_second_ctrl_c_has_its_effect_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), sigint_noted() as interruption:  # noqa: PT012
        send(signal.SIGINT)
        wait_for(lambda: interruption.came)
        send(signal.SIGINT)
        time.sleep(SECONDS)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_that_is_put_off_comes_at_the_end_of_the_block() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), sigint_put_off():  # noqa: PT012
        send(signal.SIGINT)
        time.sleep(0.1)
        done = True
    assert done


def test_outside_the_main_thread_there_is_nothing_to_note() -> None:
    noted: list[bool] = []

    def work() -> None:
        with sigint_put_off(), sigint_noted() as interruption:
            noted.append(interruption.came)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert noted == [False]

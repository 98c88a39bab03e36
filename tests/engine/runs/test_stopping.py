"""Requests to stop."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runs.stopping import StoppableData, StopRequest, StopRequested

ROOT = Path(__file__).parents[3]

TWICE = """
import os, signal, sys
from pathlib import Path
from engine.runs.stopping import StopRequest
with StopRequest(Path("STOP")) as stop:
    os.kill(os.getpid(), signal.{first})
    print(stop.requested, stop.exit_code, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached")
"""


def test_nothing_asked(tmp_path) -> None:
    stop = StopRequest(tmp_path / "STOP")
    stop.raise_if_requested()
    assert (stop.requested, stop.exit_code) == (False, 0)


def test_a_file_asks_and_exits_with_zero(tmp_path) -> None:
    stop = StopRequest(tmp_path / "STOP")
    (tmp_path / "STOP").touch()
    assert (stop.requested, stop.exit_code) == (True, 0)
    assert "STOP" in stop.reason
    with pytest.raises(StopRequested):
        stop.raise_if_requested()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_asks_and_handlers_are_put_back(tmp_path, number: int, code: int, capfd) -> None:
    before = signal.getsignal(number)
    with StopRequest(tmp_path / "STOP") as stop:
        os.kill(os.getpid(), number)
        assert (stop.requested, stop.exit_code) == (True, code)
    assert signal.getsignal(number) is before
    assert "finishing this step and saving" in capfd.readouterr().err


def test_sighup_stays_ignored_where_it_was_and_comes_twice_from_a_closed_terminal(tmp_path, capfd) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest(tmp_path / "STOP") as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)
    with StopRequest(tmp_path / "STOP") as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert (stop.reason, stop.exit_code) == ("SIGHUP", 129)
    assert signal.getsignal(signal.SIGHUP) is before


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_second_signal_ends_the_process_at_once(first: str) -> None:
    command = [sys.executable, "-c", TWICE.format(first=first)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == f"True {128 + signal.Signals[first]}\n"


def test_loading_a_case_gives_way_to_a_request(tmp_path: Path) -> None:
    class Data:
        num_outputs = 3

        def load(self, case: str) -> str:
            return f"loaded {case}"

    stop = StopRequest(tmp_path / "STOP")
    data = StoppableData(Data(), stop)
    assert (data.load("a"), data.num_outputs) == ("loaded a", 3)
    stop.stop_file.touch()
    with pytest.raises(StopRequested):
        data.load("b")

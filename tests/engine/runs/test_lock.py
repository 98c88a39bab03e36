"""Whose a run's folder is: real processes, real locks, and a file system that knows none."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runs import lock
from engine.runs.lock import LOCK_NAME, Holder, hold
from machine.processes import when_started

ROOT = Path(__file__).parents[3]
HOLDER = """
import os, sys, time
from pathlib import Path
from engine.runs.lock import hold
with hold(Path(sys.argv[1]), "trains this run"):
    child = os.fork()  # as some pools of workers do
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def no_locks(monkeypatch) -> None:
    """A file system without locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def _write(folder: Path, **facts: object) -> None:
    this = {"host": socket.gethostname(), "process": os.getpid(), "started": when_started(os.getpid()), "since": "noon"}
    (folder / LOCK_NAME).write_text(json.dumps({**this, **facts}))


def test_a_second_holder_is_told_who_is_the_first(tmp_path) -> None:
    with hold(tmp_path, "trains this run"):
        expected = (
            rf"{tmp_path}: process {os.getpid()} on {re.escape(socket.gethostname())} trains this run since 20\d\d"
        )
        with pytest.raises(ValueError, match=expected), hold(tmp_path, "trains this run"):
            pytest.fail("held twice")
        assert (tmp_path / LOCK_NAME).exists()  # the second one left it alone
    assert not list(tmp_path.iterdir())
    with hold(tmp_path, "trains this run"):
        pass


@pytest.mark.slow
def test_a_killed_holder_holds_no_more_though_its_child_lives(tmp_path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(ValueError, match=f"process {process.pid} on "), hold(tmp_path, "trains this run"):
            pytest.fail("held twice")
        process.kill()
        process.wait()
        assert when_started(child) is not None
        with hold(tmp_path, "trains this run"):
            assert json.loads((tmp_path / LOCK_NAME).read_text())["process"] == os.getpid()
    finally:
        os.kill(child, 9)
        process.communicate()


def test_a_started_program_does_not_inherit_it_unless_it_is_given(tmp_path) -> None:
    with hold(tmp_path, "works on this sweep") as descriptor:
        assert not os.get_inheritable(descriptor)


def test_what_stays_empty_is_removed(tmp_path) -> None:
    with pytest.raises(ValueError, match="wrong"), hold(tmp_path / "runs" / "mine", "trains this run"):
        raise ValueError("wrong")
    assert not list(tmp_path.iterdir())
    with hold(tmp_path / "runs" / "mine", "trains this run"):
        (tmp_path / "runs" / "mine" / "config.yaml").touch()
    assert os.listdir(tmp_path / "runs" / "mine") == ["config.yaml"]


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "runs").touch()
    message = f"{tmp_path}/runs/mine: cannot be written (Not a directory); set run.dir to a writable folder"
    with pytest.raises(ValueError, match=re.escape(message)), hold(tmp_path / "runs" / "mine", "trains this run"):
        pytest.fail("held")


@pytest.mark.usefixtures("no_locks")
class TestWithoutLocks:
    """What stands in the file decides."""

    def test_the_living_hold(self, tmp_path, caplog) -> None:
        with hold(tmp_path, "trains this run"):
            assert "this file system has no locks; host, process and start time in the file decide" in caplog.text
            with pytest.raises(ValueError, match=f"process {os.getpid()} on .* wait for it, or end it$"):
                hold(tmp_path, "trains this run").__enter__()

    @pytest.mark.parametrize("facts", [{"process": 2**22 + 1, "started": "1"}, {"started": "an earlier process"}])
    def test_the_dead_do_not(self, tmp_path, facts: dict[str, object]) -> None:
        _write(tmp_path, **facts)
        with hold(tmp_path, "trains this run"):
            assert json.loads((tmp_path / LOCK_NAME).read_text())["started"] == when_started(os.getpid())

    def test_of_another_host_nobody_knows(self, tmp_path) -> None:
        _write(tmp_path, host="elsewhere", process=7)
        message = "process 7 on elsewhere trains this run since noon; wait for it, or end it; if it is gone, remove "
        with pytest.raises(ValueError, match=f"{message}{tmp_path / LOCK_NAME}"), hold(tmp_path, "trains this run"):
            pytest.fail("held")


def test_a_lock_about_to_be_given_back_is_not_taken_by_its_old_name(tmp_path, monkeypatch) -> None:
    """Its holder removes the file after another process opened it, and before that one locks it."""
    own, opened = lock._lock, []

    def lock_late(descriptor: int) -> bool | None:
        if not opened:
            (tmp_path / LOCK_NAME).unlink()
        opened.append(os.fstat(descriptor).st_ino)
        return own(descriptor)

    monkeypatch.setattr(lock, "_lock", lock_late)
    with hold(tmp_path, "trains this run") as descriptor:
        assert len(opened) == 2
        assert os.path.samestat(os.fstat(descriptor), (tmp_path / LOCK_NAME).stat())


def test_a_file_that_names_nobody_is_nobodys(tmp_path) -> None:
    (tmp_path / LOCK_NAME).write_text("[1]")
    with hold(tmp_path, "trains this run") as descriptor:
        holder = Holder.read(descriptor)
        assert holder is not None
        assert holder.may_live()

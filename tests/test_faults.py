"""What ends one of several processes that train ends all of them, soon, and says why once."""

import signal
import time
from pathlib import Path

import pytest

from engine.runs.checkpoints import latest_whole, read_state, steps_in
from engine.runs.run_folder import RunFolder
from tests import processes
from tests.runs import write_config

pytestmark = pytest.mark.slow

ALL_END_WITHIN_SECONDS = 15

# train.py, in which rank 1 does something of its own when it draws a sample of the second epoch
PATCHED = """
import os, sys, time
import train
from data.dataset import Dataset
from data.files.errors import FileProblem
own = Dataset._sample
def sample(self, case, index, epoch, repeat):
    if epoch > 0 and os.environ.get("MLX_RANK") == "1":
        {fault}
    return own(self, case, index, epoch, repeat)
Dataset._sample = sample
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless(tmp_path_factory.mktemp("faults"))


def write_endless(folder: Path) -> Path:
    """A config of more steps than any test waits for."""
    steps = "train={steps: 5000, batch_size: 4, validate_every_steps: 50}"
    return write_config(folder, "optim.learning_rate=0.01", steps, "checkpoint={every_steps: 2, keep: 2}")


def _start(folder: Path, config: Path, *overrides: str, fault: str = ""):
    command = ["-c", PATCHED.format(fault=fault)] if fault else ["train.py"]
    return processes.start(folder, 2, [*command, "--config", str(config), f"run.dir={folder}", *overrides])


def _wait_for(running, run: RunFolder, lines: int) -> None:
    give_up = time.monotonic() + 120
    while len(run.read_metrics()) < lines:
        assert all(process.poll() is None for process in running), processes.finish(running)
        assert time.monotonic() < give_up
        time.sleep(0.01)


def assert_whole(run: RunFolder) -> int:
    """The last checkpoint's step; all that are there are whole."""
    for step in steps_in(run.checkpoints):
        read_state(run.checkpoints / str(step))
    found = latest_whole(run.checkpoints)
    return found[1]["step"]


def _occurrences(ended, text: str) -> int:
    return sum((out + err).count(text) for _, out, err in ended)


@pytest.mark.parametrize(("rank", "lines"), [(1, 7), (0, 12)])
def test_a_killed_rank_ends_all(tmp_path, config, rank: int, lines: int) -> None:
    run = RunFolder(tmp_path / "tiny")
    running = _start(tmp_path, config)
    _wait_for(running, run, lines)
    running[rank].send_signal(signal.SIGKILL)
    ended = processes.finish(running, ALL_END_WITHIN_SECONDS)
    assert ended[rank][0] == -signal.SIGKILL
    assert ended[1 - rank][0] == 1
    assert _occurrences(ended, "train.py: lost the connection") == 1, ended
    assert _occurrences(ended, f"rank {rank} (") == 1, ended
    assert assert_whole(run) >= lines // 2 * 2 - 2


# train.py, in which rank 1 stops to wait, once its mark is there for the test to kill it
WAITING = """
import sys, time
from pathlib import Path
import train
import mlx.core as mx
import os
from data.volume_input import Volumes
def wait(own):
    def waited(*arguments, **more):
        result = own(*arguments, **more)
        if os.environ["MLX_RANK"] == "1":
            Path({mark!r}).touch()
            time.sleep(60)
        return result
    return waited
{place} = wait({place})
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("mx.distributed.init", "train.py: rank 0: lost the connection to another process during start-up"),
        ("Volumes.prepare", "train.py: lost the connection: rank 1 ("),
    ],
)
def test_a_rank_killed_before_training_is_named_once(tmp_path, config, place: str, said: str) -> None:
    code = WAITING.format(mark=str(tmp_path / "mark"), place=place)
    running = processes.start(tmp_path, 2, ["-c", code, "--config", str(config), f"run.dir={tmp_path}"])
    while not (tmp_path / "mark").exists():
        assert all(process.poll() is None for process in running), processes.finish(running)
        time.sleep(0.01)
    running[1].kill()
    ended = processes.finish(running, 60)
    assert [code for code, _, _ in ended] == [1, -signal.SIGKILL], ended
    assert _occurrences(ended, said) == 1, ended
    assert _occurrences(ended, "train.py: ") == 1, ended
    assert _occurrences(ended, "Traceback") == 0, ended


def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path, config) -> None:
    run = RunFolder(tmp_path / "tiny")
    running = _start(tmp_path, config)
    _wait_for(running, run, 5)
    running[1].send_signal(signal.SIGTERM)
    ended = processes.finish(running, ALL_END_WITHIN_SECONDS)
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert _occurrences(ended, "stopped by SIGTERM") == 1, ended
    assert assert_whole(run) == run.read_metrics("train")[-1]["step"]


def test_a_case_that_one_rank_cannot_read_ends_all(tmp_path, config) -> None:
    running = _start(tmp_path, config, fault='raise FileProblem(case.images[0], "unreadable here", "look")')
    ended = processes.finish(running, 60)
    assert [code for code, _, _ in ended] == [1, 1], ended
    assert _occurrences(ended, "unreadable here") == 1, ended
    assert "rank 1: " in ended[0][2]
    assert "while reading case " in ended[0][2]


def test_a_loss_that_is_not_finite_ends_all(tmp_path, config) -> None:
    fault = "sample = own(self, case, index, epoch, repeat); return {**sample, 'x': sample['x'] * float('nan')}"
    ended = processes.finish(_start(tmp_path, config, fault=fault), 60)
    assert [code for code, _, _ in ended] == [1, 1], ended
    assert _occurrences(ended, "loss nan") == 1, ended
    assert "; rank 1: phantom" in ended[0][2], ended


def test_a_stall_ends_by_the_watchdog(tmp_path, config) -> None:
    running = _start(tmp_path, config, "distributed.timeout_seconds=3", fault="time.sleep(20)")
    began = time.monotonic()
    ended = processes.finish(running[:1], 60)
    running[1].kill()
    running[1].communicate()
    assert ended[0][0] == 75, ended
    assert "waited 3 s for the other processes (distributed.timeout_seconds)" in ended[0][2]
    assert time.monotonic() - began < 60

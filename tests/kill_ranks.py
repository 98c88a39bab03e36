"""Kill one of two training processes at random moments, many times over; resume each time from what is left.

python -m tests.kill_ranks [--times 20] [--seed 0]
"""

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

from engine.runs.run_folder import RunFolder
from tests import processes
from tests.test_faults import ALL_END_WITHIN_SECONDS, assert_whole, write_endless


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_endless(folder)
        run = RunFolder(folder / "tiny")
        for number in range(arguments.times):
            kill_once(folder, run, number, rng)
    print(f"{arguments.times} of {arguments.times} kills: all ended, the cause told once, checkpoints whole")


def kill_once(folder: Path, run: RunFolder, number: int, rng: random.Random) -> None:
    """Raises AssertionError unless the other process ends in time, says so once, and all checkpoints are whole."""
    rank, delay = rng.randrange(2), rng.uniform(0, 1.5)
    command = ["train.py", "--config", str(folder / "tiny.yaml"), f"run.dir={folder}", "--resume"]
    before = len(run.read_metrics())
    running = processes.start(folder, 2, command)
    while len(run.read_metrics()) <= before:  # since resuming drops lines, at the latest after a few steps
        assert all(process.poll() is None for process in running), processes.finish(running)
        time.sleep(0.01)
    time.sleep(delay)
    running[rank].send_signal(signal.SIGKILL)
    began = time.monotonic()
    ended = processes.finish(running, ALL_END_WITHIN_SECONDS)
    seconds = time.monotonic() - began
    assert ended[rank][0] == -signal.SIGKILL, ended
    assert ended[1 - rank][0] == 1, ended
    assert sum((out + err).count("train.py: lost the connection") for _, out, err in ended) == 1, ended
    last = assert_whole(run)
    print(f"kill {number + 1}: rank {rank}, the other ended after {seconds:.1f} s, last checkpoint {last}")


if __name__ == "__main__":
    main()

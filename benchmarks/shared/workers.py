"""Two programs timed fairly: each lives in a process of its own, and they take turns, one step at a time.

`python -m benchmarks.shared.workers MODULE JOB` is such a process: it calls the module's `work` with the job, in JSON.

Turns keep a ratio right where the machine's speed drifts: both sides of a pair run at the same moment.
"""

import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from machine.resources import peak_resident_bytes


class Worker:
    """A child process that runs the module's `work(job)` and does one step each time it is asked."""

    def __init__(self, module: str, job: dict[str, Any]) -> None:
        self.job = job
        self.finite = True  # whether all its results were finite
        # PyTorch's side is on the CPU.
        environment = {"MLX_VOLUMES_DEVICE": "cpu", **os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.shared.workers", module, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._ask(None)  # built

    def _ask(self, question: str | None) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if question is not None:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker {self.job} ended with status {self._process.wait()}")
        answer = json.loads(line)
        self.finite &= math.isfinite(answer.get("value", 0.0))
        return answer

    def do(self, command: str) -> tuple[float, float]:
        """Run a command; return its seconds, measured inside the worker, and its result."""
        answer = self._ask(command)
        return float(answer["seconds"]), float(answer["value"])

    def memory_bytes(self) -> int:
        """Return the peak resident memory less what was resident after the imports."""
        return int(self._ask("memory")["bytes"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def serve(build: Callable[[], dict[str, Callable[[], float]]], import_libraries: Callable[[], None]) -> None:
    """Run the worker's side: import, build, then run the built commands by name until the pipe closes.

    A command returns a number, such as the loss. `memory` always exists.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stderr, not into the answers
    import_libraries()
    before = peak_resident_bytes()
    commands = build()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        name = line.strip()
        if name == "memory":
            print(json.dumps({"bytes": peak_resident_bytes() - before}), file=answers, flush=True)
            continue
        start = time.perf_counter()
        value = commands[name]()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "value": value}), file=answers, flush=True)


def take_turns(workers: list[Worker], warmup: int, rounds: int, command: str = "step") -> np.ndarray:
    """Return seconds (rounds, workers); the order within a round rotates, so that none is always first."""
    for _ in range(warmup):
        for worker in workers:
            worker.do(command)
    seconds = np.empty((rounds, len(workers)))
    for r in range(rounds):
        for k in range(len(workers)):
            which = (r + k) % len(workers)
            seconds[r, which], _ = workers[which].do(command)
            time.sleep(0.02)  # a finished worker's threads stop spinning before the next one starts
    return seconds


def compare_with_torch(ours: np.ndarray, torch: np.ndarray) -> dict[str, float]:
    """Return both sides' median seconds, and PyTorch's time over ours with its interval."""
    ratio, low, high = ratio_interval(torch, ours)
    times = {"seconds": float(np.median(ours)), "torch_seconds": float(np.median(torch))}
    return {**times, "ratio": ratio, "ratio_low": low, "ratio_high": high}


def ratio_interval(above: np.ndarray, below: np.ndarray) -> tuple[float, float, float]:
    """Return the median of the pairwise ratios and its 95 % bootstrap interval."""
    ratios = above / below
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


if __name__ == "__main__":
    importlib.import_module(sys.argv[1]).work(json.loads(sys.argv[2]))

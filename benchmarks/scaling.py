"""How much faster two processes train than one: python -m benchmarks.scaling [--json FILE]

Weak scaling on the CPU of this machine, under Linux: every process has a core of its own and as many samples as one
process alone. The runs take turns. From the measured step and the bytes sent it computes what slower links would leave.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.shared.command import make_parser, write_rows
from machine.resources import available_cores

LINKS_GBIT = (1, 10, 40)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--patch", type=int, default=32, help="voxels along each axis (default: 32)")
    parser.add_argument("--samples", type=int, default=2, help="per process and step (default: 2)")
    parser.add_argument("--steps", type=int, default=8, help="timed in each run (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--port", type=int, default=32400, help="first of two free ports (default: 32400)")
    parser.add_argument("--worker", metavar="CORE", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(arguments)
        return
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("benchmarks.scaling: keeps each process on a core of its own, which macOS does not offer; use Linux")
    cores = available_cores()
    if len(cores) < 2:
        sys.exit(f"benchmarks.scaling: needs two cores, this process may use {len(cores)}")
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(arguments.rounds):
        for count, results in runs.items():
            results.append(launch(count, cores, arguments))
    one, two = (statistics.median(r["seconds"] for r in runs[count]) for count in (1, 2))
    row = {
        "seconds_1": one,
        "seconds_2": two,
        "efficiency": one / two,
        "gradient_bytes": runs[2][0]["bytes"],
        "bytes_sent": sent(runs[2][0]["bytes"], 2),
    }
    print(format_report(row, arguments.samples, arguments.patch))
    write_rows(arguments.json, row)


def launch(count: int, cores: list[int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run `count` workers, one a core; return what rank 0 measured. Raises RuntimeError where one failed."""
    with tempfile.TemporaryDirectory() as folder:
        hosts = Path(folder) / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{arguments.port + rank}"] for rank in range(count)]))
        command = [sys.executable, "-m", "benchmarks.scaling"]
        command += [f"--{name}={getattr(arguments, name)}" for name in ("patch", "samples", "steps")]
        workers = []
        for rank in range(count):
            variables = {**os.environ, "OMP_NUM_THREADS": "1", "MLX_VOLUMES_DEVICE": "cpu"}
            if count > 1:
                variables |= {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
            workers.append(
                subprocess.Popen(
                    [*command, f"--worker={cores[rank]}"], env=variables, stdout=subprocess.PIPE, text=True
                )
            )
        texts = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError(f"a worker failed, exit codes {[worker.returncode for worker in workers]}")
    return json.loads(texts[0])


def work(arguments: argparse.Namespace) -> None:
    """Train on random patches, on one core, and print the median step's seconds."""
    if hasattr(os, "sched_setaffinity"):  # mypy knows a Mac
        os.sched_setaffinity(0, {arguments.worker})
    import mlx.core as mx
    import numpy as np
    from mlx.utils import tree_flatten

    from benchmarks.shared.cases import CASES, make_step
    from engine.distributed.group import join_group
    from engine.training.losses import StandardLossArgs, build_loss
    from models import build_model
    from ops import backend

    backend.choose("auto", 1)
    group = join_group()
    mx.random.seed(0)
    model = build_model("unet3d", CASES["unet16"].unet_args(), 1, 3)
    loss = build_loss(StandardLossArgs(), 3, group.gather if group.size > 1 else None)
    train = {"steps": arguments.steps, "precision": "float32"}
    step = make_step(model, loss, train, {"schedule": "constant"}, group)
    rng = np.random.default_rng(group.rank)
    shape = (arguments.samples, *[arguments.patch] * 3, 1)
    batch = {
        "x": rng.standard_normal(shape, dtype=np.float32),
        "y": rng.integers(0, 3, shape[:4], dtype=np.int32),
    }
    model.train()
    seconds = []
    for _ in range(arguments.steps + 2):  # two to warm up
        started = time.perf_counter()
        with group.together():  # as in training, where a process may fail to read its batch
            pass
        step([batch])
        seconds.append(time.perf_counter() - started)
    num_bytes = sum(a.nbytes for _, a in tree_flatten(model.trainable_parameters()))
    if group.writes:
        print(json.dumps({"seconds": statistics.median(seconds[2:]), "bytes": num_bytes}))
    group.leave()


def sent(num_bytes: int, processes: int) -> float:
    """Return the bytes that each process of a ring sends to sum an array of `num_bytes`: all but one part, twice."""
    return 2 * (processes - 1) / processes * num_bytes


def format_report(row: dict[str, Any], samples: int, patch: int) -> str:
    """Return the measured times, and a table of what follows for links of several speeds."""
    lines = [
        f"U-Net 16/32/64, {samples} patches of {patch}³ voxels a process and step, one core each",
        f"1 process    {row['seconds_1']:.3f} s a step",
        f"2 processes  {row['seconds_2']:.3f} s a step, efficiency {100 * row['efficiency']:.0f} %",
        f"sent         {row['bytes_sent'] / 1e6:.2f} MB a step by each process",
        "",
        "Efficiency to expect, by arithmetic: step / (step + sent / link), nothing overlapping, no latency",
        "processes  " + "".join(f"{f'{link} Gb/s':>10}" for link in LINKS_GBIT),
    ]
    for processes in (2, 4, 8):
        shares = [
            row["seconds_1"] / (row["seconds_1"] + sent(row["gradient_bytes"], processes) * 8 / (link * 1e9))
            for link in LINKS_GBIT
        ]
        lines.append(f"{processes:<11}" + "".join(f"{f'{100 * share:.1f} %':>10}" for share in shares))
    return "\n".join(lines)


if __name__ == "__main__":
    main()

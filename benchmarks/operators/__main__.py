"""Single operators, forward and with all gradients, against PyTorch's on the same cores, in one run.

    python -m benchmarks.operators [--operator conv3d …] [--precision float32 …] [--rounds 15] [--json FILE]

Ours and PyTorch's (eager, contiguous and channels last: the faster counts) run in processes of their own and take
turns. Seconds are medians, of the forward pass with all gradients; `ratio` is PyTorch's time over ours with a 95 %
interval. GFLOP/s stand beside the peak: the best rate that any convolution of the run reached. PyTorch may be
missing: then there is no ratio.
"""

import importlib.util
from typing import Any

import numpy as np

from benchmarks.operators.cases import OPERATORS, our_commands, torch_commands
from benchmarks.shared.command import make_timing_parser, write_rows
from benchmarks.shared.workers import Worker, compare_with_torch, serve, take_turns

MODULE = "benchmarks.operators.__main__"
PEAK = "conv3d 3³ 2×32³ 64→64"  # timed in every run, for the peak
FORMATS = ("contiguous", "channels_last")


def main() -> None:
    parser = make_timing_parser(__doc__, rounds=15, warmup=2)
    parser.add_argument("--operator", nargs="+", default=[""], help="those whose names contain one of these")
    args = parser.parse_args()
    names = [name for name in OPERATORS if any(part in name for part in args.operator)]
    rows = []
    for precision in args.precision:
        rows += compare(names, precision, args.threads, args.warmup, args.rounds)
        show(rows[-len(names) :])
    write_rows(args.json, rows)


def compare(names: list[str], precision: str, threads: int, warmup: int, rounds: int) -> list[dict[str, Any]]:
    """Return one row per operator."""
    common = {"precision": precision, "threads": threads}
    jobs = [{**common, "side": "ours"}]
    if importlib.util.find_spec("torch"):
        jobs += [{**common, "side": "torch", "memory_format": f} for f in FORMATS]
    workers = [Worker(MODULE, job) for job in jobs]
    try:
        rows = [_row(name, workers, warmup, rounds) for name in names]
        peak_seconds = np.median(take_turns(workers[:1], warmup, rounds, f"{PEAK} forward"))
    finally:
        for worker in workers:
            worker.close()
    rates = [rate for row in rows for rate in (row["gflops"], row["forward_gflops"]) if rate]
    peak = max([*rates, OPERATORS[PEAK].flops / peak_seconds / 1e9])
    return [{**row, **common, "peak_gflops": peak} for row in rows]


def _row(name: str, workers: list[Worker], warmup: int, rounds: int) -> dict[str, Any]:
    forward = take_turns(workers, warmup, rounds, f"{name} forward")
    both = take_turns(workers, warmup, rounds, f"{name} gradients")
    flops = OPERATORS[name].flops
    row = {
        "operator": name,
        "seconds": float(np.median(both[:, 0])),
        "forward_seconds": float(np.median(forward[:, 0])),
        "gflops": (2 if OPERATORS[name].image else 3) * flops / np.median(both[:, 0]) / 1e9 if flops else None,
        "forward_gflops": flops / np.median(forward[:, 0]) / 1e9 if flops else None,
    }
    for key, seconds in (("", both), ("forward_", forward)):
        if len(workers) > 1:
            fastest = 1 + int(np.argmin(np.median(seconds[:, 1:], axis=0)))
            compared = compare_with_torch(seconds[:, 0], seconds[:, fastest])
            row |= {f"{key}{name}": value for name, value in compared.items()}
            row[f"{key}torch_memory_format"] = FORMATS[fastest - 1]
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows of one precision."""
    if not rows:
        return
    peak = rows[0]["peak_gflops"]
    print(f"{rows[0]['precision']}, {rows[0]['threads']} threads; peak {peak:.0f} GFLOP/s")
    print(f"{'':44}{'ours ms':>9}{'GFLOP/s':>9}{'of peak':>9}{'torch ms':>10}{'ratio':>7}  95 % interval")
    for row in rows:
        line = f"{row['operator']:44}{row['seconds'] * 1e3:9.2f}"
        rate = row["gflops"]
        line += f"{rate:9.0f}{rate / peak:9.0%}" if rate else f"{'':18}"
        if "ratio" in row:
            line += f"{row['torch_seconds'] * 1e3:10.2f}{row['ratio']:7.2f}  "
            line += f"{row['ratio_low']:.2f} – {row['ratio_high']:.2f}"
        print(line, flush=True)


def work(job: dict[str, Any]) -> None:
    """Run as a worker process."""

    def libraries() -> None:
        if job["side"] == "torch":
            import torch

            torch.set_num_threads(job["threads"])
        else:
            import ops

            ops.choose("auto", threads=job["threads"])

    def build() -> dict[str, Any]:
        if job["side"] == "torch":
            return torch_commands(job["precision"], job["memory_format"])
        return our_commands(job["precision"])

    serve(build, libraries)


if __name__ == "__main__":
    main()

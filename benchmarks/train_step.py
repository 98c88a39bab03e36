"""The training step against PyTorch's on the same cores, in one run.

    python -m benchmarks.train_step [--case unet16 …] [--precision float32 …] [--rounds 20] [--json FILE]

Per case: our step and PyTorch's (eager, the faster of its memory formats) in float32 and bfloat16, each in a process
of its own, taking turns. `ratio` is PyTorch's time over ours, with a 95 % interval; `memory_ratio` our peak memory
over PyTorch's, without what the imports took; `arithmetic` the share of our time that the convolutions alone would
need at the peak rate measured in the same run.
"""

from typing import Any

from benchmarks.shared.command import make_timing_parser, write_rows
from benchmarks.shared.workers import Worker, compare_with_torch, ratio_interval, serve, take_turns

MODULE = "benchmarks.train_step"


def main() -> None:
    parser = make_timing_parser(__doc__, rounds=20, warmup=3)
    parser.add_argument("--case", nargs="+", default=["unet16", "unet32", "resnet18", "r3d_18"])
    args = parser.parse_args()

    rows = []
    print(f"{'case':10}{'precision':10}{'ours s':>9}{'torch s':>9}{'ratio':>7}  95 % interval   memory  arithmetic")
    for case in args.case:
        for row in compare(case, args.precision, args.threads, args.warmup, args.rounds):
            rows.append(row)
            interval = f"{row['ratio_low']:.2f} – {row['ratio_high']:.2f}"
            faster = f"  {row['over_float32']:.2f}x our float32" if row["over_float32"] else ""
            faster += "" if row["torch_loss_is_finite"] else "  (PyTorch's loss became NaN)"
            print(
                f"{case:10}{row['precision']:10}{row['seconds']:9.3f}{row['torch_seconds']:9.3f}{row['ratio']:7.2f}  "
                f"{interval:15} {row['memory_ratio']:6.2f} {row['arithmetic']:9.0%}{faster}",
                flush=True,
            )
    write_rows(args.json, rows)


def compare(case: str, precisions: list[str], threads: int, warmup: int, rounds: int) -> list[dict[str, Any]]:
    """Return one row per precision, all of them timed in the same rounds."""
    from benchmarks.shared.cases import CASES
    from benchmarks.shared.pytorch import count_convolution_flops

    jobs = []
    for precision in precisions:
        common = {"case": case, "precision": precision, "threads": threads}
        formats = [{**common, "side": "torch", "memory_format": f} for f in ("contiguous", "channels_last")]
        jobs += [{**common, "side": "ours"}, min(formats, key=_quick_seconds)]
    workers = [Worker(MODULE, job) for job in jobs]
    try:
        seconds = take_turns(workers, warmup, rounds)
        memory = [worker.memory_bytes() for worker in workers]
        for worker in workers:
            if not worker.finite and worker.job["side"] == "ours":
                raise FloatingPointError(f"our loss was no number: {worker.job}")
    finally:
        for worker in workers:
            worker.close()
    flops = count_convolution_flops(CASES[case])
    batch = CASES[case].shape[0]
    rows = []
    for i, precision in enumerate(precisions):
        ours, torch = seconds[:, 2 * i], seconds[:, 2 * i + 1]
        compared = compare_with_torch(ours, torch)
        over, over_low, _ = ratio_interval(seconds[:, 0], ours) if i else (None, None, None)
        rows.append(
            {
                "case": case,
                "precision": precision,
                **compared,
                "samples_per_second": batch / compared["seconds"],
                "memory_bytes": memory[2 * i],
                "torch_memory_bytes": memory[2 * i + 1],
                "memory_ratio": memory[2 * i] / max(memory[2 * i + 1], 1),
                "arithmetic": flops / _peak(precision, threads) / compared["seconds"],
                "over_float32": over,
                "over_float32_low": over_low,
                "torch_loss_is_finite": workers[2 * i + 1].finite,
                "torch_memory_format": jobs[2 * i + 1]["memory_format"],
                "threads": threads,
                "rounds": rounds,
            }
        )
    return rows


def _quick_seconds(job: dict[str, Any]) -> float:
    return _best_seconds(job, warmup=1, rounds=3)


def _best_seconds(job: dict[str, Any], warmup: int, rounds: int) -> float:
    worker = Worker(MODULE, job)
    try:
        return float(min(take_turns([worker], warmup, rounds)[:, 0]))
    finally:
        worker.close()


_peaks: dict[str, float] = {}


def _peak(precision: str, threads: int) -> float:
    """The machine's peak rate in FLOP/s, once per precision: the best of a convolution that oneDNN does well."""
    if precision not in _peaks:
        job = {"case": "peak", "precision": precision, "threads": threads, "side": "ours"}
        _peaks[precision] = PEAK_FLOPS / _best_seconds(job, warmup=2, rounds=10)
    return _peaks[precision]


PEAK_SHAPE, PEAK_CHANNELS = (2, 32, 32, 32, 64), 64
PEAK_FLOPS = 2.0 * 2 * 32**3 * 27 * 64 * 64


def work(job: dict[str, Any]) -> None:
    """Run as a worker process."""
    from benchmarks.shared.cases import CASES, Step, our_convolution, our_step

    def libraries() -> None:
        if job["side"] == "torch":
            import torch  # noqa: F401
        else:
            import engine.training.step  # noqa: F401
            import models  # noqa: F401
            import ops

            ops.choose("auto", threads=job["threads"])

    def step() -> Step:
        if job["case"] == "peak":
            return our_convolution(PEAK_SHAPE, PEAK_CHANNELS, job["precision"])
        case = CASES[job["case"]]
        if job["side"] == "torch":
            from benchmarks.shared.pytorch import torch_step

            return torch_step(case, job["precision"], job["threads"], job["memory_format"])
        return our_step(case, job["precision"])

    serve(lambda: {"step": step()}, libraries)


if __name__ == "__main__":
    main()

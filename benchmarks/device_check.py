"""Whether this machine's device computes what a CPU does: on a GPU, run this first.

    python -m benchmarks.device_check [--patch D H W] [--quick] [--json FILE]

Runs every operator forward and with its gradients, a training step of each network and a prediction on MLX's default
device, in float32 and bfloat16, at 32³ voxels and at the patch given, and compares them with float32 on the CPU: with
oneDNN's operators where they run, else MLX's own. Without a GPU it is MLX's own operators on the CPU that are checked.

Each row has processes of its own, so that a crash or a failed allocation is a row and not the end. Printed are the
largest difference, milliseconds, and MLX's peak memory; then a block to paste into an issue, and one line that says
whether the device is fit. The exit code is 0 where it is. Differences of values are relative to the largest value; of
gradients, which leap where an activation's sign or a largest voxel turns over, it is the norm that is compared.

float32 is computed without TF32, as MLX_ENABLE_TF32=0 says, unless that is set.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Size = tuple[int, int, int]
Arrays = dict[str, np.ndarray]

PRECISIONS = ("float32", "bfloat16")
BASE_SIZE: Size = (32, 32, 32)
QUICK_SIZE: Size = (16, 16, 16)
TIME_LIMIT_SECONDS = 900.0
# What rounding explains, of values and of gradients; a wrong operator is off by more, in float32 at the least. The
# gradient of r3d_18 in bfloat16 is off by 0.28 with oneDNN's operators, too.
ALLOWED = {"float32": (1e-3, 1e-2), "bfloat16": (1e-1, 4e-1)}
COMMAND = (sys.executable, "-m", "benchmarks.device_check")


@dataclass(frozen=True)
class Check:
    """What one row checks: an operator, a training step or a prediction, by name."""

    kind: str
    name: str
    precision: str
    size: Size


@dataclass(frozen=True)
class Row:
    """What came of a check. Without a `difference` it failed on the device, or there was nothing to compare with."""

    check: Check
    verdict: str  # ok | WRONG | failed: … | unchecked: …
    difference: float | None = None
    where: str = ""  # the array that differs most
    milliseconds: float | None = None
    peak_bytes: int | None = None

    @property
    def is_fit(self) -> bool:
        return self.verdict == "ok" or self.verdict.startswith("unchecked")

    def text(self) -> str:
        difference = "" if self.difference is None else f"{self.difference:.1e}"
        milliseconds = "" if self.milliseconds is None else f"{self.milliseconds:.1f} ms"
        peak = "" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:.0f} MB"
        check, where = self.check, f" ({self.where})" if self.verdict == "WRONG" else ""
        name = f"{check.kind} {check.name}" if check.kind != "operator" else check.name
        return f"{name:<48}{check.precision:<10}{difference:>8}{milliseconds:>12}{peak:>10}  {self.verdict}{where}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, metavar=("D", "H", "W"), help="check at this size, too")
    parser.add_argument("--quick", action="store_true", help="float32 at 16³ alone: under two minutes on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write device and rows there, too")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        work(json.loads(arguments.row))
        return
    sizes, precisions = [QUICK_SIZE if arguments.quick else BASE_SIZE], PRECISIONS[: 1 if arguments.quick else 2]
    if arguments.patch and tuple(arguments.patch) not in sizes:
        sizes.append(tuple(arguments.patch))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for check in list_checks(sizes, precisions):
            rows.append(run(check, Path(folder)))
            print(rows[-1].text(), file=sys.stderr, flush=True)
    device = describe_device()
    print(format_block(device, rows))
    print(verdict(rows))
    if arguments.json:
        facts = {"device": device, "fit": is_fit(rows), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if is_fit(rows) else 1)


def list_checks(sizes: Sequence[Size], precisions: Sequence[str]) -> Iterator[Check]:
    """All rows, those of one name and size beside each other, so that they share what they are compared with."""
    from benchmarks.operator_cases import OPERATORS, resized
    from models import MODELS

    for size in sizes:
        names = [("operator", name) for name in resized(size)]
        assert len(names) == len(OPERATORS)
        names += [(kind, name) for kind in ("step", "prediction") for name in MODELS]
        yield from (Check(kind, name, precision, size) for kind, name in names for precision in precisions)


def run(check: Check, folder: Path, command: Sequence[str] = COMMAND) -> Row:
    """Compute the check on the device and on the CPU, each in a process of its own, and compare.

    folder: for their arrays; what the CPU computed stays there for the row of the other precision.
    """
    reference, found = folder / "reference.npz", folder / "device.npz"
    job = asdict(check)
    same = {**job, "precision": "float32"}
    if not (folder / "job.json").exists() or json.loads((folder / "job.json").read_text()) != json.loads(
        json.dumps(same)
    ):
        reference.unlink(missing_ok=True)
        (folder / "job.json").write_text(json.dumps(same))
        for form in ("auto", "mlx"):  # oneDNN where it loads beside MLX's build for the GPU
            why = _execute(command, {**same, "side": "reference", "form": form, "file": str(reference)})[1]
            if reference.exists():
                break
        (folder / "why.txt").write_text(why)
    found.unlink(missing_ok=True)
    facts, why = _execute(command, {**job, "side": "device", "form": "mlx", "file": str(found)})
    if facts is None:
        return Row(check, f"failed: {why}")
    cost = (facts["milliseconds"], facts["peak_bytes"])
    if not reference.exists():
        return Row(check, f"unchecked: the CPU failed: {(folder / 'why.txt').read_text()}", None, "", *cost)
    with np.load(reference) as expected, np.load(found) as actual:
        differences = compare(dict(expected), dict(actual))
    shares = {name: d / ALLOWED[check.precision]["gradient" in name] for name, d in differences.items()}
    where = max(shares, key=lambda name: np.inf if np.isnan(shares[name]) else shares[name])
    is_right = shares[where] <= 1  # NaN is not
    return Row(check, "ok" if is_right else "WRONG", differences[where], where, *cost)


def compare(expected: Arrays, actual: Arrays) -> dict[str, float]:
    """How much each array differs: of values the largest difference, relative to the largest value, of gradients the
    norm of the difference, relative to theirs. Infinite where shapes differ, NaN where either holds one.
    """
    differences = {}
    for name, reference in expected.items():
        if actual[name].shape != reference.shape:
            differences[name] = float("inf")
            continue
        size = np.linalg.norm if "gradient" in name else lambda a: np.abs(a).max()
        wrong, scale = size((actual[name] - reference).ravel()), size(reference.ravel())
        differences[name] = float(wrong / (scale or 1.0))
    return differences


def _execute(command: Sequence[str], job: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Run a row's process: what it measured, or None and why it failed."""
    environment = {"MLX_ENABLE_TF32": "0", **os.environ}
    try:
        done = subprocess.run(
            [*command, "--row", json.dumps(job)],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=TIME_LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None, f"took longer than {TIME_LIMIT_SECONDS:.0f} s"
    if done.returncode < 0:
        return None, f"ended by signal {signal.Signals(-done.returncode).name}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        return None, lines[-1].strip() if lines else f"exit code {done.returncode}"
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts, ""


def work(job: dict[str, Any]) -> None:
    """Run as a row's process: compute, write the arrays, print milliseconds and peak memory."""
    import mlx.core as mx

    from ops import backend, memory

    if job["side"] == "reference":
        mx.set_default_device(mx.cpu)
    backend.choose(job["form"])
    memory.set_limit()
    build = {"operator": operator, "step": step, "prediction": prediction}[job["kind"]]
    compute = build(job["name"], job["precision"], tuple(job["size"]))
    active = mx.get_active_memory()
    mx.reset_peak_memory()
    arrays: Any = compute()
    peak_bytes, milliseconds = mx.get_peak_memory() - active, []
    np.savez(job["file"], **arrays)
    if job["side"] == "device":
        for _ in range(3):
            started = time.perf_counter()
            compute()
            milliseconds.append(1e3 * (time.perf_counter() - started))
    print(json.dumps({"milliseconds": sorted(milliseconds or [0.0])[len(milliseconds) // 2], "peak_bytes": peak_bytes}))


def operator(name: str, precision: str, size: Size) -> Callable[[], Arrays]:
    """The operator's value and gradients."""
    import mlx.core as mx

    from benchmarks.operator_cases import our_arrays, our_gradients, resized
    from ops import memory

    case = resized(size)[name]
    inputs, cotangent = our_arrays(case, precision)

    def compute() -> Arrays:
        value, gradients = our_gradients(case, inputs, cotangent)
        memory.evaluate(value, gradients)
        named = {"value": value, **{f"gradient {i + case.image}": g for i, g in enumerate(gradients)}}
        return {name: np.array(a.astype(mx.float32)) for name, a in named.items()}

    return compute


def network(name: str) -> tuple[Any, int, tuple[int, ...]]:
    """A network with the config's default arguments, its number of outputs, and a label's axes in space."""
    import mlx.core as mx

    from configs.model_schema import CNN3dArgs, ResNet3dArgs, UNet3dArgs, VideoResNetArgs
    from models import build_model

    mx.random.seed(0)
    # As for small volumes: batch norm over two voxels would make noise of its gradient.
    small = ResNet3dArgs(depth=10, width=16, stem_kernel=(3, 3, 3), stem_stride=(1, 1, 1), max_pool=False)
    args = {"unet3d": UNet3dArgs(), "cnn3d": CNN3dArgs(), "resnet3d": small}.get(name, VideoResNetArgs())
    return build_model(name, args, 1, 3), 3, (1, 2, 3) if name == "unet3d" else ()


def step(name: str, precision: Any, size: Size) -> Callable[[], Arrays]:
    """Loss and gradients of one training step, which are told from what plain SGD makes of the weights."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from configs.train_schema import LossConfig, OptimConfig, TrainConfig
    from engine.losses import build_loss
    from engine.optim import build_optimizer
    from engine.step import TrainStep

    model, num_outputs, axes = network(name)
    model.train()
    loss = build_loss(LossConfig(name="dice_ce" if axes else "cross_entropy"), num_outputs)
    optim = OptimConfig(name="sgd", learning_rate=1.0, momentum=0, weight_decay=0, schedule="constant", clip_norm=None)
    train = TrainConfig(steps=10**6, precision=precision)
    do = TrainStep(model, build_optimizer(optim, 10**6), loss, train, optim)
    rng = np.random.default_rng(0)
    shape = (2, *size, 1)
    x = rng.standard_normal(shape, dtype=np.float32)
    y = rng.integers(0, num_outputs, shape[:4] if axes else shape[:1], dtype=np.int32)

    def weights() -> np.ndarray:
        flat = tree_flatten(model.trainable_parameters())
        return np.concatenate([np.array(a.astype(mx.float32)).ravel() for _, a in sorted(flat)])

    def compute() -> Arrays:
        before = weights()
        result = do([{"x": x, "y": y}])
        gradients = before - weights()
        return {"loss": np.array([result.loss]), "gradient": gradients}

    return compute


def prediction(name: str, precision: str, size: Size) -> Callable[[], Arrays]:
    """Class probabilities of a volume that takes several windows, or of a batch of two."""
    from engine.classify import predict_cases
    from engine.evaluation import make_predict
    from engine.sliding_window import predict_probabilities

    model, _, axes = network(name)
    predict = make_predict(model.eval(), precision)
    rng = np.random.default_rng(0)

    def compute() -> Arrays:
        if axes:
            volume = rng.standard_normal((size[0] + size[0] // 2, *size[1:], 1), dtype=np.float32)
            return {"probabilities": predict_probabilities(predict, volume, size)}
        views = rng.standard_normal((2, *size, 1), dtype=np.float32)
        return {"probabilities": np.stack(list(predict_cases(predict, [views], 2, multi_label=False)))}

    return compute


def describe_device() -> dict[str, Any]:
    """What an issue has to say of the machine."""
    from engine.environment import describe_environment
    from ops import backend, memory

    backend.choose("mlx")
    limit, why = memory.default_limit()
    facts = describe_environment()
    names = ("device", "device_name", "cpu", "cores", "platform", "python")
    driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        found = subprocess.run(driver, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except OSError:
        found = None
    return {
        **{name: facts[name] for name in names},
        "macos": platform.mac_ver()[0] or None,
        "driver": found,
        "mlx": facts["packages"]["mlx"],
        "git": facts["git"] and facts["git"]["revision"],
        "memory_limit": f"{limit / 1e9:.1f} GB, {why}",
        "tf32": os.environ.get("MLX_ENABLE_TF32", "0"),
    }


def format_block(device: dict[str, Any], rows: Sequence[Row]) -> str:
    """What to paste into an issue."""
    facts = [f"{name:<14}{value}" for name, value in device.items() if value is not None]
    return "\n".join(["```", *facts, *(row.text() for row in rows), verdict(rows), "```"])


def is_fit(rows: Sequence[Row]) -> bool:
    return all(row.is_fit for row in rows)


def verdict(rows: Sequence[Row]) -> str:
    """One line: fit or not, and why not."""
    wrong = [row for row in rows if not row.is_fit]
    if wrong:
        names = ", ".join(dict.fromkeys(f"{row.check.kind} {row.check.name} {row.check.precision}" for row in wrong))
        return f"NOT fit: {len(wrong)} of {len(rows)} rows: {names}"
    unchecked = sum(row.verdict != "ok" for row in rows)
    return f"fit: {len(rows) - unchecked} rows agree with the CPU" + (f", {unchecked} unchecked" if unchecked else "")


if __name__ == "__main__":
    main()

"""Check that this machine's device computes what a CPU does: on a GPU, run this first.

    python -m benchmarks.device_check [--patch D H W] [--quick] [--json FILE]

Runs every operator forward and with its gradients, a training step of each network and a prediction on MLX's default
device, in float32 and bfloat16, at 32³ voxels and at the patch given, and compares them with float32 on the CPU: with
oneDNN's operators where they run, else MLX's own. Without a GPU this checks MLX's own operators on the CPU.

Each row runs in its own processes, so that a crash or a failed allocation fails only that row. A row shows the
largest difference, milliseconds, and MLX's peak memory. At the end come a block to paste into an issue, and one line
that says whether the device is fit; the exit code is 0 if it is. Differences of values are relative to the largest
value. Gradients jump where an activation's sign or a maximum's place changes: their difference is that of the norms.

float32 is computed without TF32, as MLX_ENABLE_TF32=0 says, unless that is set.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.command import PRECISIONS, make_parser, write_rows

Size = tuple[int, int, int]
Arrays = dict[str, np.ndarray]

BASE_SIZE: Size = (32, 32, 32)
QUICK_SIZE: Size = (16, 16, 16)
TIME_LIMIT_SECONDS = 900.0
# Differences of values and of gradients that rounding explains; a wrong operator exceeds them, at least in float32. The
# gradient of r3d_18 in bfloat16 is off by 0.28 with oneDNN's operators, too.
ALLOWED = {"float32": (1e-3, 1e-2), "bfloat16": (1e-1, 4e-1)}
COMMAND = (sys.executable, "-m", "benchmarks.device_check.rows")


@dataclass(frozen=True)
class Check:
    """One row's check: an operator, a training step or a prediction, by name."""

    kind: str
    name: str
    precision: str
    size: Size

    @property
    def title(self) -> str:
        """The name with its size, which an operator's has."""
        return self.name if self.kind == "operator" else f"{self.kind} {self.name} {'×'.join(map(str, self.size))}"


@dataclass(frozen=True)
class Row:
    """A check's result. Without a `difference` it failed on the device, or the CPU computed nothing to compare with."""

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
        return (
            f"{check.title:<48}{check.precision:<10}{difference:>8}{milliseconds:>12}{peak:>10}  {self.verdict}{where}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--patch", type=int, nargs=3, metavar=("D", "H", "W"), help="check this size too")
    parser.add_argument("--quick", action="store_true", help="only float32 at 16³: 108 s on two cores of an AMD EPYC")
    arguments = parser.parse_args(argv)
    if arguments.patch and any(n < 4 or n % 4 for n in arguments.patch):
        parser.error(f"--patch {' '.join(map(str, arguments.patch))}: the U-Net takes multiples of 4 voxels")
    sizes, precisions = [QUICK_SIZE if arguments.quick else BASE_SIZE], PRECISIONS[: 1 if arguments.quick else 2]
    if arguments.patch and tuple(arguments.patch) not in sizes:
        sizes.append(tuple(arguments.patch))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for check in list_checks(sizes, precisions):
            rows.append(run(check, Path(folder)))
            print(rows[-1].text(), file=sys.stderr, flush=True)
    from engine.runs.run_folder import without_nan

    device = describe_device()
    print(format_block(device, rows))
    print(verdict(rows))
    facts = {"device": device, "fit": is_fit(rows), "rows": [asdict(row) for row in rows]}
    write_rows(arguments.json, without_nan(facts))
    sys.exit(0 if is_fit(rows) else 1)


def list_checks(sizes: Sequence[Size], precisions: Sequence[str]) -> Iterator[Check]:
    """Yield all checks; those of one name and size are adjacent, so that they share their reference."""
    from benchmarks.operators.cases import resized
    from models import MODELS

    for size in sizes:
        names = [("operator", name) for name in resized(size)]
        names += [(kind, name) for kind in ("step", "prediction") for name in MODELS]
        yield from (Check(kind, name, precision, size) for kind, name in names for precision in precisions)


def run(check: Check, folder: Path, command: Sequence[str] = COMMAND) -> Row:
    """Compute the check on the device and on the CPU, each in a process of its own, and compare.

    folder: for their arrays; the CPU's result stays there for the row of the other precision.
    """
    reference, why_none = _compute_reference(check, folder, command)
    found = folder / "device.npz"
    facts, why = _execute(command, {**asdict(check), "side": "device", "form": "mlx", "file": str(found)})
    if facts is None:
        return Row(check, f"failed: {why}")
    cost = (facts["milliseconds"], facts["peak_bytes"])
    if not reference.exists():
        return Row(check, f"unchecked: the CPU failed: {why_none}", None, "", *cost)
    with np.load(reference) as expected, np.load(found) as actual:
        differences = compare(dict(expected), dict(actual))
    shares = {name: d / ALLOWED[check.precision]["gradient" in name] for name, d in differences.items()}
    where = max(shares, key=lambda name: np.inf if np.isnan(shares[name]) else shares[name])
    is_right = shares[where] <= 1  # NaN is not
    return Row(check, "ok" if is_right else "WRONG", differences[where], where, *cost)


def _compute_reference(check: Check, folder: Path, command: Sequence[str]) -> tuple[Path, str]:
    """Return the file of the CPU's float32 result, and why there is none; the file serves until the next check."""
    job = {**asdict(check), "precision": "float32", "side": "reference"}
    file, note, asked = folder / "reference.npz", folder / "reference.json", json.dumps(job)
    if not note.exists() or json.loads(note.read_text())["asked"] != asked:
        file.unlink(missing_ok=True)
        for form in ("auto", "mlx"):  # oneDNN where it loads beside MLX's build for the GPU
            _, why = _execute(command, {**job, "form": form, "file": str(file)})
            if file.exists():
                break
        note.write_text(json.dumps({"asked": asked, "why": why}))
    return file, json.loads(note.read_text())["why"]


def compare(expected: Arrays, actual: Arrays) -> dict[str, float]:
    """Return each array's difference: of values the largest, relative to the largest value; of gradients the norm of
    the difference, relative to the gradient's norm. Infinite where shapes differ, NaN where either array has one.
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
    """Run a row's process; return what it measured, or None and why it failed."""
    environment = {"MLX_ENABLE_TF32": "0", **os.environ}
    try:
        done = subprocess.run(
            [*command, json.dumps(job)],
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


def describe_device() -> dict[str, Any]:
    """Return the facts about the machine that an issue needs."""
    from engine.runs.environment import describe_environment
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
    """Return the text to paste into an issue."""
    facts = [f"{name:<14}{value}" for name, value in device.items() if value is not None]
    return "\n".join(["```", *facts, *(row.text() for row in rows), verdict(rows), "```"])


def is_fit(rows: Sequence[Row]) -> bool:
    return all(row.is_fit for row in rows)


def verdict(rows: Sequence[Row]) -> str:
    """Return one line: fit or not, and why not."""
    wrong = [row for row in rows if not row.is_fit]
    if wrong:
        names = ", ".join(dict.fromkeys(f"{row.check.title} {row.check.precision}" for row in wrong))
        return f"NOT fit: {len(wrong)} of {len(rows)} rows: {names}"
    unchecked = sum(row.verdict != "ok" for row in rows)
    return f"fit: {len(rows) - unchecked} rows agree with the CPU" + (f", {unchecked} unchecked" if unchecked else "")


if __name__ == "__main__":
    main()

"""Where and with what a run was made: versions, device, command, git revision."""

import importlib.metadata
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlx.core as mx

from configs import Config
from engine.distributed.group import Group
from engine.runs.run_folder import RunFolder
from machine.cpu import cpu_features, cpu_name
from machine.resources import available_threads, peak_resident_bytes
from ops import backend

_PACKAGES = ("mlx", "mlx-data", "numpy", "scipy", "nibabel", "numba", "onednn-cpu-gomp", "pydantic")
_ROOT = Path(__file__).parents[2]


def describe_environment() -> dict[str, Any]:
    """Return the facts for environment.json; what this machine doesn't tell is None."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": str(mx.default_device().type).removeprefix("DeviceType."),
        "device_name": mx.device_info().get("device_name"),
        "cpu": cpu_name(),
        "cpu_features": cpu_features(),
        "cores": available_threads(),
        "operators": backend.active(),
    }


def write_facts(run: RunFolder, config: Config, data: Any, resumed: bool, group: Group) -> None:
    """Write what the run is made of into its folder."""
    environment = {**describe_environment(), "precision": config.train.precision, "processes": group.size}
    environment["data_fingerprint"] = data.fingerprint
    if resumed:
        first = run.read_json("environment")
        environment = {**first, "resumed": [*first.get("resumed", []), environment]}
        run.write_config(config)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_json("environment", environment)
    run.write_json("files", data.files)
    run.write_json("skipped", [dict(zip(("case", "file", "reason"), s, strict=True)) for s in data.skipped])
    if not resumed:
        run.write_json("splits", data.splits)
        run.write_json("statistics", data.statistics)
        run.create(config)  # last: from here on the run exists, and all that resuming reads is there


def peak_memory_gb() -> float:
    """Return the most memory held so far, in 10^9 bytes: MLX's own on a GPU, the process's on a CPU."""
    if mx.default_device().type == mx.DeviceType.gpu:
        return mx.get_peak_memory() / 1e9
    return peak_resident_bytes() / 1e9


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> dict[str, Any] | None:
    """Return the clone's commit, and whether files differ from it."""
    revision = _git("rev-parse", "HEAD")
    return None if revision is None else {"revision": revision, "dirty": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

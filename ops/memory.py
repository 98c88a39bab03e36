"""How much memory MLX may take, one place to wait for the device, and failed allocations in words.

A GPU's work is queued. On Metal a queued command that fails for want of memory leaves zeros, and raises only where the
queue is synchronised (ml-explore/mlx#3979), so every number that leaves the device passes through `evaluate`.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

from ops.device import on_gpu

# Of what the device recommends or has. MLX's own limit on Metal is 1.5 times the recommended working set.
GPU_SHARE = 0.9
CPU_SHARE = 0.8  # as MLX's own, but of the cgroup's memory where that is less

# What MLX, Metal, CUDA and oneDNN say when memory is short, in lower case.
_SIGNS = (
    "unable to allocate",
    "attempting to allocate",
    "insufficient memory",
    "out of memory",
    "[metal::malloc] resource limit",
)

_log = logging.getLogger("mlx_volumes")
_limit = "MLX's own"


class OutOfMemory(MemoryError):
    """An allocation that failed; says what for, and what to make smaller."""


def set_limit(memory_limit_gb: float | None = None) -> None:
    """Tell MLX how much memory it may take, and log in one line which limit holds.

    memory_limit_gb: 10^9 bytes; None takes a share of what the device recommends (Metal), has (CUDA), or of the
    machine's or the cgroup's memory (CPU). Beyond the limit MLX waits for queued work before it queues more, and gives
    cached buffers back; it refuses no array for it. Metal's wired limit stays as it is.
    """
    global _limit
    default, why = default_limit()
    limit = default if memory_limit_gb is None else round(memory_limit_gb * 1e9)
    if memory_limit_gb is not None:
        why = "memory_limit_gb"
        if on_gpu() and limit > default:
            _log.warning(
                "memory_limit_gb=%g is more than the %.1f GB that this device takes well: arrays may be swapped, or "
                "the run end for want of memory",
                memory_limit_gb,
                default / 1e9,
            )
    mx.set_memory_limit(limit)
    if on_gpu():
        # A step's arrays are all cached after it and taken again by the next: a smaller cache would allocate anew.
        mx.set_cache_limit(limit)
    _limit = f"{limit / 1e9:.1f} GB ({why})"
    _log.info("memory limit: %s", _limit)


def describe_limit() -> str:
    """The limit that was set, and why; MLX's own where none was."""
    return _limit


def default_limit() -> tuple[int, str]:
    """The limit in bytes that holds without `memory_limit_gb`, and what it is a share of."""
    facts = mx.device_info()
    for key, name in (
        ("max_recommended_working_set_size", "the working set that the GPU recommends"),
        ("total_memory", "the GPU's memory"),
    ):
        if on_gpu() and key in facts:
            return int(GPU_SHARE * int(facts[key])), f"{GPU_SHARE} of {name}, {int(facts[key]) / 1e9:.1f} GB"
    physical, cgroup = physical_memory(), cgroup_memory()
    total, name = (cgroup, "the cgroup's memory") if cgroup and cgroup < physical else (physical, "the memory")
    return int(CPU_SHARE * total), f"{CPU_SHARE} of {name}, {total / 1e9:.1f} GB"


def physical_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_memory(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The least memory limit in bytes of this process's cgroups, of version 1 or 2; None where there is none."""
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(top):
                break
            try:
                text = (place / name).read_text(encoding="utf-8").strip()
            except OSError:
                continue  # the root of version 2, or a path of the host that a container doesn't see
            if text.isdigit():  # or "max"
                limits.append(int(text))
    return min(limits, default=None)


def evaluate(*arrays: Any) -> None:
    """Compute the arrays, or trees of them, and wait until the device has done so.

    Raises what failed on the way: on Metal `mx.eval` alone may not.
    """
    mx.eval(*arrays)
    if on_gpu():
        mx.synchronize()


def release_cache() -> None:
    """Give a GPU's cached buffers back: what comes next needs others. A CPU keeps its few."""
    if on_gpu():
        mx.clear_cache()


@contextmanager
def explained(what: str, smaller: str) -> Iterator[None]:
    """Within, a failed allocation raises OutOfMemory, which says what for, and what to make `smaller`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, OutOfMemory) or not (
            isinstance(error, MemoryError) or any(sign in text.lower() for sign in _SIGNS)
        ):
            raise
        raise OutOfMemory(
            f"out of memory in {what}: {text or type(error).__name__} (MLX held {mx.get_peak_memory() / 1e9:.1f} GB at "
            f"most). Use a smaller {smaller}; a lower memory_limit_gb makes MLX queue less at a time"
        ) from error

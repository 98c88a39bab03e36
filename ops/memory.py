"""MLX's memory limit, the one function that waits for the device, and messages for failed allocations.

A GPU's work is queued. On Metal a queued command that runs out of memory leaves zeros, and raises only where the queue
is synchronised (ml-explore/mlx#3979), so every number that leaves the device passes through `evaluate`.
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
    """A failed allocation; the message says what for, and what to make smaller."""


def set_limit(memory_limit_gb: float | None = None) -> None:
    """Set how much memory MLX may take, and log the limit in one line.

    memory_limit_gb: 10^9 bytes; None takes a share of what the device recommends (Metal), has (CUDA), or of the
    machine's or the cgroup's memory (CPU). Beyond the limit MLX waits for queued work before it queues more, and frees
    cached buffers; it refuses no allocation. Metal's wired limit is unchanged.
    """
    global _limit
    default, why = default_limit()
    limit = default if memory_limit_gb is None else round(memory_limit_gb * 1e9)
    if memory_limit_gb is not None:
        why = "memory_limit_gb"
        if on_gpu() and limit > default:
            _log.warning(
                "memory_limit_gb=%g is more than the %.1f GB recommended for this device: arrays may be swapped, or "
                "the run may end out of memory",
                memory_limit_gb,
                default / 1e9,
            )
    mx.set_memory_limit(limit)
    if on_gpu():
        # A step's arrays are cached and used again by the next step: a smaller cache would allocate them again.
        mx.set_cache_limit(limit)
    _limit = f"{limit / 1e9:.1f} GB ({why})"
    _log.info("memory limit: %s", _limit)


def describe_limit() -> str:
    """Return the limit that was set, and why; MLX's own where none was."""
    return _limit


def default_limit() -> tuple[int, str]:
    """Return the limit in bytes without `memory_limit_gb`, and what it is a share of."""
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
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_memory(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the smallest memory limit in bytes of this process's cgroups (version 1 or 2), or None."""
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
    """Compute the arrays, or trees of them, and wait for the device.

    Raises what failed: on Metal `mx.eval` alone may not.
    """
    mx.eval(*arrays)
    if on_gpu():
        mx.synchronize()


def release_cache() -> None:
    """Free a GPU's cached buffers: what comes next needs others. A CPU keeps its few."""
    if on_gpu():
        mx.clear_cache()


@contextmanager
def explained(what: str, smaller: str) -> Iterator[None]:
    """Turn a failed allocation within the context into OutOfMemory, which names `what` and what to make `smaller`."""
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

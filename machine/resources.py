"""Threads and memory that this process may use, and uses."""

import os
import resource
import subprocess
import sys
from pathlib import Path


def available_cores() -> list[int]:
    """Return the cores that this process may run on: its affinity mask on Linux, elsewhere all."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_threads() -> int:
    """Return how many threads run at once."""
    return len(available_cores())


def resident_bytes() -> int:
    """Return the memory of this process now, in bytes."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(shown.stdout) * 1024


def peak_resident_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    if sys.platform == "linux":  # its ru_maxrss begins with what the parent held at the fork
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

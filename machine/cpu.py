"""The CPU's name, and those of its instructions that results may depend on."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

_FEATURES = frozenset(
    ["avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "sve2", "bf16", "i8mm"]  # x86, then Arm
)


def cpu_name() -> str | None:
    """Return the name, such as "AMD EPYC 9B14", "Apple M3 Max" or "Neoverse-V2"; None where it is unknown."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or None
    text = _cpuinfo()
    if names := _values(text, "model name"):
        return names[0]
    if names := _values(_output("lscpu") or "", "Model name"):  # Arm's cpuinfo has numbers; two kinds of cores, two
        return " + ".join(dict.fromkeys(names))
    ids = [_values(text, key) for key in ("CPU implementer", "CPU part")]
    return f"Arm, implementer {ids[0][0]}, part {ids[1][0]}" if all(ids) else platform.processor() or None


def cpu_features() -> list[str] | None:
    """Return the instruction sets that decide how sums are rounded; None where the system lists none."""
    text = _cpuinfo()
    lines = _values(text, "flags") or _values(text, "Features")
    return sorted(_FEATURES.intersection(lines[0].split())) if lines else None


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _values(text: str, key: str) -> list[str]:
    """Return the values of the key, one per line."""
    return [value.strip() for value in re.findall(rf"^\s*{key}\s*:(.*)$", text, re.MULTILINE)]


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

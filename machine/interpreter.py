"""Check that this Python can run the project, and say in one line why not. Any Python from 3.7 on reads this file.

`make setup` runs `python machine/interpreter.py` before it makes an environment with that Python.
"""

import importlib.util
import os
import platform
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
_NEEDED = ("mlx", "numpy", "scipy", "nibabel", "pydantic", "yaml")
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def why_unfit() -> "str | None":
    """Return why no environment can be made with this Python, or None where one can."""
    found = f"{sys.executable} is Python {platform.python_version()}"
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return f"{found}: the project needs 3.11, 3.12 or 3.13"
    if sys.platform == "darwin":
        machine, system = platform.machine(), platform.mac_ver()[0]
        if machine != "arm64":  # Rosetta shows an Apple chip as x86_64
            return f"{found} for {machine}: MLX needs Apple silicon and a native (arm64) Python, none under Rosetta"
        if int(system.split(".")[0]) < 14:
            return f"{found} on macOS {system}: MLX needs macOS 14 or later"
    elif sys.platform == "linux":
        library, version = platform.libc_ver()
        if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
            here = f"{library} {version}" if library else "a C library other than glibc"
            return f"{found} on {here}: MLX needs glibc 2.35 or later (Ubuntu 22.04, Debian 12)"
    else:
        return f"{found} on {sys.platform}: MLX runs on macOS and Linux"
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        return f"{found} without venv: apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    return None


def why_wrong() -> "str | None":
    """Return how to start the script, where this Python is too old or lacks the project's packages; else None."""
    if sys.version_info[:2] < OLDEST:
        lacks = "is older than 3.11"
    else:
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if not missing:
            return None
        lacks = "has no " + ", ".join(missing)
    wrong = f"this Python ({platform.python_version()}, {sys.executable}) {lacks}"
    environment = os.path.join(_ROOT, ".venv")
    if os.path.abspath(sys.prefix) == environment:
        return f"{wrong}: run `make setup`"
    python = os.path.join(".venv", "bin", "python")
    first = "" if os.path.exists(os.path.join(_ROOT, python)) else "run `make setup`, then "
    return f"{wrong}: {first}`source .venv/bin/activate` and start again, or `{python} {_arguments()}`"


def _arguments() -> str:
    """Return what follows `python` on the command line. Under `python -m` sys.argv is complete only after loading."""
    if sys.argv[0] == "-m":
        words = getattr(sys, "orig_argv", [])  # since 3.10
        return " ".join(words[words.index("-m") :]) if "-m" in words else "-m …"
    return " ".join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]) if os.path.exists(sys.argv[0]) else "…"


def require() -> None:
    """End the process with exit code 2 and the line of `why_wrong`, where there is one."""
    line = why_wrong()
    if line is not None:
        sys.stderr.write(line + "\n")
        sys.exit(2)


if __name__ == "__main__":
    reason = why_unfit()
    if reason is not None:
        sys.stderr.write(reason + "\n")
        sys.exit(2)

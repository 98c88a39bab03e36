"""Processes of this machine."""

import os
import subprocess
import sys
from pathlib import Path


def when_started(process: int) -> str | None:
    """Return a text that tells when the process started, the same at each call; None where it does not run.

    One that ended stays, as a zombie, until its parent asks: `os.kill` finds it, this function does not.
    """
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in ("Z", "X") else fields[19]  # in clock ticks since the machine's start
    command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(process)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    state, _, started = shown.stdout.strip().partition(" ")
    return None if state[:1] in ("", "Z") else started.strip()

"""Runs a script for a study, and ends it when the study's process ends.

python studies/sweep/entry.py train.py --config ...

Standard input is a pipe that the study's process holds open. When that process ends, for whatever reason, this one
sends itself SIGTERM, on which training finishes its step and saves.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path


def follow(descriptor: int) -> None:
    """Send this process SIGTERM once the other end of the pipe is closed."""
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=follow, args=(sys.stdin.fileno(),), daemon=True).start()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")

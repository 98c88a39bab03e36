"""Where the processes of a group run, and whether those of this machine still do."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def own_address() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class Peers:
    """The processes of a group, by rank, of which each has told its `own_address`."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)

    def is_here(self, rank: int) -> bool:
        """Whether it runs on this machine."""
        return self.addresses[rank].rpartition(":")[0] == socket.gethostname()

    def is_alive(self, rank: int) -> bool:
        """Whether a process of this machine runs; those of others are taken to."""
        if not self.is_here(rank):
            return True
        pid = self.addresses[rank].rpartition(":")[2]
        # One that ended stays, as a zombie, until its parent asks: to os.kill it is there.
        if sys.platform == "linux":
            try:
                return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
            except OSError:
                return False
        shown = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False)
        return shown.stdout.strip()[:1] not in ("", "Z")

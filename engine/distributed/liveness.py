"""Where the processes of a group run, and whether those on this machine are alive."""

import os
import socket
from collections.abc import Sequence

from machine.processes import when_started


def own_address() -> str:
    """Return this process as host:number."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Peers:
    """The processes of a group, by the `own_address` of each rank."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)

    def is_here(self, rank: int) -> bool:
        """Return whether the process runs on this machine."""
        return self.addresses[rank].rpartition(":")[0] == socket.gethostname()

    def is_alive(self, rank: int) -> bool:
        """Return whether a process of this machine is alive; processes on other machines count as alive."""
        return not self.is_here(rank) or when_started(int(self.addresses[rank].rpartition(":")[2])) is not None

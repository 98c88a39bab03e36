"""Where the processes of a group run, and whether those of this machine still do."""

import os
import socket
from collections.abc import Sequence

from machine.processes import when_started


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
        return not self.is_here(rank) or when_started(int(self.addresses[rank].rpartition(":")[2])) is not None

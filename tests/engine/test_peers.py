"""Who of a group is alive."""

import os
import subprocess
import sys

from engine.peers import Peers, own_address


def test_the_living_the_dead_and_those_elsewhere() -> None:
    host = own_address().rpartition(":")[0]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while not os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT):
        pass
    peers = Peers([own_address(), f"{host}:{ended.pid}", "elsewhere:1"])
    assert [peers.is_here(rank) for rank in range(3)] == [True, True, False]
    if sys.platform == "linux":
        assert not peers.is_alive(1)  # a zombie
    ended.wait()
    assert [peers.is_alive(rank) for rank in range(3)] == [True, False, True]

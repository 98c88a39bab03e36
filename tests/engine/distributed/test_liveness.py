"""Which processes of a group are alive."""

import shutil
import subprocess
import sys
import time

import pytest

from engine.distributed.liveness import Peers, own_address


@pytest.fixture(params=["this system", "ps"], autouse=True)
def _how_is_told(request, monkeypatch) -> None:
    """Also as on macOS."""
    if request.param == "ps":
        if shutil.which("ps") is None:
            pytest.skip("needs ps")
        monkeypatch.setattr("machine.processes.sys.platform", "darwin")


def test_the_living_the_dead_and_those_elsewhere() -> None:
    host = own_address().rpartition(":")[0]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    peers = Peers([own_address(), f"{host}:{ended.pid}", "elsewhere:1"])
    assert [peers.is_here(rank) for rank in range(3)] == [True, True, False]
    deadline = time.monotonic() + 30
    while peers.is_alive(1):  # until it ends, a zombie as nobody has waited for it
        assert time.monotonic() < deadline
    ended.wait()
    assert [peers.is_alive(rank) for rank in range(3)] == [True, False, True]

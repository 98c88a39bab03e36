"""Threads and memory of this process."""

import mmap
import os
import shutil
import sys

import pytest

from machine import resources


def test_cores() -> None:
    assert 1 <= resources.available_threads() <= (os.cpu_count() or 1)
    assert resources.available_threads() == len(resources.available_cores())


@pytest.mark.skipif(sys.platform != "linux", reason="narrows an affinity mask")
def test_cores_are_those_of_the_affinity_mask() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
        assert resources.available_cores() == [max(before)]
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("system", [sys.platform, "darwin"])
def test_memory_held_now_and_at_most(monkeypatch, system: str) -> None:
    if shutil.which("ps") is None:
        pytest.skip("needs ps")
    size = 64 << 20
    before = resources.resident_bytes()
    held = mmap.mmap(-1, size)  # the heap may hold pages from before
    for page in range(0, size, mmap.PAGESIZE):
        held[page] = 1
    monkeypatch.setattr(resources.sys, "platform", system)
    assert resources.resident_bytes() - before == pytest.approx(size, rel=0.2)
    monkeypatch.undo()
    assert resources.peak_resident_bytes() >= 0.95 * resources.resident_bytes() >= size
    held.close()


def test_peak_where_there_is_no_proc(monkeypatch) -> None:
    usage = type("Usage", (), {"ru_maxrss": 5000})()
    monkeypatch.setattr(resources.resource, "getrusage", lambda who: usage)
    for system, expected in (("darwin", 5000), ("freebsd", 5_120_000)):
        monkeypatch.setattr(resources.sys, "platform", system)
        assert resources.peak_resident_bytes() == expected

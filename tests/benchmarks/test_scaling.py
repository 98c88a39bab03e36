"""Scaling where processes cannot be kept apart."""

import os
import sys

import pytest

from benchmarks import scaling


def test_it_says_that_it_needs_linux(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling"])
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(SystemExit, match="a core of its own, which macOS does not offer; use Linux"):
        scaling.main()

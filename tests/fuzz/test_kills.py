"""Runs killed at random instants and resumed end as an uninterrupted one: three kills, a hundred in `make fuzz`."""

import os

import pytest

from tests.fuzz.kills import KINDS, attack

KILLS = int(os.environ.get("FUZZ_EXAMPLES", "30")) // 10

pytestmark = pytest.mark.slow


def test_killed_runs_resume_to_the_same_end(tmp_path) -> None:
    kinds = KINDS if KILLS > 3 else KINDS[:1]
    assert attack(tmp_path, KILLS, kinds, seed=0).total() == KILLS

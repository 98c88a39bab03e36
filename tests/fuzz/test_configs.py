"""Mutated configs and packs are accepted, or refused by name: no other error, no abort, no hang, no gigabytes."""

import sys

import pytest

from tests.fuzz.attack_configs import KINDS
from tests.fuzz.run import require_results, together

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by /proc")]


@pytest.mark.parametrize("kinds", together(KINDS), ids=",".join)
def test_mutations(kinds: list[str]) -> None:
    require_results("tests.fuzz.attack_configs", kinds, ("accepted", "refused"))

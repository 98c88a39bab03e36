"""Damaged files are read right, or refused by name: no other error, no abort, no hang, no gigabytes."""

import pytest

from tests.fuzz.attack import KINDS
from tests.fuzz.run import require_results, together

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kinds", together(KINDS), ids=",".join)
def test_damaged_files(kinds: list[str]) -> None:
    require_results("tests.fuzz.attack", kinds, ("right", "refused"))

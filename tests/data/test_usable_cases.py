"""Which cases stay, and what is said of the others."""

from pathlib import Path

import pytest

from data.files.errors import FileProblem
from data.layouts.cases import Case
from data.prepare.case_checks import Problem
from data.usable_cases import Roster

CASES = [Case(name, (Path(f"{name}.nii"),)) for name in "abcd"]


def make_roster(on_error="skip"):
    roster = Roster(CASES, on_error, "data.root=here")
    roster.set_splits({"train": ["b", "a"], "val": ["c"], "test": ["d"]})
    return roster


def work(case):
    if case.id in "bc":
        raise FileProblem(case.images[0], "truncated", "fetch it again")
    return case.id.upper()


def test_map_tries_every_case_and_skips_the_bad_ones():
    roster, steps = make_roster(), []
    assert roster.map(work, "abcd", 1, lambda done, total: steps.append((done, total))) == {"a": "A", "d": "D"}
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert roster.splits == {"train": ["a"], "val": [], "test": ["d"]}
    assert list(roster.cases) == ["a", "d"]
    assert roster.skipped == [(name, f"{name}.nii", "truncated; fetch it again") for name in "bc"]


def test_map_stops_with_all_of_them():
    with pytest.raises(ValueError, match=r"(?s)here: 2 of 4 cases .*  b\.nii: truncated; fetch.*  c\.nii: truncated"):
        make_roster("stop").map(work, "abcd", 1)


def test_other_errors_are_ours_and_pass():
    with pytest.raises(ZeroDivisionError):
        make_roster().map(lambda case: 1 // 0, "abcd", 1)


def test_splits_keep_their_order_and_refuse_strangers():
    roster = make_roster()
    assert roster.splits["train"] == ["b", "a"]
    with pytest.raises(ValueError, match=r"split val: data\.root=here does not hold x, y \(2 of 3 cases\)"):
        roster.set_splits({"train": ["a"], "val": ["x", "c", "y"]})


def test_no_training_case_left():
    roster = make_roster()
    with pytest.raises(ValueError, match="no training case is left after skipping 2 bad ones"):
        roster.reject([Problem(name, Path(name), "bad") for name in "ab"])

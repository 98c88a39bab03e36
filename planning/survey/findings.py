"""What is worth checking in a data set although each of its cases can be used."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data.layouts.cases import some
from planning.survey.classes import Classes
from planning.survey.facts import Facts, Finding, Kind, ids_of
from planning.survey.label_volumes import LabelVolumes
from planning.survey.shortcuts import find_shortcuts

Target = LabelVolumes | Classes


def find_all(cases: Sequence[Any], kind: Kind, target: Target) -> Iterator[Finding]:
    """Find duplicates, empty contents, odd labels, groups that leak, differences among the cases, and shortcuts."""
    yield from _find_copies(cases, kind, target)
    yield from (Finding(text, (facts.case.id,)) for facts in cases for text in facts.oddities())
    yield from target.find_oddities(cases)
    yield from _find_leaks(cases)
    yield from kind.find_differences(cases)
    yield from find_shortcuts(cases, kind)


def _find_copies(cases: Sequence[Any], kind: Kind, target: Target) -> Iterator[Finding]:
    for copies in _together(cases, lambda facts: facts.digest).values():
        if len(copies) < 2:
            continue
        splits, groups = _splits(copies), sorted({facts.case.group for facts in copies if facts.case.group})
        where = ""
        if len(splits) > 1:
            where = f", in the splits {' and '.join(splits)}"
        elif len(groups) > 1:
            where = f", in the groups {some(groups)}: one may train and the other validate"
        said, advice = target.compare(copies)
        yield Finding(f"the same {kind.contents}{said}{where}{advice}", ids_of(copies))


def _find_leaks(cases: Sequence[Facts]) -> Iterator[Finding]:
    """Find groups with cases in several splits, where the source gives both."""
    for group, members in _together(cases, lambda facts: facts.case.split and facts.case.group).items():
        if len(splits := _splits(members)) > 1:
            text = f"group {group} leaks: it is in the splits {' and '.join(splits)}; keep a group in one split"
            yield Finding(text, ids_of(members))


def _together(cases: Sequence[Any], key: Callable[[Any], str | None]) -> dict[str, list[Any]]:
    """Return the cases by key, without those whose key is empty."""
    found: dict[str, list[Any]] = defaultdict(list)
    for facts in cases:
        if name := key(facts):
            found[name].append(facts)
    return found


def _splits(cases: Sequence[Facts]) -> list[str]:
    return sorted({facts.case.split for facts in cases if facts.case.split})

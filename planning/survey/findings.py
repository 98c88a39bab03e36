"""What is worth a look in a data set although each case by itself can be used."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from data.layouts.cases import some
from planning.survey.classes import Classes
from planning.survey.facts import Facts, Input, Remark, ids_of
from planning.survey.label_volumes import LabelVolumes
from planning.survey.shortcuts import find_shortcuts

Target = LabelVolumes | Classes


def find_warnings(cases: Sequence[Any], kind: Input, target: Target) -> list[Remark]:
    """Duplicates, contents without information, oddities of labels, groups that leak, mixed forms, and shortcuts."""
    return [
        *_find_copies(cases, kind, target),
        *(Remark(text, (facts.case.id,)) for facts in cases for text in kind.odd(facts)),
        *target.warnings(cases),
        *_find_leaks(cases),
        *kind.warnings(cases),
        *find_shortcuts(cases, kind),
    ]


def _find_copies(cases: Sequence[Any], kind: Input, target: Target) -> list[Remark]:
    same: dict[str, list[Any]] = defaultdict(list)
    for facts in cases:
        if facts.digest:
            same[facts.digest].append(facts)
    remarks = []
    for copies in (copies for copies in same.values() if len(copies) > 1):
        splits = sorted({facts.case.split for facts in copies if facts.case.split})
        groups = sorted({facts.case.group for facts in copies if facts.case.group})
        where = ""
        if len(splits) > 1:
            where = f", in the splits {' and '.join(splits)}"
        elif len(groups) > 1:
            where = f", in the groups {some(groups)}: one may train and one validate"
        said, advice = target.conflict(copies)
        remarks.append(Remark(f"the same {kind.contents}{said}{where}{advice}", ids_of(copies)))
    return remarks


def _find_leaks(cases: Sequence[Facts]) -> list[Remark]:
    """Groups with cases in more than one split, where the source gives both."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for facts in cases:
        if facts.case.group is not None and facts.case.split is not None:
            groups[facts.case.group].append(facts)
    remarks = []
    for group, members in groups.items():
        splits = sorted({str(facts.case.split) for facts in members})
        if len(splits) > 1:
            text = f"group {group} leaks: it is in the splits {' and '.join(splits)}; keep a group in one split"
            remarks.append(Remark(text, ids_of(members)))
    return remarks

"""What is worth a look in a data set although each case by itself can be used."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.layouts.cases import some
from planning.survey.case_summary import CaseFacts
from planning.survey.clip_summary import Facts

SPACING_TOLERANCE = 0.01  # relative: scanners and headers round


@dataclass(frozen=True)
class Remark:
    """One line on the cases that it names, or on the data set; `brief` is what stands beside each of them,
    or, of the data set, what a result is to be set against."""

    text: str
    case_ids: tuple[str, ...] = ()
    brief: str = ""

    def __str__(self) -> str:
        return f"{some(self.case_ids)}: {self.text}" if self.case_ids else self.text


def find_remarks(
    cases: Sequence[CaseFacts], class_names: Sequence[str], named: bool, ignore_label: int | None = None
) -> list[Remark]:
    """Duplicates, constant volumes, labels and classes without a voxel, mixed grids, and groups that leak.

    `named` says whether the class names come from the source, so that all of them are expected to occur.
    """
    return [
        *_duplicates(cases),
        *find_constant(cases),
        *_empty_labels(cases, ignore_label),
        *(_absent_classes(cases, class_names) if named else _gaps(cases, ignore_label)),
        *find_orientations(cases),
        *find_spacings(cases),
        *find_leaks(cases),
    ]


def _duplicates(cases: Sequence[CaseFacts]) -> list[Remark]:
    same: dict[str, list[CaseFacts]] = defaultdict(list)
    for facts in cases:
        if facts.digest:
            same[facts.digest].append(facts)
    remarks = []
    for copies in same.values():
        if len(copies) > 1:
            labels = "" if all(facts.labels == copies[0].labels for facts in copies) else ", with different labels"
            splits = sorted({facts.case.split for facts in copies if facts.case.split})
            leak = f", in the splits {' and '.join(splits)}" if len(splits) > 1 else ""
            remarks.append(Remark(f"the same voxels{labels}{leak}; keep one of them", _ids(copies)))
    return remarks


def find_constant(cases: Sequence[CaseFacts]) -> list[Remark]:
    return [
        Remark(f"channel {number} is constant ({channel.low:g}); is it the right file?", (facts.case.id,))
        for facts in cases
        for number, channel in enumerate(facts.voxels or ())
        if channel.low == channel.high
    ]


def _empty_labels(cases: Sequence[CaseFacts], ignore_label: int | None) -> list[Remark]:
    empty = [facts for facts in cases if facts.labels is not None and not set(facts.labels) - {0, ignore_label}]
    return [Remark("the label touches no voxel: all are background", (facts.case.id,)) for facts in empty]


def _absent_classes(cases: Sequence[CaseFacts], class_names: Sequence[str]) -> list[Remark]:
    found = {value for facts in cases for value in facts.labels or {}}
    if not found:
        return []
    return [
        Remark(f"no label has a voxel of class {value} ({name})")
        for value, name in enumerate(class_names)
        if value and value not in found
    ]


def _gaps(cases: Sequence[CaseFacts], ignore_label: int | None) -> list[Remark]:
    values = sorted({value for facts in cases for value in facts.labels or {}} - {ignore_label})
    if not values or (values == list(range(values[0], values[-1] + 1)) and values[0] in (0, 1)):
        return []
    return [Remark(f"label values {some(values)}: number the classes 1, 2, 3 … without gaps, 0 is the background")]


def find_orientations(cases: Sequence[CaseFacts]) -> list[Remark]:
    readable = [facts for facts in cases if facts.grid is not None]
    counts = Counter(facts.orientation for facts in readable).most_common()
    if len(counts) < 2:
        return []
    said = ", ".join(f"{orientation} {count}" for orientation, count in counts)
    odd = [facts for facts in readable if facts.orientation != counts[0][0]]
    text = f"mixed orientations ({said}): all are read as RAS+, so see that these headers are true"
    return [Remark(text, _ids(odd), "other cases are oriented otherwise")]


def find_spacings(cases: Sequence[CaseFacts]) -> list[Remark]:
    readable = [facts for facts in cases if facts.grid is not None]
    if not readable:
        return []
    spacings = np.array([facts.spacing_mm for facts in readable])  # (cases, 3)
    usual = np.median(spacings, axis=0)
    odd = (np.abs(spacings / usual - 1) > SPACING_TOLERANCE).any(axis=1)
    if not odd.any():
        return []
    axes = zip("DHW", spacings.min(axis=0), spacings.max(axis=0), strict=True)
    said = ", ".join(
        f"{axis} {low:.3g}–{high:.3g} mm" for axis, low, high in axes if high > low * (1 + SPACING_TOLERANCE)
    )
    ids = _ids([facts for facts, is_odd in zip(readable, odd, strict=True) if is_odd])
    middle = "×".join(f"{mm:.3g}" for mm in usual)
    text = f"mixed spacings ({said}): set data.spacing_mm, so that all are resampled to one"
    return [Remark(text, ids, f"the median spacing is {middle} mm")]


def find_leaks(cases: Sequence[Facts]) -> list[Remark]:
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
            remarks.append(Remark(text, _ids(members)))
    return remarks


def _ids(cases: Sequence[Facts]) -> tuple[str, ...]:
    return tuple(facts.case.id for facts in cases)

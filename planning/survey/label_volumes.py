"""Cases whose labels are volumes: their classes, what is told of them, and what is worth a look."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.schema.data import DataConfig
from data.layouts.cases import some
from planning.survey.facts import ClassTable, Input, Remark
from planning.survey.volumes import VolumeFacts


@dataclass(frozen=True)
class LabelVolumes:
    """Classes by label value, background first; where not `named`, made up from the label values found.

    A *target*, as `Classes` is: the two have the same attributes.
    """

    class_names: tuple[str, ...]
    named: bool
    ignore_label: int | None

    task = "segmentation"
    unnamed = "made up from the label values found"
    view = "The axial slice with the most labelled voxels, or the middle one. Anterior is up, left is left."

    def layout(self, data: DataConfig, kind: Input) -> str:
        """The layout in words."""
        return data.source

    def groups(self, sizes: Sequence[int]) -> str:
        """How many groups there are, by their sizes."""
        return str(len(sizes))

    def class_table(self, cases: Sequence[VolumeFacts], percent: Callable[[float], str]) -> ClassTable:
        """Every class, and every label value without one, with its share of all voxels and its cases, by value."""
        voxels = count_voxels(cases)
        total = sum(voxels.values())
        names = dict(enumerate(self.class_names))
        if self.ignore_label is not None:
            names[self.ignore_label] = "(ignored)"
        rows = [
            (
                value,
                names.get(value, "(no class)"),
                (percent(voxels[value] / total), str(sum(value in (facts.labels or {}) for facts in cases))),
            )
            for value in sorted({*names, *voxels} if voxels else ())
        ]
        return ClassTable("label", (f"{'voxels':>11}", f"{'cases':>6}"), rows)

    def conflict(self, copies: Sequence[VolumeFacts]) -> tuple[str, str]:
        """Whether cases of the same contents are labelled otherwise, and what to do with them."""
        differ = any(facts.labels != copies[0].labels for facts in copies)
        return ", with different labels" if differ else "", "; keep one of them"

    def warnings(self, cases: Sequence[VolumeFacts]) -> list[Remark]:
        """Labels and classes without a voxel."""
        ignored = {self.ignore_label}
        empty = [facts for facts in cases if facts.labels is not None and not set(facts.labels) - {0} - ignored]
        remarks = [Remark("the label touches no voxel: all are background", (facts.case.id,)) for facts in empty]
        found = set(count_voxels(cases))
        values = sorted(found - ignored)
        if self.named and found:
            absent = [(value, name) for value, name in enumerate(self.class_names) if value and value not in found]
            remarks += [Remark(f"no label has a voxel of class {value} ({name})") for value, name in absent]
        elif values and not self.named and (values != [*range(values[0], values[-1] + 1)] or values[0] not in (0, 1)):
            advice = "number the classes 1, 2, 3 … without gaps, 0 is the background"
            remarks.append(Remark(f"label values {some(values)}: {advice}"))
        return remarks


def count_voxels(cases: Sequence[VolumeFacts]) -> Counter[int]:
    """Voxels by label value, over all cases."""
    total: Counter[int] = Counter()
    for facts in cases:
        total.update(facts.labels or {})
    return total


def make_up_names(cases: Sequence[VolumeFacts], ignore_label: int | None) -> tuple[str, ...]:
    """Names for the label values found, 0 up to the highest one: no more than those found, twice over."""
    values = set(count_voxels(cases)) - {ignore_label}
    highest = max(values, default=0)
    if min(values, default=0) < 0 or highest > 2 * len(values):
        return ()
    return ("background", *(f"class_{value}" for value in range(1, highest + 1)))

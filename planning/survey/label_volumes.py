"""Cases whose labels are volumes: their classes, and what is worth checking in the labels."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from configs.regions import held
from configs.schema.data import DataConfig
from data.files.volumes import suggest_label_map
from data.layouts.cases import some
from planning.survey.facts import ClassTable, Finding, Kind
from planning.survey.volumes import VolumeFacts


@dataclass(frozen=True)
class LabelVolumes:
    """Classes by label value, background first; where not `named`, made up from the label values found. Or `regions`.

    A *target*, as `Classes` is: the two have the same attributes.
    """

    class_names: tuple[str, ...]
    named: bool
    ignore_label: int | None
    regions: Mapping[str, Sequence[int]] | None = None  # of these names, the label values that each holds

    task = "segmentation"
    unnamed = "made up from the label values found"
    view = "The axial slice with the most labelled voxels, or the middle one. Anterior is up, left is left."

    def describe_layout(self, data: DataConfig, kind: Kind) -> str:
        if data.source != "folders":
            return data.source
        images = data.images if isinstance(data.images, str) else ", ".join(data.images)
        return f"folders: images {images}, labels {data.labels}"

    def describe_groups(self, sizes: Sequence[int]) -> str:
        return str(len(sizes))

    def class_table(self, cases: Sequence[VolumeFacts], percent: Callable[[float], str]) -> ClassTable:
        """Return each class, and each label value without one, with its share of the voxels and its cases."""
        voxels = count_voxels(cases)
        total = sum(voxels.values())
        names = dict(enumerate(self.class_names)) if self.regions is None else _names_of_values(self.regions)
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

    def compare(self, copies: Sequence[VolumeFacts]) -> tuple[str, str]:
        """Return how the labels of cases with the same contents differ, and what to do with the cases."""
        differ = any(facts.labels != copies[0].labels for facts in copies)
        return ", with different labels" if differ else "", "; keep one of them"

    def find_oddities(self, cases: Sequence[VolumeFacts]) -> Iterator[Finding]:
        """Find labels and classes without a voxel, and values with gaps."""
        for facts in cases:
            if facts.labels is not None and not set(facts.labels) - {0, self.ignore_label}:
                yield Finding("the label is empty: all voxels are background", (facts.case.id,))
        weak = {value for facts in cases for value in facts.train_labels or ()} - {self.ignore_label}
        if weak and (without := [facts.case.id for facts in cases if facts.train_labels is None]):
            yield Finding(f"no label to train on for {len(without)} cases: {some(without)}; they can validate and test")
        known = set(range(len(self.class_names))) if self.regions is None else {0, *held(self.regions)}
        if unknown := sorted(weak - known):
            advice = f"if it marks voxels without a label, set loss.ignore_label={unknown[-1]}"
            yield Finding(f"labels to train on hold {some(unknown)}, which is no class: {advice}")
        found = set(count_voxels(cases))
        values = sorted(found - {self.ignore_label})
        if self.regions is not None and found:
            made_up = any(len(facts.case.label_files) > 1 for facts in cases)  # values of files, one a region
            for name, inside in self.regions.items():
                if not found & set(inside):
                    yield Finding(f"no label has a voxel of region {name}")
                elif (absent := sorted(set(inside) - found)) and not made_up:
                    yield Finding(f"no label has a voxel of value {some(absent)}, which data.regions puts in {name}")
        elif self.named and found:
            for value, name in enumerate(self.class_names):
                if value and value not in found:
                    yield Finding(f"no label has a voxel of class {value} ({name})")
        elif values and not self.named and (values != [*range(values[0], values[-1] + 1)] or values[0] not in (0, 1)):
            advice = "classes are numbered 1, 2, 3 … without gaps, and 0 is the background"
            yield Finding(f"label values {some(values)}: {advice}; {advise_map(values)}")


def _names_of_values(regions: Mapping[str, Sequence[int]]) -> dict[int, str]:
    """Return the regions that each label value lies in, in words."""
    named = {value: " + ".join(name for name in regions if value in regions[name]) for value in held(regions)}
    return {0: "background", **named}


def count_voxels(cases: Sequence[VolumeFacts]) -> Counter[int]:
    """Return the voxels of each label value, over all cases."""
    total: Counter[int] = Counter()
    for facts in cases:
        total.update(facts.labels or {})
    return total


def advise_map(values: Iterable[int]) -> str:
    """Return what to set so that these label values are numbered from 1 without gaps, 0 being the background."""
    numbers = {value: number for number, value in enumerate(sorted(value for value in values if value > 0), 1)}
    wrong = [value for value in values if value != numbers.get(value, 0)]
    mapped = suggest_label_map(wrong, [numbers[value] for value in sorted(wrong) if value in numbers])
    return f"set {mapped}" if mapped else "number them anew"


def make_up_names(cases: Sequence[VolumeFacts], ignore_label: int | None) -> tuple[str, ...]:
    """Return names for the label values 0 to the highest; none where values are negative or mostly gaps."""
    values = set(count_voxels(cases)) - {ignore_label}
    highest = max(values, default=0)
    if min(values, default=0) < 0 or highest > 2 * len(values):
        return ()
    return ("background", *(f"class_{value}" for value in range(1, highest + 1)))

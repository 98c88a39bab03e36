"""Cases with one class or several: how many there are of each, and what is worth checking in them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.schema.data import DataConfig
from data.layouts.cases import only_file, some
from data.layouts.table import read_table
from planning.layout.class_layouts import class_folders, is_clip, is_volume
from planning.survey.facts import ClassTable, Facts, Finding, Kind

TINY = 10  # cases: of a class with fewer, folds and scores are not reliable
IMBALANCE = 3.0  # of the commonest class over the rarest


@dataclass(frozen=True)
class Classes:
    """Classes by number, one a case, or with `multi_label` any number. A *target*, as `LabelVolumes` is."""

    class_names: tuple[str, ...]
    multi_label: bool

    task = "classification"
    unnamed = "the numbers found"
    view = ""  # that of the kind

    @property
    def named(self) -> bool:
        """Whether the classes have names, not numbers alone."""
        return not all(name.isdecimal() for name in self.class_names)

    def describe_layout(self, data: DataConfig, kind: Kind) -> str:
        said = f"{data.source}, {kind.name}"
        if data.source == "csv" and (folders := class_folders(_folder(data))):
            names = some(folder.name for folder in folders)
            return (
                f"{said}: the table {only_file(data.root, '.csv').name}, preferred to the folders beside it ({names})"
            )
        return said

    def describe_groups(self, sizes: Sequence[int]) -> str:
        return f"{len(sizes)}, of {min(sizes)} to {max(sizes)} cases"

    def counts(self, cases: Sequence[Facts], split: str | None = None) -> list[int]:
        """Return the cases of each class, in one of the source's splits or over all."""
        found = Counter(number for facts in cases if split in (None, facts.case.split) for number in facts.classes)
        return [found[number] for number in range(len(self.class_names))]

    def class_table(self, cases: Sequence[Facts], percent: Callable[[float], str]) -> ClassTable:
        """Return each class with its cases, and those in each of the source's splits."""
        splits = [name for name in ("train", "val", "test") if any(facts.case.split == name for facts in cases)]
        counts, *others = (self.counts(cases, split) for split in (None, *splits))
        total = max(1, sum(counts))
        rows = [
            (None, name, (f"{counts[n]} ({100 * counts[n] / total:.0f} %)", *(str(other[n]) for other in others)))
            for n, name in enumerate(self.class_names)
        ]
        return ClassTable("class", tuple(f"{name:>11}" for name in ("cases", *splits)), rows)

    def compare(self, copies: Sequence[Facts]) -> tuple[str, str]:
        """Return how the labels of cases with the same contents differ, and what to do with the cases."""
        labels = dict.fromkeys(facts.classes for facts in copies)
        if len(labels) < 2:
            return "", "; keep one of them"
        said = " and ".join(" + ".join(self.class_names[n] for n in label) or "none" for label in labels)
        return f" labelled {said}", ": a label is wrong; correct it, and keep one of them"

    def find_oddities(self, cases: Sequence[Facts]) -> Iterator[Finding]:
        """Find classes that are rare, missing, or missing in a split, and cases without one."""
        names, counts = self.class_names, Counter(number for facts in cases for number in facts.classes)
        if absent := [name for number, name in enumerate(names) if not counts[number]]:
            yield Finding(f"no case of {some(absent)}")
        if tiny := [f"{name} ({counts[n]})" for n, name in enumerate(names) if 0 < counts[n] < TINY]:
            yield Finding(f"classes of fewer than {TINY} cases: {some(tiny)}; folds and scores will not be reliable")
        common, rare = max(counts, key=counts.__getitem__, default=0), min(counts, key=counts.__getitem__, default=0)
        if counts[common] > IMBALANCE * counts[rare]:
            yield Finding(
                f"imbalanced classes: {counts[common]} cases of {names[common]!r}, {counts[rare]} of "
                f"{names[rare]!r}; set data.balance=classes or loss.class_weights=balanced, and judge by AUC"
            )
        splits: dict[str, set[int]] = defaultdict(set)
        for facts in cases:
            if facts.case.split and facts.classes:
                splits[facts.case.split].update(facts.classes)
        for split, found in splits.items():
            if lacking := [name for number, name in enumerate(names) if number not in found and counts[number]]:
                yield Finding(f"split {split} has no case of {some(lacking)}")
        if unlabelled := [facts.case.id for facts in cases if facts.case.label is None]:
            yield Finding(f"no label for {len(unlabelled)} cases: {some(unlabelled)}")


def find_ignored_files(data: DataConfig, cases: Sequence[Facts]) -> Iterator[Finding]:
    """Find what lies beside the files that were read: files that no row names, or a table with groups or splits."""
    folder = _folder(data)
    if data.source == "csv":
        listed = {path.resolve() for facts in cases for path in facts.case.images}
        there = [path for inner in class_folders(folder) for path in sorted(inner.iterdir())]
        missing = [path for path in there if (is_clip(path) or is_volume(path)) and path.resolve() not in listed]
        if missing:
            names = some(str(path.relative_to(folder)) for path in missing)
            yield Finding(f"{len(missing)} files that the table does not list: {names}")
    elif data.source == "classes":
        for table in sorted(folder.glob("*.csv")):
            if what := _extra_columns(table):
                yield Finding(
                    f"{table} has a column of {what}, which data.source=classes ignores; with "
                    f"data.source=csv data.root={table} {what} are kept"
                )


def _extra_columns(table: Path) -> str:
    try:
        rows = read_table(DataConfig(source="csv", root=table)).rows
    except ValueError:
        return ""
    kinds = (("groups", any(row.group for row in rows)), ("splits", any(row.split for row in rows)))
    return " and ".join(kind for kind, there in kinds if there)


def _folder(data: DataConfig) -> Path:
    """Return the folder that holds the cases."""
    return data.root.parent if data.source == "csv" and data.root.is_file() else data.root

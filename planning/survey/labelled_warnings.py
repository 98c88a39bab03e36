"""What is worth a look among cases with classes: contradictions, rare classes, leaks, odd clips, shortcuts."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.schema.data import DataConfig
from data.layouts.cases import some
from data.layouts.table import read_table
from planning.survey.case_summary import CaseFacts
from planning.survey.clip_summary import ClipFacts, Facts, classes_of
from planning.survey.layout_classes import class_folders, is_clip, is_volume
from planning.survey.shortcuts import find_shortcuts
from planning.survey.warnings import Remark, find_constant, find_leaks, find_orientations, find_spacings

TINY = 10  # cases: of a class with fewer, folds and scores tell little
IMBALANCE = 3.0  # of the commonest class over the rarest
SHORT = 0.5  # of the usual length


def find_labelled_remarks(
    data: DataConfig, volumes: Sequence[CaseFacts], clips: Sequence[ClipFacts], class_names: Sequence[str]
) -> list[Remark]:
    """All of them; of `volumes` and `clips` one is empty."""
    cases: list[Facts] = [*volumes, *clips]
    has_grid = data.source != "medmnist"
    return [
        *_ignored_files(data, cases),
        *_duplicates(cases, class_names),
        *find_constant(volumes),
        *_featureless(clips),
        *_classes(cases, class_names),
        *find_leaks(cases),
        *(find_orientations(volumes) if has_grid else []),
        *(find_spacings(volumes) if has_grid else []),
        *_lengths(clips),
        *_rates(clips),
        *_sizes(clips),
        *find_shortcuts(volumes if has_grid else [], clips),
    ]


def _ignored_files(data: DataConfig, cases: Sequence[Facts]) -> list[Remark]:
    """What lies beside the files that were read: files that no row names, or a table with groups or splits."""
    folder = data.root.parent if data.source == "csv" and data.root.is_file() else data.root
    if data.source == "csv":
        listed = {path.resolve() for facts in cases for path in facts.case.images}
        there = [path for inner in class_folders(folder) for path in sorted(inner.iterdir())]
        missing = [path for path in there if (is_clip(path) or is_volume(path)) and path.resolve() not in listed]
        names = some(str(path.relative_to(folder)) for path in missing)
        return [Remark(f"{len(missing)} files that the table does not list: {names}")] if missing else []
    if data.source == "classes":
        return [
            Remark(
                f"{table} has a column of {what}, which data.source=classes ignores; with "
                f"data.source=csv data.root={table} {what} are kept"
            )
            for table in sorted(folder.glob("*.csv"))
            if (what := _extra_columns(table))
        ]
    return []


def _extra_columns(table: Path) -> str:
    try:
        rows = read_table(DataConfig(source="csv", root=table)).rows
    except ValueError:
        return ""
    kinds = (("groups", any(row.group for row in rows)), ("splits", any(row.split for row in rows)))
    return " and ".join(kind for kind, there in kinds if there)


def _duplicates(cases: Sequence[Facts], class_names: Sequence[str]) -> list[Remark]:
    same: dict[str, list[Facts]] = defaultdict(list)
    for facts in cases:
        if facts.digest:
            same[facts.digest].append(facts)
    remarks = []
    for copies in (copies for copies in same.values() if len(copies) > 1):
        what = "frames" if isinstance(copies[0], ClipFacts) else "voxels"
        ids = tuple(facts.case.id for facts in copies)
        labels = {classes_of(facts.case): facts.case.id for facts in copies}
        splits = sorted({str(facts.case.split) for facts in copies if facts.case.split})
        groups = sorted({str(facts.case.group) for facts in copies if facts.case.group})
        leak = f", in the splits {' and '.join(splits)}" if len(splits) > 1 else ""
        if not leak and len(groups) > 1:
            leak = f", in the groups {some(groups)}: one may train and one validate"
        if len(labels) > 1:
            said = " and ".join(" + ".join(class_names[n] for n in label) or "none" for label in labels)
            text = f"the same {what} labelled {said}{leak}: a label is wrong; correct it, and keep one of them"
        else:
            text = f"the same {what}{leak}; keep one of them"
        remarks.append(Remark(text, ids))
    return remarks


def _featureless(clips: Sequence[ClipFacts]) -> list[Remark]:
    remarks = []
    for facts in clips:
        if not facts.digest:
            continue
        if facts.constant:
            remarks.append(Remark("every frame is of one colour; is it the right file?", (facts.case.id,)))
        elif facts.still:
            text = "a single frame" if facts.num_frames == 1 else "nothing moves: frames differ by no more than noise"
            remarks.append(Remark(text, (facts.case.id,)))
    return remarks


def _classes(cases: Sequence[Facts], class_names: Sequence[str]) -> list[Remark]:
    """Classes that are rare, missing, or missing in a split, and cases without one."""
    counts = Counter(number for facts in cases for number in classes_of(facts.case))
    remarks = []
    absent = [name for number, name in enumerate(class_names) if not counts[number]]
    if absent:
        remarks.append(Remark(f"no case of {some(absent)}"))
    tiny = [f"{name} ({counts[n]})" for n, name in enumerate(class_names) if 0 < counts[n] < TINY]
    if tiny:
        remarks.append(Remark(f"classes of fewer than {TINY} cases: {some(tiny)}; folds and scores will tell little"))
    common, rare = max(counts, key=counts.__getitem__, default=0), min(counts, key=counts.__getitem__, default=0)
    if counts[common] > IMBALANCE * counts[rare]:
        remarks.append(
            Remark(
                f"imbalanced classes: {counts[common]} cases of {class_names[common]!r}, {counts[rare]} of "
                f"{class_names[rare]!r}; set data.balance=classes or loss.class_weights=balanced, and judge by AUC"
            )
        )
    splits: dict[str, set[int]] = defaultdict(set)
    for facts in cases:
        if facts.case.split and classes_of(facts.case):
            splits[facts.case.split].update(classes_of(facts.case))
    for split, found in splits.items():
        lacking = [name for number, name in enumerate(class_names) if number not in found and counts[number]]
        if lacking:
            remarks.append(Remark(f"split {split} has no case of {some(lacking)}"))
    unlabelled = [facts.case.id for facts in cases if facts.case.label is None]
    if unlabelled:
        remarks.append(Remark(f"no label for {len(unlabelled)} cases: {some(unlabelled)}"))
    return remarks


def _lengths(clips: Sequence[ClipFacts]) -> list[Remark]:
    read = [facts for facts in clips if facts.digest]
    usual = float(np.median([facts.duration_s for facts in read])) if read else 0.0
    return [
        Remark(
            f"lasts {facts.duration_s:.2g} s, less than half of the usual {usual:.2g} s: data.clip.short decides how "
            "it is filled up",
            (facts.case.id,),
        )
        for facts in read
        if facts.duration_s < SHORT * usual
    ]


def _rates(clips: Sequence[ClipFacts]) -> list[Remark]:
    rates = [facts.frame_rate for facts in clips if facts.frame_rate]
    remarks = []
    if rates and max(rates) > 1.1 * min(rates):
        text = f"mixed frame rates ({min(rates):.3g}–{max(rates):.3g} a second, median {np.median(rates):.3g})"
        remarks.append(Remark(f"{text}: set data.clip.frame_rate, so that all are read at one"))
    if variable := tuple(facts.case.id for facts in clips if facts.variable):
        text = "variable frame rate: set data.clip.frame_rate, so that frames are taken by their times"
        remarks.append(Remark(text, variable, "variable frame rate"))
    return remarks


def _sizes(clips: Sequence[ClipFacts]) -> list[Remark]:
    sizes = Counter((facts.width, facts.height) for facts in clips if facts.width)
    shapes = [width / height for width, height in sizes]
    if not sizes or max(shapes) <= 1.1 * min(shapes):
        return []
    text = f"mixed shapes of frames (width over height {min(shapes):.3g}–{max(shapes):.3g}, {len(sizes)} sizes)"
    return [Remark(f"{text}: a crop shows more of some than of others; data.clip.crops=3 sees all of the long side")]

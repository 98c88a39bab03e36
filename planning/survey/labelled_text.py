"""A survey of cases with classes in words: the tables that the terminal and the page share."""

from collections import Counter

import numpy as np

from data.layouts.cases import some
from planning.survey.clip_summary import ClipFacts
from planning.survey.format import axes, counted, intensities
from planning.survey.labelled import LabelledSurvey
from planning.survey.layout_classes import class_folders


def labelled_table(survey: LabelledSurvey) -> list[tuple[str, str]]:
    """(what, value) rows on the whole data set; shapes are along (D, H, W), which in clips is time, row, column."""
    cases = survey.labelled
    labelled = sum(case.label is not None for case in cases)
    bad = len({problem.case_id for problem in survey.problems})
    rows = [
        ("layout", _layout(survey)),
        ("cases", f"{len(cases)}, {labelled} labelled, {bad} that cannot be used"),
    ]
    if splits := Counter(case.split for case in cases if case.split):
        rows.append(("splits", counted(splits)))
    if groups := Counter(case.group for case in cases if case.group):
        sizes = list(groups.values())
        rows.append(("groups", f"{len(groups)}, of {min(sizes)} to {max(sizes)} cases"))
    return rows + (_clip_rows(survey) if survey.config.data.clip is not None else _volume_rows(survey))


def split_table(survey: LabelledSurvey) -> list[tuple[str, ...]]:
    """A head and a row a class: its name, its cases, and those in each of the source's splits."""
    splits = [name for name in ("train", "val", "test") if any(case.split == name for case in survey.labelled)]
    columns = [survey.counts(), *(survey.counts(split) for split in splits)]
    total = max(1, sum(columns[0]))
    rows = [
        (name, f"{columns[0][n]} ({100 * columns[0][n] / total:.0f} %)", *(str(counts[n]) for counts in columns[1:]))
        for n, name in enumerate(survey.class_names)
    ]
    return [("", "cases", *splits), *rows]


def describe_clip(facts: ClipFacts) -> str:
    """A line on one clip: size, length, frame rate, codec."""
    if not facts.codec:
        return "no video that can be opened"
    size = f"{facts.width}×{facts.height}{', turned upright' if facts.turned else ''}"
    if not facts.num_frames:
        return f"{size}, {facts.codec}"
    rate = f"{facts.frame_rate:.3g} fps{' (variable)' if facts.variable else ''}"
    return f"{size}, {facts.num_frames} frames, {facts.duration_s:.3g} s, {rate}, {facts.codec}"


def _layout(survey: LabelledSurvey) -> str:
    data = survey.config.data
    kind = f"{data.source}, {'clips' if data.clip is not None else 'volumes'}"
    if data.source == "csv" and (folders := class_folders(data.root.parent if data.root.is_file() else data.root)):
        names = some(folder.name for folder in folders)
        return f"{kind}: the table {data.root.name}, preferred to the folders beside it ({names})"
    return kind


def _volume_rows(survey: LabelledSurvey) -> list[tuple[str, str]]:
    cases = [facts for facts in survey.volumes if facts.grid is not None]
    if not cases:
        return []
    rows = [
        ("channels", counted(Counter(facts.num_channels for facts in cases))),
        ("shape", axes([facts.shape for facts in cases], "voxels")),
    ]
    if survey.config.data.source != "medmnist":
        rows += [
            ("spacing", axes([facts.spacing_mm for facts in cases], "mm")),
            ("orientation", counted(Counter(facts.orientation for facts in cases))),
        ]
    rows.append(("stored as", counted(Counter(facts.dtype for facts in cases))))
    return rows + intensities(survey.volumes)


def _clip_rows(survey: LabelledSurvey) -> list[tuple[str, str]]:
    opened = [facts for facts in survey.clips if facts.codec]
    read = [facts for facts in opened if facts.num_frames]
    if not read:
        return []
    sizes = Counter(f"{facts.width}×{facts.height}" for facts in opened)
    shown = Counter(dict(sizes.most_common(6)))
    more = f" and {len(sizes) - 6} other sizes" if len(sizes) > 6 else ""
    turned, variable = sum(facts.turned for facts in opened), sum(facts.variable for facts in read)
    lengths, frames, rates = (
        [getattr(facts, key) for facts in read] for key in ("duration_s", "num_frames", "frame_rate")
    )
    grey = [facts for facts in read if facts.digest]
    return [
        ("container", counted(Counter(facts.container for facts in opened))),
        ("codec", counted(Counter(f"{facts.codec}, {facts.pixels}" for facts in opened))),
        ("frame size", f"{counted(shown)}{more} (width×height, upright)"),
        ("frame rate", f"{_span(rates)} a second, {variable} variable"),
        ("length", f"{_span(lengths)} s, {_span(frames)} frames"),
        ("rotation", f"{turned} turned upright by their tag"),
        ("intensity", f"{min(f.low for f in grey):.0f} … {max(f.high for f in grey):.0f} grey levels" if grey else "-"),
    ]


def _span(values: list[float]) -> str:
    low, middle, high = min(values), float(np.median(values)), max(values)
    same = f"{low:.3g}" == f"{high:.3g}"
    return f"{middle:.3g}" if same else f"{low:.3g}–{high:.3g} (median {middle:.3g})"

"""A survey in words: the lines and tables that the terminal and the page share."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data.survey.case_facts import CaseFacts
from data.survey.take import Survey


@dataclass(frozen=True)
class ClassShare:
    """How much of all labels one class takes."""

    value: int
    name: str
    share: float  # of the voxels of all labels
    num_cases: int  # whose label has a voxel of it


def facts_table(survey: Survey) -> list[tuple[str, str]]:
    """(what, value) rows on the whole data set; shapes and spacings are along (D, H, W) in RAS+."""
    cases, labelled = survey.readable, [facts for facts in survey.cases if facts.case.label is not None]
    bad = len({problem.case_id for problem in survey.problems})
    rows = [
        ("layout", survey.config.data.source),
        ("cases", ", ".join([f"{len(survey.cases)}", f"{len(labelled)} labelled", f"{bad} that cannot be used"])),
    ]
    splits = Counter(facts.case.split for facts in survey.cases if facts.case.split)
    groups = {facts.case.group for facts in survey.cases if facts.case.group}
    if splits:
        rows.append(("splits", _counted(splits)))
    if groups:
        rows.append(("groups", str(len(groups))))
    if cases:
        rows += [
            ("channels", _channels(survey)),
            ("shape", _axes([facts.shape for facts in cases], "voxels")),
            ("spacing", _axes([facts.spacing_mm for facts in cases], "mm")),
            ("orientation", _counted(Counter(facts.orientation for facts in cases))),
            ("stored as", _counted(Counter(facts.dtype for facts in cases))),
        ]
    if labels := Counter(facts.label_dtype for facts in cases if facts.label_dtype):
        rows.append(("labels as", _counted(labels)))
    return rows + _intensities(survey)


def class_table(survey: Survey) -> list[ClassShare]:
    """Every class, and every label value without one, with its share of all voxels, by value."""
    voxels = survey.label_voxels
    if not voxels:
        return []
    total = sum(voxels.values())
    names = dict(enumerate(survey.class_names))
    if survey.config.loss.ignore_label is not None:
        names[survey.config.loss.ignore_label] = "(ignored)"
    return [
        ClassShare(
            value,
            names.get(value, "(no class)"),
            voxels[value] / total,
            sum(value in (facts.labels or {}) for facts in survey.cases),
        )
        for value in sorted({*names, *voxels})
    ]


def describe_case(facts: CaseFacts) -> str:
    """A line on one case: shape, spacing, orientation, type and intensities."""
    if facts.grid is None:
        return "no header that can be read"
    parts = [
        f"{_times(facts.shape)} voxels",
        f"{_times(facts.spacing_mm)} mm",
        facts.orientation,
        facts.dtype,
    ]
    if facts.voxels:
        low, high = min(channel.low for channel in facts.voxels), max(channel.high for channel in facts.voxels)
        parts.append(f"{low:.4g} … {high:.4g}")
    return ", ".join(parts)


def survey_text(survey: Survey) -> str:
    """The whole survey for a terminal."""
    lines = [str(survey.config.data.root)]
    lines += [f"  {what:<12} {value}" for what, value in facts_table(survey)]
    if classes := class_table(survey):
        width = max(len(row.name) for row in classes)
        lines.append(f"  {'label':<12} {'':{width}}      voxels  cases")
        lines += [
            f"  {row.value:<12} {row.name:{width}} {_percent(row.share):>11} {row.num_cases:>6}" for row in classes
        ]
    if survey.problems:
        lines.append("problems (these cases cannot be used)")
        lines += [f"  {problem.case_id}: {problem.path}: {problem.reason}" for problem in survey.problems]
    if survey.remarks:
        lines.append("worth a look")
        lines += [f"  {remark}" for remark in survey.remarks]
    if not survey.problems and not survey.remarks:
        lines.append("no problems found")
    return "\n".join(lines)


def _channels(survey: Survey) -> str:
    counts = Counter(facts.num_channels for facts in survey.readable)
    names = f": {', '.join(survey.channel_names)}" if survey.channel_names else ""
    return _counted(counts) + names


def _intensities(survey: Survey) -> list[tuple[str, str]]:
    """A row for each channel: the range over all cases, and the usual range of one."""
    read = [facts.voxels for facts in survey.cases if facts.voxels]
    rows = []
    for number in range(min((len(voxels) for voxels in read), default=0)):
        channels = [voxels[number] for voxels in read]
        low, high = min(channel.low for channel in channels), max(channel.high for channel in channels)
        usual = [
            float(np.median([getattr(channel, key) for channel in channels]))
            for key in ("percentile_low", "mean", "percentile_high")
        ]
        value = (
            f"{low:.4g} … {high:.4g}; in the median case mean {usual[1]:.4g}, 99 % in {usual[0]:.4g} … {usual[2]:.4g}"
        )
        rows.append(("intensity" if number == 0 else f"  channel {number}", value))
    return rows


def _axes(values: Sequence[tuple[float, float, float]], unit: str) -> str:
    """Range and median along each axis, as in D 30–40 (35) × H 50 × W 36 voxels."""
    lows, middles, highs = np.min(values, axis=0), np.median(values, axis=0), np.max(values, axis=0)
    parts = []
    for axis, low, middle, high in zip("DHW", lows, middles, highs, strict=True):
        same = f"{low:.3g}" == f"{high:.3g}"
        parts.append(f"{axis} {middle:.3g}" if same else f"{axis} {low:.3g}–{high:.3g} (median {middle:.3g})")
    return f"{' × '.join(parts)} {unit}"


def _times(values: Iterable[float]) -> str:
    return "×".join(f"{value:.3g}" for value in values)


def _counted(counts: Counter) -> str:
    """The values with their counts, as in `RAS (30), LPS (2)`; a lone one by itself."""
    return ", ".join(f"{value} ({count})" if len(counts) > 1 else f"{value}" for value, count in counts.most_common())


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share >= 1e-4 or share == 0 else f"{100 * share:.1g} %"

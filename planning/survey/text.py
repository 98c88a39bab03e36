"""A survey in words: the lines and tables that the terminal and the page share."""

from collections import Counter
from dataclasses import dataclass

from planning.survey.case_summary import CaseFacts
from planning.survey.format import axes, counted, intensities, times
from planning.survey.labelled import LabelledSurvey
from planning.survey.labelled_text import labelled_table, split_table
from planning.survey.survey import Survey


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
        rows.append(("splits", counted(splits)))
    if groups:
        rows.append(("groups", str(len(groups))))
    if cases:
        rows += [
            ("channels", _channels(survey)),
            ("shape", axes([facts.shape for facts in cases], "voxels")),
            ("spacing", axes([facts.spacing_mm for facts in cases], "mm")),
            ("orientation", counted(Counter(facts.orientation for facts in cases))),
            ("stored as", counted(Counter(facts.dtype for facts in cases))),
        ]
    if labels := Counter(facts.label_dtype for facts in cases if facts.label_dtype):
        rows.append(("labels as", counted(labels)))
    return rows + intensities(survey.cases)


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
    parts = [f"{times(facts.shape)} voxels"]
    if facts.orientation:  # a row of an array has no place in space
        parts += [f"{times(facts.spacing_mm)} mm", facts.orientation]
    parts.append(facts.dtype)
    if facts.voxels:
        low, high = min(channel.low for channel in facts.voxels), max(channel.high for channel in facts.voxels)
        parts.append(f"{low:.4g} … {high:.4g}")
    return ", ".join(parts)


def survey_text(survey: Survey | LabelledSurvey) -> str:
    """The whole survey for a terminal."""
    lines = [str(survey.config.data.root)]
    if isinstance(survey, LabelledSurvey):
        lines += [f"  {what:<12} {value}" for what, value in labelled_table(survey)]
        head, *rows = [("class", *columns) for columns in split_table(survey)]
        width = max(len(row[1]) for row in (head, *rows))
        for row in (head, *rows):
            what = row[0] if row is head else ""
            lines.append(f"  {what:<12} {row[1]:{width}}" + "".join(f" {cell:>11}" for cell in row[2:]))
    else:
        lines += [f"  {what:<12} {value}" for what, value in facts_table(survey)]
        lines += _class_lines(survey)
    if survey.problems:
        lines.append("problems (these cases cannot be used)")
        lines += [f"  {problem.case_id}: {problem.path}: {problem.reason}" for problem in survey.problems]
    if survey.remarks:
        lines.append("worth a look")
        lines += [f"  {remark}" for remark in survey.remarks]
    if not survey.problems and not survey.remarks:
        lines.append("no problems found")
    return "\n".join(lines)


def _class_lines(survey: Survey) -> list[str]:
    classes = class_table(survey)
    if not classes:
        return []
    width = max(len(row.name) for row in classes)
    head = f"  {'label':<12} {'':{width}}      voxels  cases"
    return [
        head,
        *(f"  {row.value:<12} {row.name:{width}} {_percent(row.share):>11} {row.num_cases:>6}" for row in classes),
    ]


def _channels(survey: Survey) -> str:
    counts = Counter(facts.num_channels for facts in survey.readable)
    names = f": {', '.join(survey.channel_names)}" if survey.channel_names else ""
    return counted(counts) + names


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share >= 1e-4 or share == 0 else f"{100 * share:.1g} %"

"""A survey in words: the lines and tables that the terminal and the page share."""

from collections import Counter

from planning.survey.format import counted
from planning.survey.survey import Survey


def facts_table(survey: Survey) -> list[tuple[str, str]]:
    """Return (what, value) rows on the whole data set; shapes are (D, H, W), of clips time, row, column."""
    cases = [facts.case for facts in survey.cases]
    labelled = sum(case.label is not None for case in cases)
    bad = len({problem.case_id for problem in survey.problems})
    rows = [
        ("layout", survey.target.describe_layout(survey.config.data, survey.kind)),
        ("cases", f"{len(cases)}, {labelled} labelled, {bad} that cannot be used"),
    ]
    if any(case.label_files for case in cases):
        rows.insert(1, ("files", survey.files))
    if splits := Counter(case.split for case in cases if case.split):
        rows.append(("splits", counted(splits)))
    if folds := Counter(case.fold for case in cases if case.fold):
        rows.append(("folds", counted(folds)))
    if groups := Counter(case.group for case in cases if case.group):
        rows.append(("groups", survey.target.describe_groups(list(groups.values()))))
    return rows + survey.kind.table(survey.cases, survey.channel_names)


def survey_text(survey: Survey) -> str:
    """Return the whole survey for a terminal."""
    lines = [str(survey.config.data.root)]
    lines += [f"  {what:<12} {value}" for what, value in facts_table(survey)]
    lines += _class_lines(survey)
    if survey.problems:
        lines.append("problems (these cases cannot be used)")
        lines += [f"  {problem.case_id}: {problem.path}: {problem.reason}" for problem in survey.problems]
    if survey.findings:
        lines.append("worth checking")
        lines += [f"  {finding}" for finding in survey.findings]
    if not survey.problems and not survey.findings:
        lines.append("no problems found")
    return "\n".join(lines)


def _class_lines(survey: Survey) -> list[str]:
    table = survey.target.class_table(survey.cases, percent)
    if not table.rows:
        return []
    width = max(len(name) for _, name, _ in table.rows)
    lines = [f"  {table.what:<12} {'':{width}} {' '.join(table.headings)}"]
    for value, name, numbers in table.rows:
        cells = [f"{number:>{len(heading)}}" for number, heading in zip(numbers, table.headings, strict=True)]
        lines.append(f"  {'' if value is None else value:<12} {name:{width}} {' '.join(cells)}")
    return lines


def percent(share: float) -> str:
    """Return a share in percent with two decimals, or of a very small one the first digit."""
    return f"{100 * share:.2f} %" if share >= 1e-4 or share == 0 else f"{100 * share:.1g} %"

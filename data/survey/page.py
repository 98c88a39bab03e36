"""A survey as one HTML file that holds all it shows: tables, problems, and a slice of every case."""

import base64
from collections import defaultdict
from html import escape
from pathlib import Path

from data.survey.take import Survey
from data.survey.text import class_table, describe_case, facts_table
from data.survey.thumbnails import COLOURS

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); --warn: #d9622b }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin-top: 2.2rem }
.facts { opacity: .75; margin-top: .3rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; white-space: nowrap } td.number, th.number { text-align: right }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em }
.warning { border-left: 4px solid var(--warn); padding-left: 1.8rem } .warning li { overflow-wrap: anywhere }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(12.5rem, 1fr)); gap: 1.2rem 1rem }
figure { margin: 0; font-size: 13px; line-height: 1.4 }
figure.bad { outline: 2px solid var(--warn); outline-offset: 5px }
.slice { background: #000; color: #aaa; height: 12.5rem; display: flex; align-items: center; justify-content: center }
.slice img { max-width: 100%; max-height: 100% } figcaption b { overflow-wrap: anywhere }
figcaption small { display: block; opacity: .75; font-size: 12px } figcaption .why { color: var(--warn); opacity: 1 }
"""


def write_page(path: Path, survey: Survey) -> None:
    """Write the page; slices need a survey taken with thumbnails."""
    title = survey.config.data.root.resolve().name
    found = len(survey.problems) + len(survey.remarks)
    summary = f"{len(survey.cases)} cases · " + (f"{found} things to look at" if found else "no problems found")
    body = [f"<h1>{escape(title)}</h1>", f'<p class="facts">{summary}</p>']
    rows = [f"<tr><th>{escape(what)}</th><td>{escape(value)}</td></tr>" for what, value in facts_table(survey)]
    body += ['<div class="wide"><table>', *rows, "</table></div>"]
    body += [*_classes(survey), *_found(survey), *_cases(survey)]
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: data</title><style>{_STYLE}</style>"
    )
    path.write_text("\n".join([head, *body]) + "\n</html>\n", encoding="utf-8")


def _classes(survey: Survey) -> list[str]:
    rows = []
    for row in class_table(survey):
        colour = COLOURS[(row.value - 1) % len(COLOURS)] if row.value > 0 else "transparent"
        swatch = f'<span class="swatch" style="background:{colour}"></span>'
        numbers = f'<td class="number">{100 * row.share:.3g} %</td><td class="number">{row.num_cases}</td>'
        rows.append(f"<tr><td>{row.value}</td><td>{swatch}{escape(row.name)}</td>{numbers}</tr>")
    if not rows:
        return []
    head = '<tr><th>Label</th><th>Class</th><th class="number">Voxels</th><th class="number">Cases</th></tr>'
    return ["<h2>Classes</h2>", '<div class="wide"><table>', head, *rows, "</table></div>"]


def _found(survey: Survey) -> list[str]:
    body = []
    problems = [f"{problem.case_id}: {problem.path}: {problem.reason}" for problem in survey.problems]
    remarks = [str(remark) for remark in survey.remarks]
    for heading, lines in (("Cases that cannot be used", problems), ("Worth a look", remarks)):
        if lines:
            items = [f"<li>{escape(line)}</li>" for line in lines]
            body += [f"<h2>{heading}</h2>", '<ul class="warning">', *items, "</ul>"]
    return body


def _cases(survey: Survey) -> list[str]:
    """A tile a case: its slice, its facts, and what is wrong with it."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for problem in survey.problems:
        reasons[problem.case_id].append(problem.reason)
    for remark in survey.remarks:
        for case_id in remark.case_ids:
            reasons[case_id].append(remark.brief or remark.text)
    bad = {problem.case_id for problem in survey.problems}
    tiles = []
    for facts in survey.cases:
        case_id = facts.case.id
        picture = "cannot be shown"
        if facts.thumbnail is not None:
            data = base64.b64encode(facts.thumbnail).decode()
            picture = f'<img alt="axial slice of {escape(case_id)}" src="data:image/jpeg;base64,{data}">'
        why = "".join(f'<small class="why">{escape(reason)}</small>' for reason in reasons[case_id])
        label = "" if facts.case.label is not None else "<small>no label</small>"
        caption = f"<b>{escape(case_id)}</b><small>{escape(describe_case(facts))}</small>{label}{why}"
        kind = ' class="bad"' if case_id in bad else ""
        tiles.append(f'<figure{kind}><div class="slice">{picture}</div><figcaption>{caption}</figcaption></figure>')
    note = "The axial slice with the most labelled voxels, or the middle one. Anterior is up, left is left."
    return ["<h2>Cases</h2>", f'<p class="facts">{note}</p>', '<div class="cases">', *tiles, "</div>"]

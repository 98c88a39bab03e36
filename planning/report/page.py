"""A survey as one HTML file that holds all it shows: tables, problems, and a slice or frame of the cases."""

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from machine import disk
from planning.report.text import facts_table
from planning.survey.facts import Facts, Kind
from planning.survey.survey import Survey
from planning.survey.thumbnails import COLOURS

MAX_TILES = 240  # about 1.5 MB of pictures

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); --warn: #d9622b }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin: 1.8rem 0 .8rem }
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
.slice img { width: 100%; height: 100%; object-fit: contain } figcaption b { overflow-wrap: anywhere }
figcaption small { display: block; opacity: .75; font-size: 12px } figcaption .why { color: var(--warn); opacity: 1 }
"""


def write_page(path: Path, survey: Survey) -> None:
    """Write the page; slices need a survey taken with thumbnails."""
    root = survey.config.data.root.resolve()
    title = f"{root.parent.name}/{root.name}" if root.is_file() else root.name
    found = len(survey.problems) + len(survey.findings)
    summary = f"{len(survey.cases)} cases · " + (
        f"{found} {'thing' if found == 1 else 'things'} to look at" if found else "no problems found"
    )
    body = [f"<h1>{escape(title)}</h1>", f'<p class="facts">{summary}</p>']
    rows = [f"<tr><th>{escape(what)}</th><td>{escape(value)}</td></tr>" for what, value in facts_table(survey)]
    body += ['<div class="wide"><table>', *rows, "</table></div>"]
    body += [*_classes(survey), *_found(survey), *_cases(survey)]
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: data</title><style>{_STYLE}</style>"
    )
    with disk.writing(path):
        path.write_text("\n".join([head, *body]) + "\n</html>\n", encoding="utf-8")


def _classes(survey: Survey) -> list[str]:
    table = survey.target.class_table(survey.cases, lambda share: f"{100 * share:.3g} %")
    rows = []
    for value, name, numbers in table.rows:
        cells = "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)
        if value is None:
            rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
        else:
            colour = COLOURS[(value - 1) % len(COLOURS)] if value > 0 else "transparent"
            swatch = f'<span class="swatch" style="background:{colour}"></span>'
            rows.append(f"<tr><td>{value}</td><td>{swatch}{escape(name)}</td>{cells}</tr>")
    if not rows:
        return []
    columns = dict.fromkeys([table.what, "class"])
    head = "".join(f"<th>{column.capitalize()}</th>" for column in columns)
    head += "".join(f'<th class="number">{heading.strip().capitalize()}</th>' for heading in table.headings)
    return ["<h2>Classes</h2>", '<div class="wide"><table>', f"<tr>{head}</tr>", *rows, "</table></div>"]


def _found(survey: Survey) -> list[str]:
    body = []
    problems = [f"{problem.case_id}: {problem.path}: {problem.reason}" for problem in survey.problems]
    findings = [str(finding) for finding in survey.findings]
    for heading, lines in (("Cases that cannot be used", problems), ("Worth checking", findings)):
        if lines:
            items = [f"<li>{escape(line)}</li>" for line in lines]
            body += [f"<h2>{heading}</h2>", '<ul class="warning">', *items, "</ul>"]
    return body


def _cases(survey: Survey) -> list[str]:
    """Return a tile for each case: picture, facts, and what is wrong with it; of many cases a sample of each class."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for problem in survey.problems:
        reasons[problem.case_id].append(problem.reason)
    for finding in survey.findings:
        for case_id in finding.case_ids:
            reasons[case_id].append(finding.brief or finding.text)
    bad = {problem.case_id for problem in survey.problems}
    note = survey.target.view or survey.kind.view
    by_class: dict[str, list[Facts]] = defaultdict(list)
    for facts in survey.cases:
        by_class[_class_name(survey, facts)].append(facts)
    shown = {name: _sample(members, MAX_TILES // len(by_class), reasons) for name, members in by_class.items()}
    total = sum(map(len, shown.values()))
    if total < len(survey.cases):
        note += f" {total} of {len(survey.cases)} cases: evenly spaced ones of each class, those named above first."
    body = ["<h2>Cases</h2>", f'<p class="facts">{note}</p>']
    for name in sorted(shown, key=lambda name: (not name, name)):
        if len(shown) > 1 or name:
            body.append(f"<h3>{escape(name or 'no label')}</h3>")
        tiles = [_tile(survey.kind, facts, facts.case.id in bad, reasons[facts.case.id]) for facts in shown[name]]
        body += ['<div class="cases">', *tiles, "</div>"]
    return body


def _tile(kind: Kind, facts: Facts, bad: bool, reasons: Sequence[str]) -> str:
    case_id = facts.case.id
    picture = "cannot be shown"
    if facts.thumbnail is not None:
        data = base64.b64encode(facts.thumbnail).decode()
        picture = f'<img alt="{kind.picture} of {escape(case_id)}" src="data:image/jpeg;base64,{data}">'
    why = "".join(f'<small class="why">{escape(reason)}</small>' for reason in reasons)
    label = "" if facts.case.label is not None else "<small>no label</small>"
    where = [f"{key} {value}" for key, value in (("split", facts.case.split), ("group", facts.case.group)) if value]
    where = [f"<small>{escape(', '.join(where))}</small>"] if where else []
    caption = f"<b>{escape(case_id)}</b><small>{escape(facts.describe())}</small>{''.join(where)}{label}{why}"
    style = ' class="bad"' if bad else ""
    return f'<figure{style}><div class="slice">{picture}</div><figcaption>{caption}</figcaption></figure>'


def _class_name(survey: Survey, facts: Facts) -> str:
    names = " + ".join(survey.class_names[number] for number in facts.classes)
    return names if survey.target.named or not names else f"class {names}"


def _sample(cases: Sequence[Facts], limit: int, reasons: Mapping[str, Sequence[str]]) -> list[Facts]:
    """Return at most `limit` cases in their order: those with reasons first, then evenly spaced ones."""
    if len(cases) <= limit:
        return list(cases)
    odd = [n for n, facts in enumerate(cases) if reasons.get(facts.case.id)][:limit]
    rest = [n for n in range(len(cases)) if n not in set(odd)]
    wanted = limit - len(odd)
    chosen = {*odd, *(rest[n * len(rest) // wanted] for n in range(wanted))}
    return [cases[n] for n in sorted(chosen)]

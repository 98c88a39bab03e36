"""Writes a comparison beside its sweep: comparison.md, .csv, .json, and .html, which holds its plots."""

from collections.abc import Callable
from html import escape
from pathlib import Path

from engine.reports.page import figure, heading, image, warnings, write_page
from engine.reports.tables import html_table
from engine.runs.run_folder import write_atomically
from machine.terminal import say
from studies.comparison.compare import Comparison, compare
from studies.comparison.dropout_text import DOSE_NOTE, DROPOUT_COLUMNS, dropout_rows
from studies.comparison.plots import Band, band, plot_bands, plot_differences
from studies.comparison.read_runs import Curve, Run, read_study
from studies.comparison.text import (
    COLUMNS,
    OTHER_TESTS,
    cells_of,
    facts,
    method,
    notes,
    other_tests,
    sentence,
    titles,
    to_csv,
    to_json,
    to_markdown,
)


def compare_sweep(folder: str | Path) -> Path:
    """Compare the cells of a sweep's folder, print the table, and return the path of comparison.html.

    Raises ValueError where the folder holds no sweep, or runs that cannot be compared.
    """
    comparison = compare(read_study(folder))
    text, folder = to_markdown(comparison), Path(folder)
    write_atomically(folder / "comparison.md", text)
    write_atomically(folder / "comparison.csv", to_csv(comparison))
    write_atomically(folder / "comparison.json", to_json(comparison))
    say(text.partition("## Dropout layers")[0])
    return write_comparison_page(folder / "comparison.html", comparison)


def write_comparison_page(path: Path, comparison: Comparison) -> Path:
    """Write the page, one file that holds all it shows, and return its path."""
    study = comparison.study
    body = heading(f"{study.name}: comparison", facts(comparison))
    body += warnings(notes(comparison))
    if plot := plot_differences(comparison):
        alt = "Differences from the baseline, with their intervals"
        caption = (
            "Small dots: each seed. Large: their mean, and its 95 % interval; filled where more than noise explains "
            "it (blue: better, orange: worse), hollow where it could be noise or was not tested."
        )
        if any(result.is_unstable and result.difference for result in comparison.results):
            caption += " Arrows: an unstable cell's interval goes on beyond the axis."
        body += ["<h2>Differences from the baseline</h2>", image(plot, alt), f"<p>{caption}</p>"]
    body += [*_table(comparison), *_sentences(comparison), *_curves(comparison), *_dropout(comparison)]
    body += _other_tests(comparison)
    return write_page(path, f"{study.name}: comparison", body)


def _table(comparison: Comparison) -> list[str]:
    names = titles(comparison)
    head = "".join(f"<th>{escape(names[column])}</th>" for column in COLUMNS)
    rows = []
    for result in comparison.results:
        name, *cells = (escape(text) for text in cells_of(result, comparison).values())
        cells = [cell.replace(" (", "<small>(", 1) + "</small>" if " (" in cell else cell for cell in cells]
        unbroken = "".join(f'<td style="white-space: nowrap">{cell}</td>' for cell in cells)
        rows.append(f"<tr><th>{name}</th>{unbroken}</tr>")
    return [
        "<h2>Cells</h2>",
        f'<div class="wide"><table><tr>{head}</tr>',
        *rows,
        "</table></div>",
        "<p>Scores, gaps and times are mean ± standard deviation over the seeds.</p>",
    ]


def _sentences(comparison: Comparison) -> list[str]:
    items = [
        f"<li><b>{escape(result.cell.name)}</b>: {escape(sentence(result, comparison))}</li>"
        for result in comparison.results
    ]
    how = [f"<p>{escape(words)}</p>" for words in method(comparison)]
    return ["<h2>What the differences are worth</h2>", "<ul>", *items, "</ul>", *how]


def _curves(comparison: Comparison) -> list[str]:
    body: list[str] = []
    reference = comparison.study.baseline.source
    for title, label, choose in _KINDS:
        bands = _bands(comparison, choose)
        if bands:
            metric = comparison.study.metric if choose is _validation else label
            body.append(figure(title, plot_bands(bands, reference, metric), f"{title} over the steps, of each cell"))
    words = f"Mean and ± standard deviation over the finished runs; grey: the baseline, {escape(reference)}."
    return ["<h2>Learning curves</h2>", *body, f"<p>{words}</p>"] if body else []


def _validation(run: Run) -> Curve:
    return run.validation


def _loss(run: Run) -> Curve:
    return run.loss


_KINDS: tuple[tuple[str, str, Callable[[Run], Curve]], ...] = (
    ("Validation during training", "", _validation),
    ("Training loss", "loss", _loss),
)


def _bands(comparison: Comparison, choose: Callable[[Run], Curve]) -> dict[str, Band]:
    found = {}
    for result in comparison.results:
        if result.cell.same_as is None:
            curves = [choose(run) for run in comparison.study.runs_of(result.cell) if not run.missing]
            if made := band(curves):
                found[result.cell.name] = made
    return found


def _dropout(comparison: Comparison) -> list[str]:
    layers = [row for result in comparison.results for row in dropout_rows(result)]
    table = html_table(DROPOUT_COLUMNS, ((name, *map(escape, row)) for name, *row in layers))
    return ["<h2>Dropout layers</h2>", f"<p>{escape(DOSE_NOTE)}</p>", *table]


def _other_tests(comparison: Comparison) -> list[str]:
    tests = other_tests(comparison)
    if not tests:
        return []
    rows = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in tests]
    return [
        "<h2>Other tests</h2>",
        "<table><tr><th>cell</th><th>paired t, p</th><th>Wilcoxon over cases, p</th></tr>",
        *rows,
        "</table>",
        f"<p>{escape(OTHER_TESTS)}</p>",
    ]

"""Writes a comparison into its sweep's folder: comparison.md, .csv, .json, and .html, with plots."""

from collections.abc import Sequence
from html import escape
from operator import attrgetter
from pathlib import Path

from engine.reports.page import figure, heading, image, warnings, write_page
from engine.reports.tables import html_table
from engine.runs.run_folder import write_atomically
from machine.terminal import say
from studies.comparison.compare import Comparison, compare
from studies.comparison.dropout_text import DOSE_NOTE, DROPOUT_COLUMNS, dropout_rows
from studies.comparison.plots import band, plot_bands, plot_differences
from studies.comparison.read_runs import read_study
from studies.comparison.text import (
    CELLS_NOTE,
    OTHER_TESTS,
    TEST_COLUMNS,
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
    """Write the page, a single file with its plots in it, and return its path."""
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
            caption += " Arrows: an unstable cell's interval extends beyond the axis."
        body += ["<h2>Differences from the baseline</h2>", image(plot, alt), f"<p>{caption}</p>"]
    body += [*_table(comparison), *_sentences(comparison), *_curves(comparison), *_dropout(comparison)]
    body += _other_tests(comparison)
    return write_page(path, f"{study.name}: comparison", body)


def _table(comparison: Comparison) -> list[str]:
    rows = [
        (name, *map(_two_lines, cells))
        for name, *cells in (cells_of(result, comparison) for result in comparison.results)
    ]
    return ["<h2>Cells</h2>", *html_table(titles(comparison), rows), f"<p>{CELLS_NOTE}</p>"]


def _two_lines(cell: str) -> str:
    """Return a cell as HTML, its interval in brackets below the number, neither of them broken."""
    number, bracket, interval = escape(cell).replace(" ", "&nbsp;").partition("&nbsp;(")
    return f"{number}<small>({interval}</small>" if bracket else number


def _sentences(comparison: Comparison) -> list[str]:
    items = [
        f"<li><b>{escape(result.cell.name)}</b>: {escape(sentence(result, comparison))}</li>"
        for result in comparison.results
    ]
    how = [f"<p>{escape(text)}</p>" for text in method(comparison)]
    return ["<h2>What the differences mean</h2>", "<ul>", *items, "</ul>", *how]


def _curves(comparison: Comparison) -> list[str]:
    study, body = comparison.study, []
    reference = study.baseline.source
    for title, label, curve in (
        ("Validation during training", study.metric, attrgetter("validation")),
        ("Training loss", "loss", attrgetter("loss")),
    ):
        curves = {
            cell.name: [curve(run) for run in study.runs_of(cell) if not run.missing]
            for cell in study.cells
            if cell.same_as is None
        }
        if bands := {name: found for name in curves if (found := band(curves[name]))}:
            body.append(figure(title, plot_bands(bands, reference, label), f"{title} over the steps, of each cell"))
    text = f"Mean and ± standard deviation over the finished runs; grey: the baseline, {escape(reference)}."
    return ["<h2>Learning curves</h2>", *body, f"<p>{text}</p>"] if body else []


def _dropout(comparison: Comparison) -> list[str]:
    layers = [row for result in comparison.results for row in dropout_rows(result)]
    return ["<h2>Dropout layers</h2>", f"<p>{escape(DOSE_NOTE)}</p>", *_text_table(DROPOUT_COLUMNS, layers)]


def _other_tests(comparison: Comparison) -> list[str]:
    if not (rows := other_tests(comparison)):
        return []
    return ["<h2>Other tests</h2>", *_text_table(TEST_COLUMNS, rows), f"<p>{escape(OTHER_TESTS)}</p>"]


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return html_table(head, ((name, *map(escape, cells)) for name, *cells in rows))

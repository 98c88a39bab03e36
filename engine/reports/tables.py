"""Numbers and tables of all reports: as text, as HTML, and as files."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from engine.runs.run_folder import without_nan, write_atomically
from machine import disk

_FORMULA = re.compile(r"'*[=+\-−@\t\r]")


def number(value: float, digits: int = 4, sign: str = "") -> str:
    """Return the number with so many decimals, and with sign="+" its sign; «–» where it doesn't exist."""
    return f"{value:{sign}.{digits}f}" if np.isfinite(value) else "–"


def interval(row: Mapping[str, Any], digits: int = 4, sign: str = "") -> str:
    """Return `0.8123 – 0.9012` of the row's "interval_95"; «–» where there is none."""
    ends = [number(end, digits, sign) for end in row["interval_95"]]
    return "–" if ends == ["–", "–"] else " – ".join(ends)


def html_number(row: Mapping[str, Any], sign: str = "") -> str:
    """Return the row's "value" with its interval below it."""
    return f"{number(row['value'], 3, sign)}<small>{interval(row, 3, sign)}</small>"


def text_table(layout: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the rows as lines, by a layout such as `{:<20}{:>8}`."""
    return [layout.format(*row).rstrip() for row in rows]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def html_table(head: Iterable[str], rows: Iterable[Sequence[Any]], is_wide: bool = True) -> list[str]:
    """Return a table as lines of HTML.

    head: text. rows: a name as text, then cells as HTML. is_wide: it scrolls where it is wider than the page.
    """
    start, end = ('<div class="wide"><table>', "</table></div>") if is_wide else ("<table>", "</table>")
    return [
        f"{start}<tr>{''.join(f'<th>{escape(title)}</th>' for title in head)}</tr>",
        *(f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, *cells in rows),
        end,
    ]


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json: null stands for numbers that don't exist and for infinity."""
    write_atomically(path, json.dumps(without_nan(metrics), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table of text, integers and floats: empty cells for NaN and None, `inf` for infinity."""
    with disk.writing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([quote_formula(title) for title in head])
        writer.writerows([_plain(cell) for cell in row] for row in rows)


def _plain(cell: Any) -> Any:
    if isinstance(cell, float | np.floating):
        return "" if np.isnan(cell) else f"{cell:.6g}"
    return quote_formula(cell) if isinstance(cell, str) else cell


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the column names and the rows of a table that `write_csv` wrote; cells that a row lacks are empty.

    Raises ValueError where it is no text.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = [[unquote_formula(cell) for cell in row] for row in csv.reader(file)] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}); write it again") from None
    return head, [dict(zip_longest(head, row[: len(head)], fillvalue="")) for row in rows if row]


def quote_formula(text: str) -> str:
    """Return the text so that a spreadsheet does not run it: one that begins as a formula does gets an apostrophe."""
    try:
        float(text)
    except ValueError:
        return f"'{text}" if _FORMULA.match(text) else text
    return text


def unquote_formula(text: str) -> str:
    """Undo `quote_formula`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text

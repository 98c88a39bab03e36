"""Numbers and tables of all reports: as text, as HTML, and as files."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from engine.runs.run_folder import without_nan, write_atomically


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
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([_plain(cell) for cell in row] for row in rows)


def _plain(cell: Any) -> Any:
    if isinstance(cell, float | np.floating):
        return "" if np.isnan(cell) else f"{cell:.6g}"
    return cell

import csv
from pathlib import Path

import numpy as np
import pytest

from engine.reports.tables import html_number, html_table, interval, number, read_csv, text_table, write_csv

NOTHING = {"value": np.nan, "interval_95": (np.nan, np.inf)}
SOME = {"value": -0.12345, "interval_95": [-0.5, 0.25]}


@pytest.mark.parametrize(
    ("value", "digits", "sign", "expected"),
    [
        (0.5, 4, "", "0.5000"),
        (-0.04, 1, "", "-0.0"),
        (2.0, 2, "+", "+2.00"),
        (np.nan, 4, "+", "–"),
        (np.inf, 4, "", "–"),
    ],
)
def test_a_number_that_does_not_exist_is_a_dash(value: float, digits: int, sign: str, expected: str) -> None:
    assert number(value, digits, sign) == expected


def test_intervals_and_tables_of_text_html_and_csv(tmp_path: Path) -> None:
    assert interval(SOME) == "-0.5000 – 0.2500"
    assert interval(NOTHING) == "–"
    assert html_number(SOME, "+") == "-0.123<small>-0.500 – +0.250</small>"
    assert html_number(NOTHING) == "–<small>–</small>"
    assert text_table("{:<6}{:>4}  {:<3}", [("name", "n", "x"), ("a", "12", "")]) == ["name     n  x", "a       12"]
    assert html_table(("", "<n>"), [("a & b", 3, "<small>x</small>")]) == [
        '<div class="wide"><table><tr><th></th><th>&lt;n&gt;</th></tr>',
        "<tr><th>a &amp; b</th><td>3</td><td><small>x</small></td></tr>",
        "</table></div>",
    ]
    assert html_table(("a",), [], is_wide=False) == ["<table><tr><th>a</th></tr>", "</table>"]
    write_csv(tmp_path / "x.csv", ("a", "b"), [("x,y", 3), (None, np.nan), (np.inf, np.float32(1 / 3))])
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["x,y", "3"], ["", ""], ["inf", "0.333333"]]


TEXTS = ["=1+1", "+a", "-a", "−a", "@sum", "\ttab", "\rreturn", "'=quoted", "''+twice", "'plain", "a=b", "", "x,y\nz"]


def test_texts_that_a_spreadsheet_would_run_come_back(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", ("case", "=b"), [(text, -0.5) for text in TEXTS])
    with (tmp_path / "x.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["case", "'=b"]
    assert [row[0] for row in rows[:7]] == ["'" + text for text in TEXTS[:7]]
    assert {row[1] for row in rows} == {"-0.5"}
    assert read_csv(tmp_path / "x.csv") == (["case", "=b"], [{"case": text, "=b": "-0.5"} for text in TEXTS])


def test_numbers_as_text_are_left(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", ("a",), [("-1.5",), ("+2e3",), ("-inf",)])
    assert (tmp_path / "x.csv").read_text().split() == ["a", "-1.5", "+2e3", "-inf"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\n" + b"x" * 200_000])
def test_a_table_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.csv: cannot be read as a table \(.*\); write it again"):
        read_csv(tmp_path / "x.csv")

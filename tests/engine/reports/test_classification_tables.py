from pathlib import Path

import numpy as np
import pytest

from engine.evaluation.classification import ClassifiedCase
from engine.reports.classification_tables import STILL, format_table, read_probabilities, summarise_cases, write_cases
from tests.runs import read_rows

NAMES = ("calm", "fight")


def case(number: int, p: float, label: int | None, still: float | None = None) -> ClassifiedCase:
    probabilities = np.array([1 - p, p])
    frozen = None if still is None else np.array([1 - still, still])
    return ClassifiedCase(f"c{number}", probabilities, (int(p >= 0.5),), label, f"g{number // 2}", 3, frozen)


CASES = [case(0, 0.9, 1, 0.4), case(1, 0.2, 0, 0.4), case(2, 0.7, 0, 0.4), case(3, 0.6, 1, 0.4), case(4, 0.1, None)]


def test_summary_is_of_the_labelled_cases_and_undefined_values_are_dashes() -> None:
    summary = summarise_cases(CASES, NAMES, 100, {})
    assert summary["num_cases"] == 4
    assert summary["accuracy"] == 3 / 4
    assert summary["auc"] == 3 / 4
    assert (summary["interval_by"], summary["num_groups"]) == ("group", 2)
    text = format_table(summarise_cases(CASES[:1], NAMES, 10, {}))
    line = next(line for line in text.splitlines() if line.startswith("auc"))
    assert line.split() == ["auc", "–", "–", "–"]  # value, interval, and of one frame
    assert "no case of calm" in text


def test_baselines_stand_beside_the_result() -> None:
    worse = {c.id: np.array([0.4, 0.6]) for c in CASES}
    summary = summarise_cases(CASES, NAMES, 100, {"always_fight": worse})
    assert list(summary["baselines"]) == ["always_fight", STILL]
    always, still = summary["baselines"].values()
    assert (always["accuracy"], still["accuracy"]) == (2 / 4, 2 / 4)
    assert always["auc"] == 0.5
    assert always["difference"]["accuracy"]["value"] == pytest.approx(1 / 4)
    text = format_table({**summary, "split": "val"})
    line = next(line for line in text.splitlines() if line.startswith("accuracy  "))
    assert line.split()[:2] == ["accuracy", "0.7500"]
    assert line.split()[-2:] == ["0.5000", "0.5000"]
    assert "accuracy minus that of always_fight: +0.2500 (" in text
    assert "one frame: the same weights, each view's middle frame repeated" in text
    assert "2 groups: too few for an interval, which needs 10" in text
    message = "baseline other: 3 of 4 labelled cases are not in its cases.csv, c1 among them"
    with pytest.raises(ValueError, match=message):
        summarise_cases(CASES, NAMES, 10, {"other": {"c0": np.array([0.5, 0.5])}})


def test_cases_csv_and_back(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases.csv", CASES, NAMES)
    rows = read_rows(tmp_path)
    decided = {"case": "c2", "group": "g1", "label": "calm", "predicted": "fight", "correct": "0", "views": "3"}
    assert rows[2] == {**decided, "p(calm)": "0.3", "p(fight)": "0.7"}
    assert (rows[4]["label"], rows[4]["correct"]) == ("", "")
    back = read_probabilities(tmp_path / "cases.csv", NAMES)
    np.testing.assert_allclose(back["c0"], [0.1, 0.9])
    assert len(back) == 5
    both = ClassifiedCase("a", np.array([0.9, 0.8]), (0, 1), (1, 1), None, 1)
    none = ClassifiedCase("b", np.array([0.9, 0.2]), (0,), (0, 0), None, 1)
    write_cases(tmp_path / "cases.csv", [both, none], NAMES)
    first, second = read_rows(tmp_path)
    assert (first["label"], first["predicted"], first["correct"]) == ("calm|fight", "calm|fight", "1")
    assert (second["label"], second["predicted"], second["correct"]) == ("", "calm", "0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,p(calm)\n", r"cases\.csv: no column p\(fight\)"),
        ("case,p(calm),p(fight)\na,1,0\na,0,1\n", r"cases\.csv, line 3: case a occurs twice"),
        ("case,p(calm),p(fight)\na,1,much\n", r"cases\.csv, line 2: a probability is not a number"),
        ("case,p(calm),p(fight)\na,1\n", r"line 2: a probability is not a number"),
    ],
)
def test_broken_baselines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_probabilities(tmp_path / "cases.csv", NAMES)

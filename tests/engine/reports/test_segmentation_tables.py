import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.evaluation.segmentation import CaseResult
from engine.metrics.segmentation import score_case
from engine.reports.segmentation_tables import case_dice, format_table, summarise_cases, write_cases
from engine.reports.slices import cut_slices
from engine.reports.tables import write_metrics
from tests.runs import read_rows

NAMES = ["background", "left", "right"]
SPACING_MM = (2.0, 1.0, 1.0)


def cube(value: int, start: int, stop: int) -> np.ndarray:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[start:stop, 2:6, 2:6] = value
    return labels


def result(case: str, prediction: np.ndarray, reference: np.ndarray) -> CaseResult:
    scores = score_case(prediction, reference, SPACING_MM, 3)
    return CaseResult(case, scores, True, cut_slices(prediction, reference, SPACING_MM), 1.0)


@pytest.fixture
def results() -> list[CaseResult]:
    """Left: 1, 2/3 and lost. Right: 1, empty in both, and invented."""
    return [
        result("a", cube(1, 0, 2) + cube(2, 4, 6), cube(1, 0, 2) + cube(2, 4, 6)),
        result("b", cube(1, 0, 2), cube(1, 0, 4)),
        result("c", cube(2, 0, 2), cube(1, 4, 6)),
    ]


def test_metrics_of_several_cases(results: list[CaseResult]) -> None:
    metrics = summarise_cases(results, NAMES, num_samples=100)
    assert metrics["num_cases"] == 3
    assert metrics["dice"]["left"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert metrics["dice"]["right"] == pytest.approx((1 + 0) / 2)
    assert metrics["dice"]["mean"] == pytest.approx((5 / 9 + 0.5) / 2)
    assert metrics["iou"]["left"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics["empty"] == {
        "left": {"both": 0, "prediction": 1, "reference": 0},
        "right": {"both": 1, "prediction": 0, "reference": 1},
    }
    assert metrics["details"]["hd95_mm"]["left"]["num_cases"] == 2
    assert metrics["details"]["hd95_mm"]["left"]["num_infinite"] == 1  # the lost one
    assert metrics["surface_definition"].startswith("hd95_mm and nsd weigh areas")
    assert metrics["case_dice"] == {"a": 1, "b": pytest.approx(2 / 3), "c": 0}
    assert metrics["hd95_mm"]["left"] == pytest.approx((0 + 4) / 2)
    assert metrics["volume_error_ml"]["left"] == pytest.approx((0 - 32 - 32) * 2 / 1000 / 3)


def test_files_hold_no_nan(results: list[CaseResult], tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.json", summarise_cases(results[2:], NAMES, num_samples=100))
    text = (tmp_path / "metrics.json").read_text()
    assert not any(word in text for word in ("NaN", "Infinity"))
    metrics = json.loads(text)
    assert metrics["hd95_mm"] == {"left": None, "right": None, "mean": None}
    assert metrics["dice"] == {"left": 0, "right": 0, "mean": 0}
    assert metrics["details"]["dice"]["left"]["interval_95"] == [None, None]
    write_metrics(tmp_path / "metrics.json", summarise_cases([], NAMES, num_samples=100))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_cases"] == 0
    assert metrics["dice"] == {"left": None, "right": None, "mean": None}


def test_a_row_for_each_case_and_class(results: list[CaseResult], tmp_path: Path) -> None:
    write_cases(tmp_path / "cases.csv", results, NAMES)
    rows = {(row["case"], row["class"]): row for row in read_rows(tmp_path)}
    assert len(rows) == 6
    assert rows["b", "left"]["dice"] == "0.666667"
    assert rows["b", "left"]["reference_volume_ml"] == "0.128"
    volumes = {"volume_ml": "0", "reference_volume_ml": "0", "empty_in": "both"}
    assert rows["b", "right"] == dict.fromkeys(rows["b", "right"], "") | {"case": "b", "class": "right", **volumes}
    assert rows["c", "left"]["hd95_mm"] == "inf"
    assert rows["c", "left"]["empty_in"] == "prediction"


def test_table_for_the_terminal(results: list[CaseResult]) -> None:
    lines = format_table(summarise_cases(results[1:], NAMES, num_samples=100)).splitlines()
    heads = ["dice", "left", "right", "mean", "hd95_mm", "left", "right", "mean", "b:", "c:", "2"]
    assert [line.split()[0] for line in lines] == heads
    assert lines[1].split()[1] == "0.3333"
    assert lines[2].split()[-1] == "1"
    assert lines[5].split()[1] == "4.0000"
    assert lines[5].endswith("  1 without 1 infinite")  # what is missed stands beside the mean that leaves it out
    assert lines[8] == "b: dice 0.6667"
    assert lines[-1] == "2 cases: too few for an interval, which needs 10; look at the cases one by one"
    assert case_dice(results[1]) == pytest.approx(2 / 3)


def test_intervals_are_by_group(results: list[CaseResult]) -> None:
    """Five scans of each patient say no more than one: the intervals are the same."""
    patients = [result(f"p{i}", cube(1, 0, 2), cube(1, 0, 2 + i % 5)) for i in range(12)]
    scans = [replace(each, id=f"{each.id}s{s}", group=each.id) for each in patients for s in range(5)]
    one, five = (summarise_cases(cases, NAMES, num_samples=500) for cases in (patients, scans))
    assert (one["interval_by"], one["num_groups"]) == ("case", 12)
    assert (five["interval_by"], five["num_groups"], five["num_cases"]) == ("group", 12, 60)
    found, expected = (each["details"]["dice"]["left"]["interval_95"] for each in (five, one))
    assert found == pytest.approx(expected)
    assert "95 % intervals: bootstrap over 12 groups" in format_table(five)
    assert "case_dice" not in five

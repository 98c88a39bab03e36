"""Scores of many cases as metrics.json and cases.csv."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation import CaseResult
from engine.metrics import METRICS
from engine.runs import without_nan, write_atomically
from engine.statistics import nan_mean, summarise

COLUMNS = ("case", "class", *METRICS, "volume_ml", "reference_volume_ml", "empty_in")


def summarise_cases(results: Sequence[CaseResult], class_names: Sequence[str], num_samples: int) -> dict[str, Any]:
    """The part of metrics.json that comes from the scores of labelled cases.

    {"num_cases", "dice": {class: mean over cases, "mean": over classes}, the same for "iou", "hd95_mm", "nsd" and
    "volume_error_ml"; "details": {metric: {class: {"mean", "sd", "median", "interval_95", "num_cases"}}}; "empty":
    {class: {"both", "prediction", "reference": cases}}}. Classes empty in both are left out of every mean, infinite
    HD95 (empty in one) out of HD95's; what does not exist is NaN.
    """
    labelled = [result for result in results if result.labelled]
    names = list(class_names[1:])
    details = {}
    for metric in METRICS:
        rows = [[getattr(score, metric) for score in result.scores] for result in labelled]
        details[metric] = summarise(np.array(rows, float).reshape(len(labelled), len(names)), names, num_samples)
    empty = {
        name: {
            where: sum(r.scores[i].empty == where for r in labelled) for where in ("both", "prediction", "reference")
        }
        for i, name in enumerate(names)
    }
    means = {metric: {name: row["mean"] for name, row in rows.items()} for metric, rows in details.items()}
    return {"num_cases": len(labelled), **means, "details": details, "empty": empty}


def case_dice(result: CaseResult) -> float:
    """Mean Dice of one case over its classes; NaN without any."""
    return nan_mean([score.dice for score in result.scores])


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json: null stands for numbers that don't exist and for infinity."""
    write_atomically(path, json.dumps(without_nan(metrics), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_cases(path: Path, results: Sequence[CaseResult], class_names: Sequence[str]) -> None:
    """Write cases.csv, one row a case and class: empty cells for numbers that don't exist, `inf` for infinite HD95."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for result in results:
            for name, score in zip(class_names[1:], result.scores, strict=True):
                values = [getattr(score, column) for column in (*METRICS, "volume_ml", "reference_volume_ml")]
                cells = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
                writer.writerow([result.id, name, *cells, score.empty])


def format_table(metrics: dict[str, Any], metric: str = "dice") -> str:
    """One metric as a plain table: class, mean, 95 % interval, sd, median, cases."""
    lines = [f"{metric:<24}{'mean':>8}  {'95 % interval':<17}{'sd':>8}{'median':>8}{'cases':>7}"]
    for name, row in metrics["details"][metric].items():
        low, high = (_number(end) for end in row["interval_95"])
        numbers = (
            f"{_number(row['mean']):>8}  {f'{low} – {high}':<17}{_number(row['sd']):>8}{_number(row['median']):>8}"
        )
        lines.append(f"{name:<24}{numbers}{row['num_cases']:>7}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"

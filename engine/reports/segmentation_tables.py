"""Scores of segmented cases, for metrics.json, cases.csv and the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.segmentation import CaseResult
from engine.metrics.arithmetic import nan_mean
from engine.metrics.bootstrap import MIN_UNITS, describe_units, explain_units, resampling_units
from engine.metrics.means import summarise
from engine.metrics.segmentation import METRICS, SURFACE_DEFINITION
from engine.reports.tables import interval, number, text_table, write_csv

_VOLUMES = ("volume_ml", "reference_volume_ml")


def summarise_cases(results: Sequence[CaseResult], class_names: Sequence[str], num_samples: int) -> dict[str, Any]:
    """Return the part of metrics.json that comes from the scores of labelled cases.

    {"num_cases", each of METRICS: {class: mean over cases, "mean": over classes}; "surface_definition"; "details":
    {metric: {class: {"mean", "sd", "median", "interval_95", "num_cases", "num_infinite"}}}; "interval_by",
    "num_groups"; "empty": {class: {"both", "prediction", "reference": cases}}; of fewer than MIN_UNITS cases or groups,
    which have no interval, "case_dice": {case: mean over its classes}}. Classes empty in both are left out of every
    mean, infinite HD95 (empty in one) out of HD95's; what does not exist is NaN.
    """
    labelled = [result for result in results if result.labelled]
    values = {m: np.array([[s[m] for s in r.scores] for r in labelled], float) for m in METRICS}
    units, names = resampling_units([result.group for result in labelled]), list(class_names[1:])
    summary = summarise_values(values, names, units, num_samples)
    if summary["num_groups"] < MIN_UNITS:
        summary["case_dice"] = {result.id: case_dice(result) for result in labelled}
    empty = {
        name: {
            where: sum(r.scores[i].empty == where for r in labelled) for where in ("both", "prediction", "reference")
        }
        for i, name in enumerate(names)
    }
    return {**summary, "empty": empty}


def summarise_values(
    values: Mapping[str, np.ndarray], names: list[str], units: Sequence[str], num_samples: int
) -> dict[str, Any]:
    """Return what `summarise_cases` says of METRICS' values (cases, classes) alone."""
    shape = len(units), len(names)
    details = {m: summarise(values[m].reshape(shape), names, units, num_samples, METRICS[m].bounds) for m in METRICS}
    means = {metric: {name: row["mean"] for name, row in rows.items()} for metric, rows in details.items()}
    about = {"surface_definition": SURFACE_DEFINITION, **describe_units(units)}
    return {"num_cases": len(units), **means, **about, "details": details}


def case_dice(result: CaseResult) -> float:
    """Mean Dice of one case over its classes; NaN without any."""
    return nan_mean([score["dice"] for score in result.scores])


def write_cases(path: Path, results: Sequence[CaseResult], class_names: Sequence[str]) -> None:
    """Write cases.csv, one row a case and class: empty cells for numbers that don't exist, `inf` for infinite HD95."""
    rows = (
        (result.id, result.group, name, *score.values, score.volume_ml, score.reference_volume_ml, score.empty)
        for result in results
        for name, score in zip(class_names[1:], result.scores, strict=True)
    )
    write_csv(path, ("case", "group", "class", *METRICS, *_VOLUMES, "empty_in"), rows)


def format_table(metrics: Mapping[str, Any]) -> str:
    """Dice and HD95 as plain tables: class, mean, 95 % interval, sd, median, cases; and what the intervals are over."""
    lines = []
    for metric in ("dice", "hd95_mm"):
        rows = [(metric, "mean", "95 % interval", "sd", "median", "cases")]
        for name, row in metrics["details"][metric].items():
            mean, sd, median = (number(row[key]) for key in ("mean", "sd", "median"))
            rows.append((name, mean, interval(row), sd, median, count_cases(row)))
        lines += text_table("{:<24}{:>8}  {:<17}{:>8}{:>8}  {}", rows)
    lines += [f"{case}: dice {number(dice)}" for case, dice in metrics.get("case_dice", {}).items()]
    return "\n".join([*lines, explain_units(metrics)])


def count_cases(row: Mapping[str, Any]) -> str:
    """Return how many values a mean is of, and how many infinite ones (a class missed, or invented) it leaves out."""
    left_out = f" without {row['num_infinite']} infinite" if row["num_infinite"] else ""
    return f"{row['num_cases']}{left_out}"

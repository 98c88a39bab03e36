"""Scores of classified cases, for metrics.json, cases.csv and the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.classification import ClassifiedCase, stack_labels
from engine.metrics.bootstrap import explain_units
from engine.metrics.classification import METRICS, compare, score_probabilities, summarise
from engine.metrics.uncertainty import MEASURES
from engine.reports.tables import aligned, interval, number, read_csv, text_table, write_csv
from engine.runs.run_folder import RunFolder

STILL = "one frame"
"""The baseline's name: the same weights shown each view's middle frame, repeated."""

METADATA = "metadata"
"""The baseline's name: a small tree that knows of each clip how it was made, and not what it shows."""
SHOWN = 40  # cases without a label whose predictions are printed and pictured

_COLUMNS = ("case", "group", "label", "predicted", "correct", "views")


def summarise_cases(
    cases: Sequence[ClassifiedCase],
    class_names: Sequence[str],
    num_samples: int,
    baselines: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """Return metrics.json's part on the labelled cases: `classification.summarise`, and the baselines.

    baselines: {name: {case: probabilities (K,)}}, predictions of the same cases by something simpler. Each
    becomes an entry of "baselines": {name: {metric: value, "difference": {metric: {"value", "interval_95"}}}},
    differences being ours less the baseline's. STILL is added where the cases have it. Raises ValueError for a
    baseline that lacks a labelled case.
    """
    labelled = [case for case in cases if case.labelled]
    rows = [case.probabilities for case in labelled]
    probabilities, labels = np.array(rows, np.float64).reshape(len(rows), len(class_names)), stack_labels(labelled)
    groups = [case.group for case in labelled]
    summary = summarise(probabilities, labels, groups, class_names, num_samples)
    known = {name: _align(name, others, labelled) for name, others in baselines.items()}
    still = [case.still for case in labelled if case.still is not None]
    if still:
        known[STILL] = still
    summary["baselines"] = {}
    for name, others in known.items() if labelled else ():
        scores = score_probabilities(np.array(others), labels)
        difference = compare(probabilities, np.array(others), labels, groups, num_samples)
        values = {metric: score.value for metric, score in scores.items()}
        summary["baselines"][name] = {**values, "difference": difference}
    return summary


def write_cases(path: Path, cases: Sequence[ClassifiedCase], class_names: Sequence[str]) -> None:
    """Write cases.csv, one row a case: its labels (joined by |), what was predicted, and p(<class>) of every class.

    Last come the measures of uncertainty that the cases have.
    """
    measures = MEASURES[: len(cases[0].measures)] if cases else ()
    rows = []
    for case in cases:
        label, predicted = ("|".join(class_names[k] for k in found) for found in (case.truth, case.predicted))
        correct = int(case.truth == case.predicted) if case.labelled else None
        about = case.id, case.group, label, predicted, correct, case.num_views
        rows.append((*about, *case.probabilities, *case.measures))
    write_csv(path, (*_COLUMNS, *(f"p({name})" for name in class_names), *measures), rows)


def read_baseline(folder: str | Path, split: str, class_names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return what another run's evaluation of the split predicted, under the run's name.

    Raises ValueError where the folder is no run, or the run was not evaluated on the split.
    """
    run = RunFolder.open(folder)
    path = run.evaluation(split) / "cases.csv"
    if not path.is_file():
        raise ValueError(
            f"--baseline {run.path}: {path} is missing; first run python evaluate.py --run {run.path} --split {split}"
        )
    return {run.path.name: read_probabilities(path, class_names)}


def read_probabilities(path: Path, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Every case's probabilities (K,) of a cases.csv: its columns `case` and p(<class>).

    Raises ValueError where a column is missing, a case occurs twice, or a cell is no number.
    """
    columns = [f"p({name})" for name in class_names]
    probabilities: dict[str, np.ndarray] = {}
    head, rows = read_csv(path)
    missing = [name for name in ("case", *columns) if name not in head]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; expected case and one p(<class>) per class")
    for line, row in enumerate(rows, 2):
        if row["case"] in probabilities:
            raise ValueError(f"{path}, line {line}: case {row['case']} occurs twice")
        try:
            probabilities[row["case"]] = np.array([float(row[name]) for name in columns])
        except ValueError:
            raise ValueError(f"{path}, line {line}: a probability is not a number") from None
    return probabilities


def format_table(metrics: Mapping[str, Any]) -> str:
    """Return the metrics as plain text: value, 95 % interval, and beside them the baselines' values."""
    baselines = metrics["baselines"]
    rows = [("metric", "value", "95 % interval", *baselines)]
    for metric in METRICS:
        row = metrics["details"][metric]
        beside = (number(baseline[metric]) for baseline in baselines.values())
        rows.append((metric, number(row["value"]), interval(row), *beside))
    lines = text_table("{:<20}{:>8}  {:<17}" + "".join(f"{{:>{max(10, len(n) + 2)}}}" for n in baselines), rows)
    for name, baseline in baselines.items():
        row = baseline["difference"]["accuracy"]
        value = number(row["value"], sign="+")
        lines.append(f"accuracy minus that of {name}: {value} ({interval(row, sign='+')}, paired)")
    if STILL in baselines:
        lines.append(f"{STILL}: the same weights, each view's middle frame repeated, so that nothing moves")
    if METADATA in baselines:
        lines.append(f"{METADATA}: a small tree on sizes, rates, lengths and codecs, trained on the same cases")
    return "\n".join([*lines, explain_units(metrics), *metrics["notes"]])


def format_predictions(cases: Sequence[ClassifiedCase], class_names: Sequence[str]) -> list[str]:
    """Return what is predicted of the cases without a label as lines of text, of the first SHOWN of them."""
    unlabelled = [case for case in cases if not case.labelled]
    rows = [(case.id, name_predicted(case, class_names)) for case in unlabelled[:SHOWN]]
    lines = aligned([("case", "predicted (probability)"), *rows]) if rows else []
    return [*lines, *more_than_shown(len(unlabelled))]


def name_predicted(case: ClassifiedCase, class_names: Sequence[str]) -> str:
    """Return the classes predicted of a case with their probabilities: `left (0.93)`."""
    return " + ".join(f"{class_names[k]} ({case.probabilities[k]:.3f})" for k in case.predicted) or "none"


def more_than_shown(num_cases: int) -> list[str]:
    """Return a line on the cases beyond SHOWN, where there are any."""
    return [f"and {num_cases - SHOWN} more: cases.csv has all"] if num_cases > SHOWN else []


def _align(name: str, others: Mapping[str, np.ndarray], cases: Sequence[ClassifiedCase]) -> list[np.ndarray]:
    """Return the baseline's probabilities in the cases' order.

    Those of exclusive classes, rounded in a file, sum to 1.
    """
    missing = [case.id for case in cases if case.id not in others]
    if missing:
        raise ValueError(
            f"baseline {name}: {len(missing)} of {len(cases)} labelled cases are not in its cases.csv, "
            f"{missing[0]} among them; evaluate it on the same split"
        )
    rows = [others[case.id] for case in cases]
    return [p if c.multi_label else p / p.sum() for p, c in zip(rows, cases, strict=True)]

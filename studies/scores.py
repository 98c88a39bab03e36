"""A run's scores from its cases.csv: of all cases, and of any weighting of them, as a bootstrap draws them."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from engine.metrics import classification
from engine.metrics import segmentation as metrics
from engine.metrics.arithmetic import row_means
from engine.metrics.bootstrap import score_samples
from engine.metrics.classification import as_indicators, predict_indicators
from engine.metrics.segmentation import SURFACE_DEFINITION

Row = dict[str, str]


class CaseTable(Protocol):
    """The cases of one evaluation, and what a metric is on them."""

    @property
    def cases(self) -> tuple[str, ...]: ...

    @property
    def units(self) -> tuple[str, ...]:
        """What a bootstrap draws as one, for each case: its group, or the case alone."""

    def score(self, weights: np.ndarray) -> np.ndarray:
        """The metric of each weighting (S, N) of the cases: (S,), NaN where it is undefined."""

    def case_values(self) -> np.ndarray | None:
        """The metric of each case (N,), of which the score is a mean; None where it is no such mean."""


@dataclass(frozen=True)
class SegmentedCases:
    """One metric of label volumes: of one class, or the mean over the classes of their means over cases."""

    cases: tuple[str, ...]
    units: tuple[str, ...]
    values: np.ndarray  # (N, classes) float64; NaN and infinities are left out of means

    def score(self, weights: np.ndarray) -> np.ndarray:
        there = np.isfinite(self.values)
        with np.errstate(invalid="ignore"):
            means = (weights @ np.where(there, self.values, 0)) / (weights @ there)  # (S, classes)
        return row_means(means)

    def case_values(self) -> np.ndarray | None:
        return row_means(self.values)


@dataclass(frozen=True)
class ClassifiedCases:
    """One metric of class probabilities, as `classification.score_probabilities` has it."""

    cases: tuple[str, ...]
    units: tuple[str, ...]
    probabilities: np.ndarray  # (N, K) float64
    truth: np.ndarray  # (N, K) bool
    multi_label: bool
    metric: str
    class_index: int | None  # None: over all classes

    def score(self, weights: np.ndarray) -> np.ndarray:
        predicted = predict_indicators(self.probabilities, self.multi_label)
        scores = score_samples(weights, self.probabilities, self.truth, predicted, self.multi_label)
        values, per_class = scores[self.metric]
        if self.class_index is None:
            return values
        assert per_class is not None
        return per_class[:, self.class_index]

    def case_values(self) -> np.ndarray | None:
        if self.metric != "accuracy":
            return None
        predicted = predict_indicators(self.probabilities, self.multi_label)
        return (predicted == self.truth).all(axis=1).astype(np.float64)


def read_table(path: Path, metric: str, task: str, multi_label: bool) -> CaseTable:
    """The labelled cases of a cases.csv, to be scored by `metric`: `dice.mean`, `nsd.CLASS`, `auc`, `f1.CLASS`, ...

    Raises ValueError where the file lacks the metric, or holds no labelled case.
    """
    rows = read_rows(path)
    if not rows:
        raise ValueError(f"{path}: no case in it")
    if metric.startswith(("hd95", "nsd")):
        require_surface_definition(path.parent)
    try:
        return _read_segmented(rows, metric) if task == "segmentation" else _read_classified(rows, metric, multi_label)
    except KeyError as error:
        raise ValueError(f"{path}: no column {error}; was it written by evaluate.py?") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_rows(path: Path) -> list[Row]:
    """The rows of a cases.csv: one a case, of segmentations one a case and class."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def labelled_rows(rows: list[Row], task: str) -> list[Row]:
    key = "reference_volume_ml" if task == "segmentation" else "correct"
    return [row for row in rows if row[key]]  # empty without a label


def class_names_of(rows: list[Row], task: str) -> list[str]:
    """The classes of segmentations, or those that probabilities are of."""
    if task == "segmentation":
        return list(dict.fromkeys(row["class"] for row in rows))
    return [key[2:-1] for key in rows[0] if key.startswith("p(")]


def units_of(rows: list[Row]) -> tuple[str, ...]:
    """What a bootstrap draws as one, for each case: its group, or the case alone; none has a group in old files."""
    groups = {row["case"]: row.get("group") for row in rows}
    return tuple(f"group {group}" if group else f"case {case}" for case, group in groups.items())


def require_surface_definition(evaluation: Path) -> None:
    """Raise ValueError where an evaluation of segmentations measured surfaces otherwise than this version does."""
    path = evaluation / "metrics.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("surface_definition") if path.is_file() else None
    if found != SURFACE_DEFINITION:
        raise ValueError(
            f"{path}: surface_definition={found!r}, expected {SURFACE_DEFINITION!r}: its HD95 and NSD are others under "
            "the same names; evaluate the run again"
        )


def values_of(rows: list[Row], column: str, names: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The cases of segmentations, and a metric of theirs (N, classes), NaN where there is none."""
    cases = {case: i for i, case in enumerate(dict.fromkeys(row["case"] for row in rows))}
    values = np.full((len(cases), len(names)), np.nan)
    for row in rows:
        values[cases[row["case"]], names.index(row["class"])] = float(row[column] or "nan")
    return tuple(cases), values


def _read_segmented(rows: list[Row], metric: str) -> SegmentedCases:
    column, _, chosen = metric.partition(".")
    names = class_names_of(rows, "segmentation")
    if column not in metrics.METRICS or (chosen not in ("", "mean") and chosen not in names):
        known = ", ".join(metrics.METRICS)
        raise ValueError(f"no metric {metric}: expected one of {known}, then .mean or a class, .{', .'.join(names)}")
    rows = labelled_rows(rows, "segmentation")
    cases, values = values_of(rows, column, names)
    if not cases:
        raise ValueError("no labelled case in it")
    return SegmentedCases(cases, units_of(rows), values if chosen in ("", "mean") else values[:, [names.index(chosen)]])


def _read_classified(rows: list[Row], metric: str, multi_label: bool) -> ClassifiedCases:
    name, _, chosen = metric.partition(".")
    class_names = class_names_of(rows, "classification")
    if name not in classification.METRICS or (chosen and chosen not in class_names):
        known = ", ".join(classification.METRICS)
        raise ValueError(f"no metric {metric}: expected one of {known}, or auc.CLASS, f1.CLASS")
    rows = labelled_rows(rows, "classification")
    if not rows:
        raise ValueError("no labelled case in it")
    labels = [[class_names.index(label) for label in row["label"].split("|") if label] for row in rows]
    truth = np.array([[k in found for k in range(len(class_names))] for found in labels])
    if not multi_label:
        truth = as_indicators(np.array([found[0] for found in labels]), len(class_names))
    probabilities = np.array([[float(row[f"p({name})"]) for name in class_names] for row in rows])
    return ClassifiedCases(
        tuple(row["case"] for row in rows),
        units_of(rows),
        probabilities,
        truth,
        multi_label,
        name,
        class_names.index(chosen) if chosen else None,
    )


def whole_score(table: CaseTable) -> float:
    """The metric over all cases, each counted once."""
    return float(table.score(np.ones((1, len(table.cases))))[0])

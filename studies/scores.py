"""A run's scores from its cases.csv: of all cases, and of any weighting of them, as a bootstrap draws them."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from engine import classification, metrics
from engine.classification import as_indicators, predict_indicators
from engine.resampling import score_samples


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
    values: np.ndarray  # (N, classes) float64; NaN and infinities are left out of means

    @property
    def units(self) -> tuple[str, ...]:
        return self.cases

    def score(self, weights: np.ndarray) -> np.ndarray:
        there = np.isfinite(self.values)
        with np.errstate(invalid="ignore"):
            means = (weights @ np.where(there, self.values, 0)) / (weights @ there)  # (S, classes)
        return _mean_of_finite(means)

    def case_values(self) -> np.ndarray | None:
        return _mean_of_finite(self.values)


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
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: no case in it")
    try:
        return _read_segmented(rows, metric) if task == "segmentation" else _read_classified(rows, metric, multi_label)
    except KeyError as error:
        raise ValueError(f"{path}: no column {error}; was it written by evaluate.py?") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_segmented(rows: list[dict[str, str]], metric: str) -> SegmentedCases:
    column, _, chosen = metric.partition(".")
    names = list(dict.fromkeys(row["class"] for row in rows))
    if column not in metrics.METRICS or (chosen not in ("", "mean") and chosen not in names):
        known = ", ".join(metrics.METRICS)
        raise ValueError(f"no metric {metric}: expected one of {known}, then .mean or a class, .{', .'.join(names)}")
    rows = [row for row in rows if row["reference_volume_ml"]]  # empty without labels
    cases = {case: i for i, case in enumerate(dict.fromkeys(row["case"] for row in rows))}
    values = np.full((len(cases), len(names)), np.nan)
    for row in rows:
        values[cases[row["case"]], names.index(row["class"])] = float(row[column] or "nan")
    if not cases:
        raise ValueError("no labelled case in it")
    return SegmentedCases(tuple(cases), values if chosen in ("", "mean") else values[:, [names.index(chosen)]])


def _read_classified(rows: list[dict[str, str]], metric: str, multi_label: bool) -> ClassifiedCases:
    name, _, chosen = metric.partition(".")
    class_names = [key[2:-1] for key in rows[0] if key.startswith("p(")]
    if name not in classification.METRICS or (chosen and chosen not in class_names):
        known = ", ".join(classification.METRICS)
        raise ValueError(f"no metric {metric}: expected one of {known}, or auc.CLASS, f1.CLASS")
    rows = [row for row in rows if row["correct"]]  # empty without a label
    if not rows:
        raise ValueError("no labelled case in it")
    labels = [[class_names.index(label) for label in row["label"].split("|") if label] for row in rows]
    truth = np.array([[k in found for k in range(len(class_names))] for found in labels])
    if not multi_label:
        truth = as_indicators(np.array([found[0] for found in labels]), len(class_names))
    units = [f"group {row['group']}" if row["group"] else f"case {row['case']}" for row in rows]
    probabilities = np.array([[float(row[f"p({name})"]) for name in class_names] for row in rows])
    return ClassifiedCases(
        tuple(row["case"] for row in rows),
        tuple(units),
        probabilities,
        truth,
        multi_label,
        name,
        class_names.index(chosen) if chosen else None,
    )


def whole_score(table: CaseTable) -> float:
    """The metric over all cases, each counted once."""
    return float(table.score(np.ones((1, len(table.cases))))[0])


def _mean_of_finite(values: np.ndarray) -> np.ndarray:
    """(S, K) -> (S,): the mean of each row's finite values, NaN without any."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(axis=1) / there.sum(axis=1)

"""Scores of cases, for all of them or for a bootstrap's weighting of them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.metrics.arithmetic import row_means
from engine.metrics.bootstrap import score_samples
from engine.metrics.classification import predict_indicators


class CaseTable(Protocol):
    """The cases of one evaluation and a metric on them."""

    @property
    def cases(self) -> tuple[str, ...]: ...

    @property
    def units(self) -> tuple[str, ...]:
        """For each case the unit that a bootstrap draws: its group, or the case itself."""

    def score(self, weights: np.ndarray) -> np.ndarray:
        """Return the metric (S,) of each weighting (S, N) of the cases, NaN where it is undefined."""

    def case_values(self) -> np.ndarray | None:
        """Return the metric of each case (N,); None where the score is not their mean."""


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


def whole_score(table: CaseTable) -> float:
    """Return the metric over all cases, each counted once."""
    return float(table.score(np.ones((1, len(table.cases))))[0])

"""What predicted class probabilities are worth against the labels: scikit-learn's metrics, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics as sk

from engine.metrics.bootstrap import (
    MIN_UNITS,
    describe_units,
    draw_weights,
    mean_over_classes,
    resampling_units,
    score_samples,
    with_interval,
)

METRICS = ("accuracy", "balanced_accuracy", "f1", "auc", "average_precision", "log_loss")


@dataclass(frozen=True)
class Score:
    """One metric: its value over all classes and, where it has such, of each class. NaN where it is undefined."""

    value: float
    per_class: np.ndarray | None = None  # (K,)


def as_indicators(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels as booleans (N, K): of class indices (N,), or of the 0s and 1s (N, K) of a multi-label task.

    Raises ValueError for labels that are neither.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        if labels.shape[1] != num_classes or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"multi-label targets must be 0 or 1, {num_classes} a case; got shape {labels.shape}")
        return labels.astype(bool)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels must lie in 0..{num_classes - 1}; got {labels.min()}..{labels.max()}")
    return labels[:, None] == np.arange(num_classes)


def predict_indicators(probabilities: np.ndarray, multi_label: bool) -> np.ndarray:
    """Predicted classes as booleans (N, K): the most probable one, or all from 0.5 upwards of a multi-label task."""
    if multi_label:
        return probabilities >= 0.5
    return probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])


def score_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Score]:
    """Every metric of METRICS.

    probabilities: (N, K). labels: (N,) class indices, or (N, K) 0s and 1s of a multi-label task.

    accuracy           share of cases that are right, in all labels
    balanced_accuracy  mean over classes; of each, its recall, or (multi-label) the mean of recall and specificity
    f1                 mean over classes (macro); predicted is the most probable class, or all from 0.5 upwards
    auc                area under the ROC curve of each class against the rest, and their mean; of two classes that
                       exclude each other, the second one's
    average_precision  as auc
    log_loss           mean of -log p(label); multi-label: the mean over the labels' binary log losses

    A class that has no cases, or for auc and average_precision no others, has no score, and means leave it out.
    """
    multi_label, num_classes = np.ndim(labels) == 2, probabilities.shape[1]
    truth = as_indicators(labels, num_classes)
    predicted = predict_indicators(probabilities, multi_label)
    columns: dict[str, list[float]] = {name: [] for name in ("balanced_accuracy", "f1", "auc", "average_precision")}
    for k in range(num_classes):
        for name, value in _score_class(truth[:, k], predicted[:, k], probabilities[:, k], multi_label).items():
            columns[name].append(value)
    scores = {"accuracy": Score(float((truth == predicted).all(axis=1).mean()) if len(truth) else np.nan)}
    for name, values in columns.items():
        per_class = np.array(values)
        scores[name] = Score(float(mean_over_classes(name, per_class, multi_label)), per_class)
    scores["log_loss"] = Score(_log_loss(probabilities, truth, multi_label))
    return scores


def _score_class(truth: np.ndarray, predicted: np.ndarray, p: np.ndarray, multi_label: bool) -> dict[str, float]:
    """Return the scores of one class against the rest, each from (N,)."""
    if not len(truth):
        return dict.fromkeys(("balanced_accuracy", "f1", "auc", "average_precision"), np.nan)
    recall = sk.recall_score(truth, predicted, zero_division=np.nan)
    specificity = sk.recall_score(~truth, ~predicted, zero_division=np.nan)
    both = truth.any() and not truth.all()
    return {
        "balanced_accuracy": (recall + specificity) / 2 if multi_label else recall,
        "f1": sk.f1_score(truth, predicted, zero_division=np.nan),
        "auc": sk.roc_auc_score(truth, p) if both else np.nan,
        "average_precision": sk.average_precision_score(truth, p) if both else np.nan,
    }


def _log_loss(probabilities: np.ndarray, truth: np.ndarray, multi_label: bool) -> float:
    if not len(truth):
        return np.nan
    if not multi_label:
        return float(sk.log_loss(truth.argmax(axis=1), probabilities, labels=range(truth.shape[1])))
    columns = zip(truth.T, probabilities.T, strict=True)
    return float(np.mean([sk.log_loss(y, p, labels=[0, 1]) for y, p in columns]))


def summarise(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str | None],
    class_names: Sequence[str],
    num_samples: int,
) -> dict[str, Any]:
    """Return the part of metrics.json that comes from the probabilities (N, K) and labels (N,) or (N, K) of all cases.

    {"num_cases", each metric of METRICS: value, "details": {metric: {"value", "interval_95", and where classes
    have scores "per_class": {class: {"value", "interval_95"}}}}, "cases_per_class", "interval_by": "group" or
    "case", "num_groups", "notes": [why a number is undefined]}, and of labels that exclude each other "confusion":
    rows are labels, columns predictions. Intervals are bootstrap 95 % intervals over `resampling_units`; with fewer
    than MIN_UNITS of them they are NaN.
    """
    units = resampling_units(groups)
    scores = score_probabilities(probabilities, labels)
    samples = _resample(probabilities, labels, units, num_samples)
    truth = as_indicators(labels, len(class_names))
    details = {name: _describe(score, samples.get(name), class_names) for name, score in scores.items()}
    summary: dict[str, Any] = {
        "num_cases": len(labels),
        **{name: score.value for name, score in scores.items()},
        "details": details,
        "cases_per_class": dict(zip(class_names, truth.sum(axis=0).tolist(), strict=True)),
        **describe_units(units),
        "notes": explain_undefined(truth, class_names),
    }
    if np.ndim(labels) == 1 and len(labels):
        predicted = probabilities.argmax(axis=1)
        summary["confusion"] = sk.confusion_matrix(labels, predicted, labels=range(len(class_names))).tolist()
    return summary


def compare(
    probabilities: np.ndarray,
    others: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str | None],
    num_samples: int,
) -> dict[str, dict[str, Any]]:
    """Differences of two predictions of the same cases, the first less the second.

    {metric: {"value", "interval_95"}}: the bootstrap draws the same cases, or groups, for both (paired).
    """
    units = resampling_units(groups)
    first, second = score_probabilities(probabilities, labels), score_probabilities(others, labels)
    samples = _resample(probabilities, labels, units, num_samples)
    other_samples = _resample(others, labels, units, num_samples)
    return {
        name: with_interval(
            first[name].value - second[name].value, samples[name][0] - other_samples[name][0] if samples else None
        )
        for name in METRICS
    }


def explain_undefined(truth: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Sentences on the numbers that do not exist, from truth (N, K)."""
    if not len(truth):
        return ["no labelled case: nothing is scored"]
    absent = [name for name, column in zip(class_names, truth.T, strict=True) if not column.any()]
    only = [name for name, column in zip(class_names, truth.T, strict=True) if column.all()]
    notes = []
    if absent:
        notes.append(f"no case of {', '.join(absent)}: left out of means over classes")
    if only:
        notes.append(f"every case is {', '.join(only)}: auc and average_precision need others too, and are undefined")
    return notes


Samples = Mapping[str, tuple[np.ndarray, np.ndarray | None]]


def _resample(probabilities: np.ndarray, labels: np.ndarray, units: Sequence[object], num_samples: int) -> Samples:
    """Return the metrics of bootstrap samples; empty where there are fewer than MIN_UNITS to draw."""
    if len(set(units)) < MIN_UNITS:
        return {}
    multi_label = np.ndim(labels) == 2
    truth = as_indicators(labels, probabilities.shape[1])
    predicted = predict_indicators(probabilities, multi_label)
    return score_samples(draw_weights(units, num_samples), probabilities, truth, predicted, multi_label)


def _describe(
    score: Score, samples: tuple[np.ndarray, np.ndarray | None] | None, class_names: Sequence[str]
) -> dict[str, Any]:
    values, per_class = (None, None) if samples is None else samples
    row: dict[str, Any] = with_interval(score.value, values)
    if score.per_class is not None:
        columns = [None] * len(class_names) if per_class is None else list(per_class.T)
        entries = zip(class_names, score.per_class.tolist(), columns, strict=True)
        row["per_class"] = {name: with_interval(value, column) for name, value, column in entries}
    return row

"""Bootstrap of classification metrics: thousands of samples of the cases at once.

A bootstrap sample is a weighting of the cases, so each metric is written here as sums of weights. The values
are scikit-learn's with `sample_weight`, which would take milliseconds a sample and metric.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.metrics.arithmetic import divide, row_means

MIN_UNITS = 10
"""Of fewer cases, or groups of them, no interval is given: none covers what it says (docs/uncertainty.md)."""

_CHUNK = 2_000_000  # weights at a time: some temporaries of 16 MB


def resampling_units(groups: Sequence[str | None]) -> list[str]:
    """Return what the bootstrap draws as one, for each case: its group, or the case alone where it has none."""
    return [f"case {i}" if group is None else f"group {group}" for i, group in enumerate(groups)]


def describe_units(units: Sequence[object]) -> dict[str, Any]:
    """Return what intervals are over, for metrics.json: {"interval_by": "case" or "group", "num_groups"}."""
    return {"interval_by": "case" if len(set(units)) == len(units) else "group", "num_groups": len(set(units))}


def explain_units(metrics: Mapping[str, Any]) -> str:
    """Return what intervals are over, in a sentence, or why there are none; from `describe_units`."""
    count, unit = metrics["num_groups"], metrics["interval_by"] + "s" * (metrics["num_groups"] != 1)
    if count < MIN_UNITS:
        return f"{count} {unit}: too few for an interval, which needs {MIN_UNITS}; look at the cases one by one"
    return f"95 % intervals: bootstrap over {count} {unit}"


def draw_weights(groups: Sequence[object], num_samples: int, seed: int = 0) -> np.ndarray:
    """Return how often each case is in each bootstrap sample, int64 (num_samples, cases).

    groups: of each case, whatever identifies it. Whole groups are drawn, as many as there are, with
    replacement: cases of one group resemble each other, and drawing them apart would make intervals too narrow
    (Davison & Hinkley 1997, «Bootstrap Methods and their Application», section 3.8).
    """
    _, group_of_case = np.unique([str(group) for group in groups], return_inverse=True)
    num_groups = int(group_of_case.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), num_samples)
    return drawn[:, group_of_case]


def whole_and_samples(units: Sequence[object], num_samples: int, seed: int = 0) -> np.ndarray:
    """Weights of all cases once, then of the samples (1 + samples, cases); the first alone of fewer than MIN_UNITS."""
    whole = np.ones((1, len(units)))
    if len(set(units)) < MIN_UNITS:
        return whole
    return np.concatenate([whole, draw_weights(units, num_samples, seed)])


def in_chunks(weights: np.ndarray, numbers: int) -> list[np.ndarray]:
    """Return the weights (S, N) in parts of about so many numbers, which bounds the temporaries."""
    size = max(1, numbers // max(1, weights.shape[1]))
    return [weights[i : i + size] for i in range(0, len(weights), size)]


def interval_95(samples: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the samples (S,) that are defined; NaN where none is."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return np.nan, np.nan
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def with_interval(value: float, samples: np.ndarray | None) -> dict[str, Any]:
    """{"value", "interval_95"}: of samples (S,) of it; NaN without samples, or where the value is undefined."""
    interval = (np.nan, np.nan) if samples is None or not np.isfinite(value) else interval_95(samples)
    return {"value": value, "interval_95": interval}


def score_samples(
    weights: np.ndarray, probabilities: np.ndarray, truth: np.ndarray, predicted: np.ndarray, multi_label: bool
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Every metric of `classification.score_probabilities` of every sample: {name: (values (S,), per class (S, K))}.

    weights: (S, N). probabilities, truth, predicted: (N, K). NaN where a sample leaves a metric undefined.
    """
    chunks = [
        _score_chunk(chunk.astype(np.float64), probabilities, truth, predicted, multi_label)
        for chunk in in_chunks(weights, _CHUNK)
    ]
    joined: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name in chunks[0]:
        values = np.concatenate([chunk[name][0] for chunk in chunks])
        per_class = [part for chunk in chunks if (part := chunk[name][1]) is not None]
        joined[name] = values, np.concatenate(per_class) if per_class else None
    return joined


def mean_over_classes(name: str, per_class: np.ndarray, multi_label: bool) -> np.ndarray:
    """Return a metric's value from those of its classes (..., K): the mean of those that are defined.

    Of two classes that exclude each other, auc and average_precision are those of the second.
    """
    if per_class.shape[-1] == 2 and not multi_label and name in ("auc", "average_precision"):
        return per_class[..., 1]
    return row_means(per_class)


def _score_chunk(
    weights: np.ndarray, probabilities: np.ndarray, truth: np.ndarray, predicted: np.ndarray, multi_label: bool
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    total = weights.sum(axis=1)  # (S,)
    positives, guesses, hits = weights @ truth, weights @ predicted, weights @ (truth & predicted)  # (S, K)
    recall = divide(hits, positives)
    specificity = divide(weights @ (~truth & ~predicted), total[:, None] - positives)
    ranked = [_rank(weights, probabilities[:, k], truth[:, k]) for k in range(truth.shape[1])]
    per_class = {
        "balanced_accuracy": (recall + specificity) / 2 if multi_label else recall,
        "f1": divide(2 * hits, positives + guesses),
        "auc": np.stack([auc for auc, _ in ranked], axis=1),
        "average_precision": np.stack([precision for _, precision in ranked], axis=1),
    }
    scores: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        name: (mean_over_classes(name, values, multi_label), values) for name, values in per_class.items()
    }
    scores["accuracy"] = weights @ (truth == predicted).all(axis=1) / total, None
    scores["log_loss"] = weights @ case_losses(probabilities, truth, multi_label) / total, None
    return scores


def case_losses(probabilities: np.ndarray, truth: np.ndarray, multi_label: bool) -> np.ndarray:
    """-log p(label) of each case (N,); multi-label: the mean over its labels of the binary log loss."""
    tiny = np.finfo(np.float64).eps
    p = np.clip(probabilities, tiny, 1 - tiny)
    if multi_label:
        return -np.where(truth, np.log(p), np.log1p(-p)).mean(axis=1)
    return -np.log(p[truth])


def _rank(weights: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC and average precision of one class (N,) in every sample, each (S,)."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores make one threshold
    weights, truth = weights[:, order], truth[order]
    hits = np.cumsum(weights * truth, axis=1)[:, last]  # true positives from each threshold upwards, (S, T)
    alarms = np.cumsum(weights * ~truth, axis=1)[:, last]  # false ones
    new_hits, new_alarms = np.diff(hits, axis=1, prepend=0), np.diff(alarms, axis=1, prepend=0)
    positives, negatives = hits[:, -1], alarms[:, -1]
    auc = divide((new_alarms * (hits - new_hits / 2)).sum(axis=1), positives * negatives)
    precision = hits / np.maximum(hits + alarms, 1)  # where there are neither, new_hits is 0 too
    average_precision = divide((new_hits * precision).sum(axis=1), positives)
    return auc, np.where(negatives > 0, average_precision, np.nan)

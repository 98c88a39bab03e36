"""Whether probabilities come true: expected calibration errors, Brier score, negative log-likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 15
TINY = float(np.finfo(np.float64).eps)  # what probabilities are clipped to before their logarithm, as in `log_loss`


@dataclass(frozen=True)
class Reliability:
    """Sums over N decisions (voxels, or cases) from which all scores here follow; they add up.

    Rows of the bins are [number, sum of probabilities, how many of them came true]. Bins are of equal width, and
    right-closed, as in Guo et al. 2017 (arXiv:1706.04599).
    """

    count: float
    top: np.ndarray  # (BINS, 3) float64, by the probability of what was decided
    classes: np.ndarray  # (K, BINS, 3), by the probability of each class
    brier: float
    nll: float


def count_reliability(probabilities: np.ndarray, labels: np.ndarray) -> Reliability:
    """Return the sums over probabilities (N, K) and labels (N,), or (N, K) of 0 and 1 where classes may coincide.

    There each class of a case is decided independently, right from 0.5 upwards; Brier score and nll are means over
    the classes. Otherwise the most probable class is decided on, and Brier score is summed over them (0 to 2).
    """
    p = np.asarray(probabilities, np.float64)
    num_classes = p.shape[1]
    multi_label = np.ndim(labels) == 2
    truth = labels.astype(bool) if multi_label else labels[:, None] == np.arange(num_classes)
    classes = np.stack([_fill_bins(p[:, k], truth[:, k]) for k in range(num_classes)])
    squares = float(np.square(p - truth).sum())
    clipped = p.clip(TINY, 1 - TINY)
    if multi_label:
        top = _fill_bins(np.maximum(p, 1 - p).ravel(), ((p >= 0.5) == truth).ravel())
        nll = -float(np.where(truth, np.log(clipped), np.log1p(-clipped)).sum())
        return Reliability(len(p), top, classes, squares / num_classes, nll / num_classes)
    top = _fill_bins(p.max(axis=1), np.take_along_axis(truth, p.argmax(axis=1)[:, None], axis=1)[:, 0])
    return Reliability(len(p), top, classes, squares, -float(np.log(clipped[truth]).sum()))


def _fill_bins(p: np.ndarray, came_true: np.ndarray) -> np.ndarray:
    number = (np.ceil(p * BINS).astype(np.intp) - 1).clip(0, BINS - 1)
    weights = (None, p, came_true)
    return np.stack([np.bincount(number, w, BINS).astype(np.float64) for w in weights], axis=1)


def add_reliability(parts: Sequence[Reliability], alike: bool = False) -> Reliability:
    """Return the sum of the parts; `alike`: of each divided by its count, so that all weigh the same."""
    weights = [1 / part.count if alike else 1.0 for part in parts]
    pairs = list(zip(weights, parts, strict=True))
    return Reliability(
        count=sum(w * part.count for w, part in pairs),
        top=np.sum([w * part.top for w, part in pairs], axis=0),
        classes=np.sum([w * part.classes for w, part in pairs], axis=0),
        brier=sum(w * part.brier for w, part in pairs),
        nll=sum(w * part.nll for w, part in pairs),
    )


def score_reliability(sums: Reliability) -> dict[str, float]:
    """Return the scores, of which less is better.

    ece            expected calibration error: |how often right - mean confidence| in each bin, the mean over decisions
    classwise_ece  the same of the probability of each class, the mean over the classes (Kull et al. 2019,
                   arXiv:1910.12656)
    brier, nll     means of the squared error of the probabilities, and of -log p(label)
    """
    return {
        "ece": _calibration_error(sums.top),
        "classwise_ece": float(np.mean([_calibration_error(bins) for bins in sums.classes])),
        "brier": sums.brier / sums.count,
        "nll": sums.nll / sums.count,
    }


def _calibration_error(bins: np.ndarray) -> float:
    return float(np.abs(bins[:, 2] - bins[:, 1]).sum() / bins[:, 0].sum())


def reliability_bins(sums: Reliability) -> list[dict[str, Any]]:
    """Rows of a reliability diagram, of the bins that are not empty: {"share", "confidence", "accuracy"}."""
    total = sums.top[:, 0].sum()
    return [
        {"share": float(n / total), "confidence": float(p / n), "accuracy": float(right / n)}
        for n, p, right in sums.top
        if n > 0
    ]

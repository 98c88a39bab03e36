"""Whether uncertainty tells errors: error AUROC, and risk when the most uncertain cases are left to an expert.

All take counts of the wrong and the right ones in rising order of uncertainty, (..., B): what shares a bin is tied.
"""

import numpy as np
from scipy.special import digamma

from engine.metrics.arithmetic import divide

RANKS = 4096
_LOWEST = 1e-12


def rank_bins(values: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the bin, 0 to RANKS - 1, of each value of a measure, which is at most log(num_classes).

    Bins are 0.7 % wide, and values up to 1e-12 share the first: most voxels' uncertainty is near zero, where its
    order matters as much.
    """
    span = np.log(max(np.log(num_classes), np.log(2)) / _LOWEST)
    bins = np.log(np.maximum(values, _LOWEST) / _LOWEST) * (RANKS / span)
    return bins.astype(np.intp).clip(0, RANKS - 1)


def rank_exactly(values: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (S, B) of few values (N,), a bin for each different one; weights (S, N): how often each is there."""
    _, bins = np.unique(values, return_inverse=True)
    places = np.eye(int(bins.max()) + 1)[bins]  # (N, B)
    return (weights * wrong) @ places, (weights * ~wrong) @ places


def error_auroc(wrong: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the chance that an error is more uncertain than what is right, ties counting half; NaN without either."""
    below = np.cumsum(right, axis=-1) - right / 2
    pairs = wrong.sum(axis=-1) * right.sum(axis=-1)
    return divide((wrong * below).sum(axis=-1), pairs)


def risk_coverage(wrong: np.ndarray, right: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Return the share of errors among the least uncertain `coverage` (0 to 1) of all, of counts (B,)."""
    there = (wrong + right) > 0
    kept = np.append(0, np.cumsum((wrong + right)[there]))
    errors = np.append(0, np.cumsum(wrong[there]))
    amount = coverage * kept[-1]
    return divide(np.interp(amount, kept, errors), amount)


def aurc(wrong: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the area under the risk-coverage curve, the mean risk (Geifman et al. 2019, arXiv:1805.08206).

    Its expectation over the orders in which what is tied may come, of whole counts. Within n tied, e of them wrong,
    the j-th leaves (E + e j / n) / (N + j): a harmonic sum.
    """
    n, e = wrong + right, wrong
    before, errors = np.cumsum(n, axis=-1) - n, np.cumsum(e, axis=-1) - e
    rate = np.divide(e, n, out=np.zeros(n.shape), where=n > 0)
    sums = e + (errors - rate * before) * (digamma(before + n + 1) - digamma(before + 1))
    return divide(sums.sum(axis=-1), n.sum(axis=-1))


def least_aurc(wrong: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`aurc` of an uncertainty that knows the errors."""
    errors, others = wrong.sum(axis=-1), right.sum(axis=-1)
    zeros = np.zeros_like(errors)
    # one after the other: within the right ones the risk is 0, within the wrong ones it rises
    return aurc(np.stack([zeros, errors], axis=-1), np.stack([others, zeros], axis=-1))

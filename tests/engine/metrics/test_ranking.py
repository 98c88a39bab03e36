from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from engine.metrics.ranking import RANKS, aurc, error_auroc, least_aurc, rank_bins, rank_exactly, risk_coverage


def counts(values: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = rank_exactly(values, wrong, np.ones((1, len(values))))
    return first[0], second[0]


def test_area_under_the_roc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 8, 60) / 8.0  # ties
    wrong = rng.uniform(size=60) < values
    assert error_auroc(*counts(values, wrong)) == pytest.approx(roc_auc_score(wrong, values))
    weights = rng.integers(0, 3, (4, 60))
    expected = [roc_auc_score(wrong, values, sample_weight=w) for w in weights]
    np.testing.assert_allclose(error_auroc(*rank_exactly(values, wrong, weights)), expected)
    assert np.isnan(error_auroc(np.array([0.0, 0.0]), np.array([1.0, 2.0])))


def test_bins_lose_little_of_the_order() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.uniform(np.log(1e-9), np.log(np.log(3)), 20000))
    wrong = rng.uniform(size=20000) < values**0.2 / 2
    bins = rank_bins(values.astype(np.float32), 3)
    binned = [np.bincount(bins[which], minlength=RANKS) for which in (wrong, ~wrong)]
    assert error_auroc(*np.array(binned, float)) == pytest.approx(roc_auc_score(wrong, values), abs=2e-4)
    np.testing.assert_array_equal(rank_bins(np.array([0.0, 1e-12, np.log(3), 5.0]), 3), [0, 0, RANKS - 1, RANKS - 1])


def test_risk_and_its_area_by_hand() -> None:
    """Right, wrong, right, right by rising uncertainty: risks 0, 1/2, 1/3, 1/4."""
    wrong, right = np.array([0.0, 1, 0, 0]), np.array([1.0, 0, 1, 1])
    np.testing.assert_allclose(risk_coverage(wrong, right, np.array([0.25, 0.5, 0.75, 1])), [0, 1 / 2, 1 / 3, 1 / 4])
    assert aurc(wrong, right) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert least_aurc(wrong, right) == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    tied = [1, 0, 0]  # after one that is right
    areas = []
    for order in permutations(tied):
        errors = np.cumsum([0, *order])
        areas.append(np.mean(errors / np.arange(1, 5)))
    assert aurc(np.array([0.0, 1]), np.array([1.0, 2])) == pytest.approx(np.mean(areas))
    wrong, right = np.array([3.0]), np.array([9.0])
    assert aurc(wrong, right) == pytest.approx(0.25)
    assert risk_coverage(wrong, right, np.array([0.1, 1.0])) == pytest.approx([0.25, 0.25])

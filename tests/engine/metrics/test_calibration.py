import numpy as np
import pytest

from engine.metrics.calibration import add_reliability, count_reliability, reliability_bins, score_reliability
from engine.metrics.classification import score_probabilities


def test_scores_and_bins_by_hand() -> None:
    """Two decisions of 0.9, one of them right, and one of 0.6 that is right."""
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    scores = score_reliability(count_reliability(p, np.array([0, 1, 1])))
    assert scores["ece"] == pytest.approx(2 / 3 * abs(0.9 - 0.5) + 1 / 3 * abs(0.6 - 1))
    assert scores["classwise_ece"] == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.4)  # the same for both classes
    assert scores["brier"] == pytest.approx((2 * 0.01 + 2 * 0.81 + 2 * 0.16) / 3)
    assert scores["nll"] == pytest.approx(-(np.log(0.9) + np.log(0.1) + np.log(0.6)) / 3)
    p = np.array([[0.9, 0.2]])
    scores = score_reliability(count_reliability(p, np.array([[1, 1]])))
    assert scores["ece"] == pytest.approx((abs(0.9 - 1) + abs(0.8 - 0)) / 2)
    assert scores["classwise_ece"] == pytest.approx((0.1 + 0.8) / 2)
    assert scores["brier"] == pytest.approx((0.01 + 0.64) / 2)
    assert scores["nll"] == pytest.approx(-(np.log(0.9) + np.log(0.2)) / 2)
    assert np.isfinite(score_reliability(count_reliability(np.array([[1.0, 0.0]]), np.array([1])))["nll"])
    bins = reliability_bins(count_reliability(np.array([[0.4, 0.6], [0.39, 0.61]]), np.array([1, 0])))
    assert bins == [  # 0.6 is 9 / 15: it ends a bin
        {"share": 0.5, "confidence": 0.6, "accuracy": 1.0},
        {"share": 0.5, "confidence": 0.61, "accuracy": 0.0},
    ]


@pytest.mark.parametrize("multi_label", [False, True])
def test_nll_is_the_log_loss(multi_label: bool) -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(50, 3)) if multi_label else rng.dirichlet(np.ones(3), size=50)
    labels = rng.integers(0, 2, (50, 3)) if multi_label else rng.integers(0, 3, 50)
    expected = score_probabilities(p, labels)["log_loss"].value
    assert score_reliability(count_reliability(p, labels))["nll"] == pytest.approx(expected)


def test_probabilities_that_come_true_have_little_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=40000)
    labels = (rng.uniform(size=(40000, 1)) > p.cumsum(axis=1)[:, :2]).sum(axis=1)
    calibrated = score_reliability(count_reliability(p, labels))
    assert calibrated["ece"] < 0.01
    sharpened = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert score_reliability(count_reliability(sharpened, labels))["ece"] > 0.1


def test_sums_of_parts_are_those_of_the_whole_or_let_cases_weigh_alike() -> None:
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.ones(3), size=30), rng.integers(0, 3, 30)
    parts = [count_reliability(p[:10], labels[:10]), count_reliability(p[10:], labels[10:])]
    whole = score_reliability(count_reliability(p, labels))
    assert score_reliability(add_reliability(parts)) == pytest.approx(whole)
    alike = score_reliability(add_reliability(parts, alike=True))
    assert alike["brier"] == pytest.approx(np.mean([score_reliability(part)["brier"] for part in parts]))
    assert alike["brier"] != pytest.approx(whole["brier"])

import numpy as np
import pytest
from sklearn import metrics as sk

from engine.metrics.bootstrap import draw_weights, interval_95, score_samples
from engine.metrics.classification import predict_indicators, score_probabilities


def random_case(seed: int, num_cases: int, num_classes: int, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, rounded so that some are equal, and labels that they know something of."""
    rng = np.random.default_rng(seed)
    if multi_label:
        labels = rng.integers(0, 2, (num_cases, num_classes))
        return np.clip((0.3 * labels + 0.7 * rng.random(labels.shape)).round(1), 0.05, 0.95), labels
    labels = rng.integers(0, num_classes, num_cases)
    p = rng.random((num_cases, num_classes)).round(1) + 0.05 + 0.4 * np.eye(num_classes)[labels]
    return p / p.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize(("num_classes", "multi_label"), [(2, False), (4, False), (3, True), (1, True)])
def test_a_weighted_sample_scores_as_repeating_its_cases(num_classes: int, multi_label: bool) -> None:
    p, labels = random_case(0, 30, num_classes, multi_label)
    truth = labels.astype(bool) if multi_label else labels[:, None] == np.arange(num_classes)
    weights = draw_weights(range(30), 4, seed=1)
    scores = score_samples(weights, p, truth, predict_indicators(p, multi_label), multi_label)
    for i, weight in enumerate(weights):
        repeated = score_probabilities(np.repeat(p, weight, axis=0), np.repeat(labels, weight, axis=0))
        for name, score in repeated.items():
            values, per_class = scores[name]
            assert values[i] == pytest.approx(score.value, rel=1e-9), name
            if score.per_class is not None:
                np.testing.assert_allclose(per_class[i], score.per_class, rtol=1e-9, err_msg=name)


def test_many_samples_pass_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    p, labels = random_case(1, 20, 3, False)
    truth = labels[:, None] == np.arange(3)
    arguments = draw_weights(range(20), 50), p, truth, predict_indicators(p, False), False
    whole = score_samples(*arguments)
    monkeypatch.setattr("engine.metrics.bootstrap._CHUNK", 140)  # 7 samples at a time
    for name, (values, _) in score_samples(*arguments).items():
        np.testing.assert_allclose(values, whole[name][0], rtol=1e-12)


def test_groups_are_drawn_whole_and_undefined_samples_left_out() -> None:
    weights = draw_weights(["a", "b", "a", "c", "c", "c"], 200)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()  # as many groups as there are
    np.testing.assert_array_equal(weights, draw_weights(["a", "b", "a", "c", "c", "c"], 200))
    assert interval_95(np.array([np.nan, *range(101)])) == (2.5, 97.5)
    assert np.isnan(interval_95(np.array([np.nan]))).all()


def test_interval_covers_the_true_accuracy_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    truth = np.ones((60, 1), bool)
    for seed in range(100):
        right = rng.random((60, 1)) < 0.7
        samples = score_samples(draw_weights(range(60), 300, seed), right * 1.0, truth, right, True)["accuracy"][0]
        low, high = interval_95(samples)
        hits += low <= 0.7 <= high
    assert 88 <= hits <= 99


def test_a_sample_without_positives_has_no_auc() -> None:
    p, labels = np.array([[0.4, 0.6], [0.7, 0.3], [0.2, 0.8]]), np.array([1, 0, 1])
    truth = labels[:, None] == np.arange(2)
    scores = score_samples(np.array([[0, 3, 0], [1, 1, 1]]), p, truth, predict_indicators(p, False), False)
    assert np.isnan(scores["auc"][0][0])
    assert np.isnan(scores["average_precision"][0][0])
    assert scores["auc"][0][1] == sk.roc_auc_score(labels, p[:, 1]) == 1
    assert scores["balanced_accuracy"][0][0] == 1  # of the one class that is there

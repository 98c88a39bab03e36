import numpy as np
import pytest
from scipy.special import softmax

from engine.metrics.uncertainty import Moments, entropy, measure_samples

LOG2 = np.log(2)


def test_entropy_and_information_of_known_predictions() -> None:
    """Two that are certain and disagree: all is information. Two that are equally unsure: none is."""
    total, information, variance = measure_samples(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert (total, information, variance) == pytest.approx((LOG2, LOG2, 0.25))
    assert measure_samples(np.array([[0.5, 0.5], [0.5, 0.5]])) == pytest.approx((LOG2, 0, 0))
    h = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert measure_samples(np.array([[0.9, 0.1], [0.1, 0.9]])) == pytest.approx((LOG2, LOG2 - h, 0.16))
    assert measure_samples(np.array([[0.9, 0.1]])) == pytest.approx((h,))
    np.testing.assert_allclose(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])), [LOG2, 0])
    above = np.nextafter(np.float32(1), np.float32(2))  # as blended windows come to
    assert entropy(np.array([0.5, above]), multi_label=True) == pytest.approx(LOG2 / 2)


def test_running_sums_are_those_of_all_samples_at_once() -> None:
    rng = np.random.default_rng(0)
    samples = softmax(rng.normal(0, 4, (5, 4, 3, 2, 3)), axis=-1).astype(np.float32)  # (S, D, H, W, K)
    moments = Moments((4, 3, 2), 3)
    for number, sample in enumerate(samples, 1):
        moments.add(number, 0, sample[:1])
        moments.add(number, 1, sample[1:])
    mean, maps = moments.finish(5)
    np.testing.assert_allclose(mean, samples.mean(0), atol=1e-6)
    for voxel in np.ndindex(4, 3, 2):
        expected = measure_samples(samples[(slice(None), *voxel)].astype(np.float64))
        np.testing.assert_allclose(maps[voxel], expected, rtol=1e-4, atol=2e-7)
    samples = np.array([[1 - 1e-5, 1e-5], [1 - 3e-5, 3e-5]], np.float32).reshape(2, 1, 1, 1, 2)
    moments = Moments((1, 1, 1), 2)
    for number, sample in enumerate(samples, 1):
        moments.add(number, 0, sample)
    assert moments.finish(2)[1][0, 0, 0, 2] == pytest.approx(1e-10, rel=0.05)

"""Both forms against float64, values and gradients."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from ops import RegionSums, region_sums

TABLE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0]], bool)  # label values 0 to 4


def exact(logits, y, ignore_label, smoothing, weights):
    """The sums in float64, and the gradient of their weighted total."""
    n, regions = logits.shape[0], logits.shape[-1]
    z, y = logits.astype(np.float64).reshape(n, -1, regions), y.reshape(n, -1)
    p = 1 / (1 + np.exp(-z))
    counts = (np.ones(y.shape) if ignore_label is None else y != ignore_label)[..., None].astype(float)
    inside = TABLE[np.where(counts[..., 0] > 0, y, 0)] * counts
    target = inside * (1 - smoothing) + smoothing / 2
    entropy = -target * np.log(p) - (1 - target) * np.log(1 - p)
    terms = [inside * p, counts * p, inside, counts + 0 * p, counts * entropy]
    w = weights[:, :, None]  # (5, N, 1, R)
    gradient = p * (1 - p) * (inside * w[0] + counts * w[1]) + counts * (p - target) * w[4]
    return [term.sum(1) for term in terms], gradient.reshape(logits.shape)


@pytest.mark.parametrize(("ignore_label", "smoothing"), [(None, 0.0), (255, 0.0), (-1, 0.1), (4, 0.2)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 9, 7, 1), (2, 17, 16, 16), (3, 2)])
def test_matches_float64(form, shape, ignore_label, smoothing):
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((*shape, 3))).astype(np.float32)
    y, weights = rng.integers(0, 5, shape).astype(np.int16), rng.standard_normal((5, shape[0], 3))
    if ignore_label is not None:
        y[:, 1] = ignore_label

    def total(logits):
        sums = region_sums(logits, mx.array(y), mx.array(TABLE), ignore_label, smoothing)
        arrays = [getattr(sums, field.name) for field in dataclasses.fields(RegionSums)]
        return sum((a * mx.array(w.astype(np.float32))).sum() for a, w in zip(arrays, weights, strict=True)), arrays

    (_, got), gradient = mx.value_and_grad(total)(mx.array(logits))
    expected, expected_gradient = exact(logits, y, ignore_label, smoothing, weights)
    for field, a, b in zip(dataclasses.fields(RegionSums), got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=field.name)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_extreme_logits_stay_finite(form):
    def surprise(logits):
        return region_sums(logits, mx.array([[3]]), mx.array(TABLE)).surprise.sum()

    value, gradient = mx.value_and_grad(surprise)(mx.array([[[200.0, -200.0, -1e4]]]))
    assert value.item() == 10_200  # what the region's logit lacks, where it should be large
    assert gradient.tolist() == [[[0, -1, -1]]]


def test_bfloat16_logits_keep_their_type(form):
    logits = mx.zeros((1, 2, 2, 2, 3), mx.bfloat16)
    gradient = mx.grad(lambda z: region_sums(z, mx.zeros((1, 2, 2, 2), mx.uint8), mx.array(TABLE)).predicted.sum())
    assert gradient(logits).dtype == mx.bfloat16
    assert mx.all(gradient(logits) == 0.25)


def test_refuses_what_does_not_fit(form):
    with pytest.raises(ValueError, match=r"y must be \(1, 4\) and the table \(values, 2\) for logits .*\(5, 3\)"):
        region_sums(mx.zeros((1, 4, 2)), mx.zeros((1, 4), mx.uint8), mx.array(TABLE))

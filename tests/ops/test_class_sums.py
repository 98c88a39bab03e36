"""Both forms against float64, values and gradients."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from ops import backend
from ops.class_sums import ClassSums, class_sums


def draw(shape, classes, spread=3.0):
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((*shape, classes)) * spread).astype(np.float32)
    return logits, rng.integers(0, classes, shape).astype(np.uint8), rng.standard_normal((6, shape[0], classes))


def exact(logits, y, ignore_label, gamma, weights):
    """The sums in float64, and the gradient of their weighted total by the chain rule in another arrangement."""
    n, k = logits.shape[0], logits.shape[-1]
    z = logits.astype(np.float64).reshape(n, -1, k)
    y = y.reshape(n, -1)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    log_p = np.log(p)
    counts = np.ones(y.shape, bool) if ignore_label is None else y != ignore_label
    counts = counts[..., None].astype(float)
    one_hot = (y[..., None] == np.arange(k)) * counts
    focal = 0 * p if gamma is None else -((1 - p) ** gamma) * log_p
    terms = [one_hot * p, counts * p, one_hot * 1.0, -one_hot * log_p, -counts * log_p, one_hot * focal]
    w = weights[:, :, None]  # (6, N, 1, K)
    by_p = one_hot * w[0] + counts * w[1] - one_hot * w[3] / p - counts * w[4] / p
    if gamma is not None:
        by_p += one_hot * w[5] * (gamma * (1 - p) ** (gamma - 1) * log_p - (1 - p) ** gamma / p)
    gradient = p * (by_p - (by_p * p).sum(-1, keepdims=True))
    return [t.sum(1) for t in terms], gradient.reshape(logits.shape)


@pytest.mark.parametrize(("ignore_label", "gamma"), [(None, None), (1, None), (255, 2.0), (0, 1.5), (-1, 0.0)])
@pytest.mark.parametrize(("shape", "classes"), [((2, 3, 4, 5), 2), ((1, 9, 7, 1), 5), ((2, 17, 16, 16), 3)])
def test_matches_float64(form, shape, classes, ignore_label, gamma):
    logits, y, weights = draw(shape, classes)
    if ignore_label == 255:
        y[:, 1] = 255

    def total(logits):
        sums = class_sums(logits, mx.array(y), ignore_label, gamma)
        arrays = [getattr(sums, field.name) for field in dataclasses.fields(ClassSums)]
        return sum((a * mx.array(w.astype(np.float32))).sum() for a, w in zip(arrays, weights, strict=True)), arrays

    (_, got), gradient = mx.value_and_grad(total)(mx.array(logits))
    expected, expected_gradient = exact(logits, y, ignore_label, gamma, weights)
    for field, a, b in zip(dataclasses.fields(ClassSums), got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=field.name)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_extreme_logits_stay_finite(form):
    logits = mx.array([[[200.0, -200, 0], [-1e4, 1e4, 0]]])
    y = mx.array([[1, 1]])

    def surprise(logits):
        return class_sums(logits, y, focal_gamma=2.0).surprise.sum()

    value, gradient = mx.value_and_grad(surprise)(logits)
    assert value.item() == 400
    np.testing.assert_allclose(gradient, [[[1, -1, 0], [0, 0, 0]]], atol=1e-6)


def test_nan_shows_and_one_label_a_volume_is_a_volume_of_one_voxel(form) -> None:
    logits, y, _ = draw((1, 4, 4, 4), 3)
    logits[0, 1, 1, 1, 0] = np.nan
    sums = class_sums(mx.array(logits), mx.array(y))
    assert mx.isnan(sums.predicted).all()
    logits, y = mx.random.normal((3, 4), key=mx.random.key(0)), mx.array([1, 0, 3])
    whole, voxel = class_sums(logits, y), class_sums(logits[:, None], y[:, None])
    assert mx.array_equal(whole.surprise, voxel.surprise)
    assert np.allclose(np.array(whole.predicted), np.array(mx.softmax(logits, axis=-1)), atol=1e-6)


def test_bfloat16_logits(form):
    logits, y, _ = draw((2, 4, 4, 4), 3)
    rounded = mx.array(logits).astype(mx.bfloat16)

    def total(logits):
        sums = class_sums(logits, mx.array(y))
        return (sums.overlap * 2 + sums.surprise).sum()

    value, gradient = mx.value_and_grad(total)(rounded)
    exact_value, exact_gradient = mx.value_and_grad(total)(rounded.astype(mx.float32))
    assert gradient.dtype == mx.bfloat16
    assert value.item() == pytest.approx(exact_value.item(), rel=1e-6)
    np.testing.assert_allclose(gradient.astype(mx.float32), exact_gradient, atol=2**-8)


def test_threads_do_not_change_a_bit(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(backend, "_form", "onednn")
    logits, y, _ = draw((1, 32, 32, 16), 3)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(backend, "_threads", threads)
        sums = class_sums(mx.array(logits), mx.array(y))
        results.append([sums.overlap.tolist(), sums.surprise.tolist()])
    assert results[0] == results[1] == results[2]


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"y must be \(1, 4, 4\) for logits \(1, 4, 4, 2\), got \(1, 4\)"):
        class_sums(mx.zeros((1, 4, 4, 2)), mx.zeros((1, 4), mx.uint8))

import tracemalloc

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import softmax

from engine.evaluation.sliding_window import (
    blending_weights,
    predict_labels,
    predict_probabilities,
    predict_slabs,
    require_few_windows,
    window_starts,
)
from ops import memory


def identity(x: mx.array) -> mx.array:
    return x


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "expected"),
    [
        (10, 10, 0.5, [0]),
        (7, 10, 0.5, [-1]),
        (10, 4, 0.0, [0, 3, 6]),
        (12, 4, 0.5, [0, 2, 4, 6, 8]),
        (35, 16, 0.5, [0, 6, 13, 19]),
        (9, 8, 0.9, [0, 1]),
    ],
)
def test_windows_are_evenly_spaced_and_end_with_the_volume(size: int, patch: int, overlap: float, expected) -> None:
    assert window_starts(size, patch, overlap) == expected


@pytest.mark.parametrize(("size", "patch", "overlap"), [(50, 16, 0.5), (17, 16, 0.25), (96, 32, 0.0), (20, 3, 0.7)])
def test_weights_cover_every_voxel_and_sum_to_one(size: int, patch: int, overlap: float) -> None:
    starts = window_starts(size, patch, overlap)
    total = np.zeros(size)
    for start, weights in zip(starts, blending_weights(size, patch, starts), strict=True):
        assert weights.min() > 0
        total[start : start + patch] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_weights_are_gaussian_with_a_sigma_of_an_eighth_of_the_patch() -> None:
    first, second = blending_weights(24, 16, [0, 8])
    # voxel 10 lies 2.5 from the first window's centre 7.5 and 5.5 from the second's 15.5; sigma is 2
    ratio = np.exp(-(2.5**2) / 8) / np.exp(-(5.5**2) / 8)
    assert first[10] / second[2] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("shape", [(20, 33, 17), (5, 40, 6), (8, 8, 8), (3, 2, 1)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_identity_network_is_reproduced(shape: tuple[int, int, int], batch_size: int) -> None:
    volume = noise(*shape, 3)
    probabilities = predict_probabilities(identity, volume, (8, 8, 8), 0.5, batch_size)
    np.testing.assert_allclose(probabilities, softmax(volume, axis=-1), atol=2e-6)


def test_constant_volume_comes_back_constant() -> None:
    volume = np.full((19, 12, 30, 2), 0.25, np.float32)
    volume[..., 1] = 1.25
    probabilities = predict_probabilities(identity, volume, (8, 6, 8), 0.3)
    np.testing.assert_allclose(probabilities[..., 1], 1 / (1 + np.exp(-1)), atol=1e-6)


def test_blends_windows_by_their_weights() -> None:
    volume = np.zeros((12, 4, 4, 1), np.float32)
    windows = iter([1.0, 3.0])

    def odds(x: mx.array) -> mx.array:
        second = mx.full(x.shape, np.log(next(windows)))
        return mx.concatenate([mx.zeros(x.shape), second], axis=-1)  # probabilities 1/2, then 3/4

    probabilities = predict_probabilities(odds, volume, (8, 4, 4), 0.5, batch_size=1)[:, 0, 0, 1]
    first, second = blending_weights(12, 8, [0, 4])
    expected = np.concatenate([[0.5] * 4, 0.5 * first[4:] + 0.75 * second[:4], [0.75] * 4])
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_mirroring_averages_probabilities_over_all_flips() -> None:
    volume = noise(6, 6, 6, 2)
    ramp = mx.arange(6).reshape(1, 6, 1, 1, 1) * mx.array([0.0, 1.0])  # sees where D's front is

    def predict(x: mx.array) -> mx.array:
        return x + ramp

    plain = predict_probabilities(predict, volume, (6, 6, 6))
    flipped = predict_probabilities(predict, volume[::-1].copy(), (6, 6, 6))[::-1]
    both = predict_probabilities(predict, volume, (6, 6, 6), mirror_axes=(0,))
    np.testing.assert_allclose(both, (plain + flipped) / 2, atol=1e-6)
    assert np.abs(both - plain).max() > 0.1
    every = predict_probabilities(identity, volume, (6, 6, 6), mirror_axes=(0, 1, 2))
    np.testing.assert_allclose(every, softmax(volume, axis=-1), atol=1e-6)
    calls = []

    def predict(x: mx.array) -> mx.array:
        calls.append(np.array(x)[0, 0, 0, 0, 0])
        return x

    volume = np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1)
    predict_probabilities(predict, volume, (2, 2, 2), mirror_axes=(0, 2))
    assert calls == [0, 4, 1, 5]


def test_slabs_follow_one_another_and_hold_few_planes() -> None:
    volume = noise(40, 9, 9, 2)
    slabs = list(predict_slabs(identity, [volume, volume[:11]], (8, 8, 8), 0.5, batch_size=3))
    assert [(number, start) for number, start, _ in slabs if number == 0] == [(0, 4 * i) for i in range(9)]
    assert sum(len(slab) for number, _, slab in slabs if number == 1) == 11
    assert max(len(slab) for _, _, slab in slabs) == 8


def test_labels_of_several_volumes_share_batches() -> None:
    sizes = []

    def predict(x: mx.array) -> mx.array:
        sizes.append(len(x))
        return x

    volumes = [noise(5, 6, 7, 3), noise(8, 8, 8, 3) * -1, noise(9, 8, 8, 3)]
    labels = list(predict_labels(predict, volumes, (8, 8, 8), 0.5, batch_size=3))
    assert sizes == [3, 1]
    for found, volume in zip(labels, volumes, strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, volume.argmax(-1))


def test_half_precision_is_read_and_another_shape_refused() -> None:
    volume = noise(10, 8, 8, 2).astype(np.float16)
    probabilities = predict_probabilities(identity, volume, (8, 8, 8))
    np.testing.assert_allclose(probabilities, softmax(volume.astype(np.float32), axis=-1), atol=1e-6)
    with pytest.raises(ValueError, match=r"must keep \(B, d, h, w\) \(1, 8, 8, 8\); it returned \(1, 4, 8, 8, 1\)"):
        predict_probabilities(lambda x: x[:, ::2], noise(8, 8, 8, 1), (8, 8, 8))


@pytest.mark.slow
def test_labels_need_few_planes_of_probabilities() -> None:
    volume = np.zeros((256, 48, 48, 1), np.float32)

    def predict(x: mx.array) -> mx.array:
        return mx.concatenate([x, x + 1, x + 2, x + 3], axis=-1)

    tracemalloc.start()
    next(predict_labels(predict, [volume], (16, 16, 16), 0.5, batch_size=8))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = volume.nbytes * 4
    assert peak < 0.4 * whole


def test_a_batch_is_waited_for_once_and_failures_name_the_window(monkeypatch) -> None:
    volume = np.zeros((4, 4, 4, 1), np.float32)
    waits: list[int] = []
    monkeypatch.setattr(memory, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "synchronize", lambda: waits.append(1))
    predict_probabilities(lambda x: x, volume, (4, 4, 4), mirror_axes=(0, 1))
    assert len(waits) == 1

    def fail() -> None:
        raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")

    monkeypatch.setattr(mx, "synchronize", fail)
    expected = (
        r"^out of memory in prediction of windows \(1, 4, 4, 4, 1\) \(N, D, H, W, C\): \[METAL\] .* Use a smaller "
        r"evaluate\.window_size_voxels \(null: data\.patch_size_voxels\) or evaluate\.window_batch; a lower"
    )
    with pytest.raises(memory.OutOfMemory, match=expected):
        predict_probabilities(lambda x: x, volume, (4, 4, 4))


def test_a_volume_of_a_million_windows_is_refused() -> None:
    require_few_windows((512, 512, 512), (16, 16, 16), 0.5)  # 63³ windows
    with pytest.raises(ValueError, match=r"^600×600×600 voxels take 3,307,949 windows of 8×8×8, at most 1,000,000 are"):
        require_few_windows((600, 600, 600), (8, 8, 8), 0.5)

"""Resampling: arrays and affines tell the same story."""

import numpy as np
import pytest

from data.files.grid import Grid
from data.prepare.resample import axis_map, resample_image, resample_slabs
from data.prepare.resample_labels import resample_label
from tests.data.grids import at, square_grid

OBLIQUE = np.array([[0.9, -0.1, 0.05, -20.0], [0.1, 0.95, -0.2, 7.0], [-0.02, 0.2, 2.4, 3.0], [0, 0, 0, 1.0]])


def resample_probabilities(probabilities, source, target):
    return np.concatenate([slab for _, slab in resample_slabs(probabilities, source, target)])


def positions_mm(grid):
    """(D, H, W, 3): where each voxel centre lies."""
    k, j, i = np.indices(grid.shape)
    return np.stack([i, j, k], axis=-1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (4.8, 0.7, 1.9), (1.2, 2.0, 0.5)])
def test_constant_stays_constant_there_and_back(interpolation, spacing_mm):
    source = square_grid((9, 14, 11), (2.4, 1.0, 0.9))
    target = at(source, spacing_mm)
    there = resample_image(np.full((*source.shape, 2), 3.5, np.float32), source, target, interpolation)
    np.testing.assert_allclose(there, 3.5, rtol=1e-5)
    np.testing.assert_allclose(resample_probabilities(there, target, source), 3.5, rtol=1e-5)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("spacing_mm", [(1.2, 0.5, 0.45), (5.0, 2.0, 1.9), (2.4, 3.0, 0.3)])
def test_ramp_in_mm_stays_the_ramp(interpolation, spacing_mm):
    source = Grid((24, 26, 28), OBLIQUE)
    target = at(source, spacing_mm)
    slope = np.array([0.3, -0.7, 0.2])
    volume = (positions_mm(source) @ slope).astype(np.float32)[..., None]
    result = resample_image(volume, source, target, interpolation)[..., 0]
    expected = positions_mm(target) @ slope
    scale, offset = axis_map(source, target)
    # Away from the border, where the edge's value is repeated and the smoothing sees it.
    inner = []
    for axis in range(3):
        place = scale[axis] * np.arange(target.shape[axis]) + offset[axis]
        inner.append(np.flatnonzero((place > 7) & (place < source.shape[axis] - 8)))
    part = np.ix_(*inner)
    np.testing.assert_allclose(result[part], expected[part], atol=2e-3)


def test_identity_copies_the_voxels_and_other_axes_are_refused() -> None:
    volume = np.random.default_rng(0).normal(size=(5, 6, 7, 2)).astype(np.float32)
    grid = Grid((5, 6, 7), OBLIQUE)
    for interpolation in ("linear", "cubic"):
        result = resample_image(volume, grid, grid, interpolation)
        np.testing.assert_array_equal(result, volume)
        assert result is not volume
    turned = OBLIQUE @ np.array([[0.9, -0.4, 0, 0], [0.4, 0.9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with pytest.raises(ValueError, match="parallel axes"):
        axis_map(Grid((5, 5, 5), OBLIQUE), Grid((5, 5, 5), turned))


def test_linear_is_hand_arithmetic():
    source = square_grid((1, 1, 4))
    target = source.resample((1, 1, 8), (1.0, 1.0, 0.5))
    result = resample_image(np.float32([0, 1, 5, 7]).reshape(1, 1, 4, 1), source, target)
    # Positions -0.25, 0.25, 0.75, ... of the source, the outermost held at its edge.
    np.testing.assert_allclose(result.ravel(), [0, 0.25, 0.75, 2, 4, 5.5, 6.5, 7], atol=1e-6)


def test_cubic_goes_through_the_voxels_of_a_smooth_wave():
    source = square_grid((1, 1, 40))
    target = source.resample((1, 1, 120), (1.0, 1.0, 1 / 3))
    wave = lambda x: np.sin(x * 2 * np.pi / 8)  # noqa: E731
    volume = wave(np.arange(40.0)).astype(np.float32).reshape(1, 1, 40, 1)
    at = (np.arange(120) - 1) / 3
    inner = slice(12, -12)
    cubic = resample_image(volume, source, target, "cubic").ravel()
    linear = resample_image(volume, source, target, "linear").ravel()
    assert np.abs(cubic - wave(at))[inner].max() < 0.005
    assert np.abs(linear - wave(at))[inner].max() > 0.05


def test_downsampling_does_not_alias():
    source = square_grid((1, 1, 64))
    target = source.resample((1, 1, 16), (1.0, 1.0, 4.0))
    stripes = (np.arange(64) // 2 % 2).astype(np.float32).reshape(1, 1, 64, 1)
    result = resample_image(stripes, source, target).ravel()
    np.testing.assert_allclose(result[2:-2], 0.5, atol=0.12)


def test_slabs_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    source = Grid((13, 9, 8), OBLIQUE)
    target = source.resample((31, 7, 12), (1.01, 1.3, 0.6))
    volume = rng.normal(size=(13, 9, 8, 2)).astype(np.float32)
    label = rng.integers(0, 3, (13, 9, 8)).astype(np.uint8)
    run = lambda: (  # noqa: E731
        resample_image(volume, source, target, "cubic"),
        resample_label(label, source, target),
        resample_probabilities(volume, source, target),
    )
    whole = run()
    monkeypatch.setattr("data.prepare.resample._SLAB_VOXELS", 7 * 12 * 2)
    for a, b in zip(whole, run(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_resampled_probabilities_sum_to_one():
    rng = np.random.default_rng(3)
    source = Grid((6, 7, 8), OBLIQUE)
    target = source.resample((9, 20, 4), (1.6, 0.35, 1.8))
    probabilities = rng.dirichlet(np.ones(4), (6, 7, 8)).astype(np.float32)
    resampled = resample_probabilities(probabilities, source, target)
    np.testing.assert_allclose(resampled.sum(axis=-1), 1, atol=1e-5)

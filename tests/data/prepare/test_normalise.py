"""Normalisation against hand arithmetic."""

from dataclasses import asdict

import numpy as np
import pytest

from data.prepare.normalise import Intensities, foreground_intensities, moments, normalise


@pytest.fixture
def volume():
    rng = np.random.default_rng(0)
    v = rng.normal(100, 20, (6, 7, 8, 2)).astype(np.float32)
    v[..., 1] = v[..., 1] * 5 - 3000
    return v


def test_zscore_per_channel(volume):
    expected = (volume - volume.mean((0, 1, 2), np.float64)) / volume.std((0, 1, 2), np.float64)
    before = volume.copy()
    assert normalise(volume, "none") == []
    np.testing.assert_array_equal(volume, before)
    assert normalise(volume, "zscore") == []
    assert volume.dtype == np.float32
    np.testing.assert_allclose(volume, expected, atol=1e-4)


def test_zscore_nonzero_leaves_zeros(volume):
    volume[:2] = 0
    expected = (volume - volume[2:].mean((0, 1, 2))) / volume[2:].std((0, 1, 2))
    normalise(volume, "zscore_nonzero")
    np.testing.assert_allclose(volume[2:], expected[2:], atol=1e-3)
    assert (volume[:2] == 0).all()


def test_percentile_clips_and_scales_to_one(volume):
    low, high = np.percentile(volume[..., 0], (5, 90))
    expected = (volume[..., 0].clip(low, high) - low) / (high - low)
    normalise(volume, "percentile", (5, 90))
    np.testing.assert_allclose(volume[..., 0], expected, atol=1e-5)
    assert (volume.min(), volume.max()) == pytest.approx((0, 1), abs=1e-5)


def test_ct_uses_the_training_foreground_and_needs_it(volume) -> None:
    known = [Intensities(80, 110, 95, 7), Intensities(-2550, -2400, -2600, 50)]
    expected = (volume[..., 0].clip(80, 110) - 95) / 7
    normalise(volume, "ct", intensities=known)
    np.testing.assert_allclose(volume[..., 0], expected, atol=1e-5)
    assert volume[..., 1].min() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"normalisation=ct needs .* 2 channels; got 0"):
        normalise(volume, "ct")
    with pytest.raises(ValueError, match="2 channels; got 1"):
        normalise(volume, "ct", intensities=[Intensities(0, 1, 0, 1)])
    with pytest.raises(ValueError, match="none of its labels has any"):
        foreground_intensities([np.zeros((0, 1), np.float32)])


@pytest.mark.parametrize("kind", ["zscore", "zscore_nonzero", "percentile"])
@pytest.mark.parametrize("value", [0.0, 1000.1])
def test_constant_channel_becomes_zero_and_is_reported(volume, kind, value):
    volume[..., 1] = value
    notes = normalise(volume, kind)
    assert len(notes) == 1
    assert "channel 1 has no spread" in notes[0]
    assert (volume[..., 1] == 0).all()
    assert volume[..., 0].std() > 0


def test_moments_of_large_values_keep_their_digits():
    voxels = np.float32(1e6) + np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    mean, std = moments(voxels)
    assert mean == pytest.approx(1e6 + 59.5)
    assert std == pytest.approx(np.arange(120).std())


def test_foreground_intensities_weigh_voxels_and_survive_json():
    samples = [np.float32([[1, 10], [2, 20]]), np.zeros((0, 2), np.float32), np.float32([[6, 30]])]
    found = foreground_intensities(samples, (0, 50))
    assert found[0] == Intensities(1, 2, 3, pytest.approx(np.std([1, 2, 6])))
    assert (found[1].high, found[1].mean) == (20, 20)
    assert [Intensities(**asdict(entry)) for entry in found] == found

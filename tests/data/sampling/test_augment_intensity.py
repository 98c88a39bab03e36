"""Each change of intensity against the arithmetic that its docstring promises."""

import numpy as np
import pytest
from scipy import ndimage

from data.sampling import augment_intensity as intensity


@pytest.fixture
def patch() -> np.ndarray:
    """Two smooth channels of different mean and deviation."""
    noise = np.random.default_rng(0).standard_normal((12, 14, 10, 2))
    smooth = ndimage.gaussian_filter(noise, 1, axes=(0, 1, 2))
    return (smooth * [4, 2] + [0, 5]).astype(np.float32)


def test_noise_has_the_standard_deviation_and_the_seed_asked_for(patch: np.ndarray) -> None:
    noisy = intensity.add_noise(patch.copy(), 0.5, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    assert (noisy - patch).std() == pytest.approx(0.5, rel=0.03)
    assert (noisy - patch).mean() == pytest.approx(0, abs=0.03)
    np.testing.assert_array_equal(noisy, intensity.add_noise(patch.copy(), 0.5, np.random.default_rng(1)))


def test_blur_spreads_a_point_by_sigma_and_leaves_channels_apart() -> None:
    patch = np.zeros((21, 21, 21, 2), np.float32)
    patch[10, 10, 10, 0] = 1
    blurred = intensity.blur(patch, 1.2)
    assert blurred.dtype == np.float32
    assert blurred[..., 0].sum() == pytest.approx(1, abs=1e-5)
    variance = (blurred[..., 0].sum(axis=(1, 2)) * (np.arange(21) - 10) ** 2).sum()
    assert variance == pytest.approx(1.2**2, rel=0.05)
    assert not blurred[..., 1].any()


def test_brightness_multiplies_and_contrast_stretches_about_the_mean(
    patch: np.ndarray,
) -> None:
    changed = intensity.change_brightness(patch.copy(), np.array([2.0, 0.5]))
    np.testing.assert_array_equal(changed, patch * np.array([2, 0.5], np.float32))
    for channel, factor in enumerate((0.6, 1.5)):
        before = patch[..., channel]
        after = intensity.change_contrast(patch.copy(), np.array([0.6, 1.5]))[..., channel]
        expected = np.clip((before - before.mean()) * factor + before.mean(), before.min(), before.max())
        np.testing.assert_allclose(after, expected, atol=1e-5)


@pytest.mark.parametrize("invert", [False, True])
def test_gamma_keeps_mean_deviation_and_order(patch: np.ndarray, invert: bool) -> None:
    changed = intensity.change_gamma(patch.copy(), np.array([0.7, 1.6]), invert)
    for channel in (0, 1):
        before, after = patch[..., channel].ravel(), changed[..., channel].ravel()
        assert after.mean() == pytest.approx(before.mean(), abs=1e-4)
        assert after.std() == pytest.approx(before.std(), rel=1e-4)
        assert (np.diff(after[np.argsort(before)]) >= -1e-6).all()
        assert np.abs(after - before).max() > 0.05


def test_gamma_equals_the_curve_by_hand(patch: np.ndarray) -> None:
    values = np.array([0, 1, 2, 4], np.float32).reshape(4, 1, 1, 1)
    curve = np.array([0, 1, 4, 16]) / 16
    expected = (curve - curve.mean()) / curve.std() * values.std() + values.mean()
    np.testing.assert_allclose(intensity.change_gamma(values.copy(), 2.0).ravel(), expected, rtol=1e-5)
    mirrored = 1 - np.array([16, 9, 4, 0]) / 16
    expected = (mirrored - mirrored.mean()) / mirrored.std() * values.std() + values.mean()
    np.testing.assert_allclose(intensity.change_gamma(values.copy(), 2.0, True).ravel(), expected, rtol=1e-5)
    patch[..., 1] = 3
    changed = intensity.change_gamma(patch.copy(), 1.0)
    np.testing.assert_allclose(changed, patch, atol=1e-5)
    np.testing.assert_array_equal(intensity.change_gamma(patch.copy(), 2.0)[..., 1], 3)


def test_low_resolution_takes_the_nearest_voxels_and_interpolates_between_them() -> None:
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None, None, None], (16, 8, 8, 2)).copy()
    # Of each two voxels the second is taken; it stands at their middle, half a voxel before its place.
    lowered = intensity.lower_resolution(ramp.copy(), 2.0, axes=(0,))
    np.testing.assert_allclose(lowered[1:-1], ramp[1:-1] + 0.5, atol=1e-5)
    stripes = ramp % 2
    np.testing.assert_array_equal(intensity.lower_resolution(stripes.copy(), 2.0, axes=(0,)), 1)
    np.testing.assert_array_equal(intensity.lower_resolution(stripes.copy(), 2.0, axes=(1, 2)), stripes)
    one = intensity.lower_resolution(ramp.copy(), np.array([1.0, 2.0]))
    np.testing.assert_array_equal(one[..., 0], ramp[..., 0])
    assert (one[..., 1] != ramp[..., 1]).any()


def test_low_resolution_is_hand_arithmetic(patch: np.ndarray) -> None:
    """Six of eight voxels, the 0th, 2nd, 3rd, 4th, 6th and 7th: where the middles of the six lie."""
    squares = np.arange(8, dtype=np.float32)[:, None, None, None] ** 2
    lowered = intensity.lower_resolution(squares, 1 / 0.7, axes=(0,)).ravel()
    np.testing.assert_allclose(lowered, [0, 2.5, 5.875, 9.875, 15.125, 28.5, 40.875, 49], atol=1e-4)
    np.testing.assert_array_equal(intensity.lower_resolution(patch.copy(), 1.0), patch)


def test_factors_are_drawn_evenly_in_the_logarithm() -> None:
    factors = intensity.draw_factor((0.5, 4.0), np.random.default_rng(0), 6000)
    assert 0.5 <= factors.min() < factors.max() <= 4
    for low, high in ((0.5, 1), (1, 2), (2, 4)):
        assert ((factors >= low) & (factors < high)).mean() == pytest.approx(1 / 3, abs=0.02)
    assert intensity.draw_factor((1.0, 1.0), np.random.default_rng(0)).tolist() == [1]


def test_bias_field_is_smooth_within_its_strength_and_seeded() -> None:
    field = intensity.bias_field((20, 24, 16), 0.4, 3, np.random.default_rng(0))
    assert (field.shape, field.dtype) == ((20, 24, 16), np.float32)
    assert np.abs(np.log(field)).max() == pytest.approx(0.4, rel=1e-4)
    assert np.abs(np.diff(np.log(field), n=4, axis=0)).max() < 1e-5  # a cubic has no fourth difference
    np.testing.assert_array_equal(field, intensity.bias_field((20, 24, 16), 0.4, 3, np.random.default_rng(0)))
    np.testing.assert_array_equal(intensity.bias_field((4, 4, 4), 0.0, 3, np.random.default_rng(0)), 1)


def test_bias_field_multiplies_from_the_first_percentile_and_one_dark_voxel_decides_nothing(patch: np.ndarray) -> None:
    field = np.full(patch.shape[:3], 2, np.float32)
    low = np.percentile(patch, 1, axis=(0, 1, 2))
    found = intensity.apply_bias_field(patch.copy(), field)
    np.testing.assert_allclose(found, low + 2 * (patch - low), rtol=1e-5, atol=1e-5)
    field = intensity.bias_field(patch.shape[:3], 0.3, 3, np.random.default_rng(0))
    changed = intensity.apply_bias_field(patch.copy(), field)
    patch[0, 0, 0] = -1000
    dark = intensity.apply_bias_field(patch.copy(), field)
    others = np.ones(patch.shape[:3], bool)
    others[0, 0, 0] = False
    np.testing.assert_allclose(dark[others], changed[others], atol=0.02 * patch[others].std())


def test_a_dropped_channel_is_zero_but_never_the_only_one(patch: np.ndarray) -> None:
    dropped = intensity.drop_channel(patch.copy(), 1)
    assert not dropped[..., 1].any()
    np.testing.assert_array_equal(dropped[..., 0], patch[..., 0])
    single = patch[..., :1].copy()
    np.testing.assert_array_equal(intensity.drop_channel(single.copy(), 0), single)

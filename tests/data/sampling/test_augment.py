"""The composition: seeds, probabilities, order, and image and label moving together."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from data.sampling.augment import Augment
from data.sampling.patches import draw_sample
from engine.config import check_config

SPATIAL = ("flip", "rotate", "scale", "elastic")
INTENSITY = ("bias_field", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "channel_drop")


def augment(*names: str, probability: float = 1.0, **settings: dict[str, Any]) -> Augment:
    sections = {name: {"probability": probability} for name in names} | settings
    tree = {"name": "x", "data": {"root": ".", "augment": sections}, "train": {"steps": 1}}
    return Augment(check_config(tree, "test").data.augment)


def apply(transform: Augment, volume: np.ndarray, label: np.ndarray | None = None, seed: int = 0) -> Any:
    """The whole volume and its labels, augmented."""
    return transform.sample(volume, label, (0, 0, 0), np.random.default_rng(seed), patch_size=volume.shape[:3])


@pytest.fixture
def volume() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((16, 18, 14, 2)).astype(np.float32)
    return ndimage.gaussian_filter(noise, 1.5, axes=(0, 1, 2)) * 10


@pytest.fixture
def label(volume: np.ndarray) -> np.ndarray:
    return (volume[..., 0] > 0.5).astype(np.uint8)


def test_nothing_and_flips_of_the_listed_axes_alone(volume: np.ndarray, label: np.ndarray) -> None:
    x, y = apply(augment(), volume, label)
    np.testing.assert_array_equal(x, volume)
    np.testing.assert_array_equal(y, label)
    assert not np.shares_memory(x, volume)
    x, y = apply(augment(flip={"probability": 1.0, "axes": [0, 2]}), volume, label)
    np.testing.assert_array_equal(x, volume[::-1, :, ::-1])
    np.testing.assert_array_equal(y, label[::-1, :, ::-1])


def test_the_same_seed_gives_the_same_arrays(volume: np.ndarray, label: np.ndarray) -> None:
    transform = augment(*SPATIAL, *INTENSITY)

    def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([0, seed])
        return draw_sample(volume, label, {}, rng, patch_size=(12, 12, 12), foreground_rate=0.5, augment=transform)

    alone = [sample(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        for (x, y), (x_again, y_again) in zip(alone, pool.map(sample, range(6)), strict=True):
            np.testing.assert_array_equal(x, x_again)
            np.testing.assert_array_equal(y, y_again)
    assert not np.array_equal(alone[0][0], alone[1][0])


@pytest.mark.parametrize("name", [*SPATIAL, *INTENSITY])
def test_each_transform_acts_and_leaves_its_input_alone(name: str, volume: np.ndarray, label: np.ndarray) -> None:
    before = volume.copy()
    x, y = apply(augment(name), volume, label)
    np.testing.assert_array_equal(volume, before)
    assert (x.dtype, x.shape) == (np.float32, volume.shape)
    assert x.flags.c_contiguous
    assert not np.array_equal(x, volume)
    assert np.isfinite(x).all()
    assert np.array_equal(y, label) == (name in INTENSITY)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SPATIAL, *INTENSITY])
def test_probabilities_are_frequencies(name: str) -> None:
    volume = np.random.default_rng(0).standard_normal((4, 4, 4, 2), dtype=np.float32)
    transform = augment(**{name: {"probability": 0.25} | ({"axes": [1]} if name == "flip" else {})})
    samples = (apply(transform, volume, seed=seed)[0] for seed in range(600))
    changed = [not np.array_equal(sample, volume) for sample in samples]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.06)


def test_a_fixed_rotation_and_zoom_are_what_the_config_says() -> None:
    volume = np.zeros((21, 21, 21, 1), np.float32)
    volume[10, 10, 15] = 1  # five voxels to the right
    turn = {"probability": 1.0, "degrees": [[90, 90], [0, 0], [0, 0]]}
    zoom = {"probability": 1.0, "factor": [2, 2]}
    x, _ = apply(augment(rotate=turn, scale=zoom), volume)
    assert np.unravel_index(x.argmax(), x.shape) == (10, 0, 10, 0)  # np.rot90 over (H, W), then twice as far


def test_one_zoom_factor_for_all_axes_unless_per_axis(label: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for per_axis in (False, True):
        transform = augment(scale={"probability": 1.0, "factor": [0.5, 2], "per_axis": per_axis})
        sampler = transform.draw_cut((0, 0, 0), (8, 8, 8), (8, 8, 8), rng, (1.0, 1.0, 1.0)).sampler
        ramps = sampler.image(np.moveaxis(np.indices((8, 8, 8)), 0, -1))  # each voxel's source coordinates
        step_d, step_h = ramps[4, 3, 3, 0] - ramps[3, 3, 3, 0], ramps[3, 4, 3, 1] - ramps[3, 3, 3, 1]
        assert (step_d == pytest.approx(step_h, rel=1e-4)) != per_axis


def test_channels_are_brightened_by_themselves(volume: np.ndarray) -> None:
    x, _ = apply(augment("brightness"), volume)
    factors = [np.median(x[..., channel] / volume[..., channel]) for channel in (0, 1)]
    assert factors[0] != pytest.approx(factors[1], rel=0.01)
    for channel, factor in enumerate(factors):
        np.testing.assert_allclose(x[..., channel], volume[..., channel] * factor, rtol=1e-4)


def test_rotated_patches_show_the_surroundings() -> None:
    volume = np.ones((40, 40, 40, 1), np.float32)
    label = np.ones((40, 40, 40), np.uint8)
    transform = augment(rotate={"probability": 1.0, "degrees": [[30, 30], [0, 0], [0, 0]]})
    for seed in range(5):
        rng = np.random.default_rng(seed)
        foreground = {1: np.array([[20, 20, 20]], np.int32)}
        options = {"patch_size": (16, 16, 16), "foreground_rate": 1.0, "augment": transform}
        x, y = draw_sample(volume, label, foreground, rng, **options)
        np.testing.assert_allclose(x, 1, rtol=1e-5)
        np.testing.assert_array_equal(y, 1)

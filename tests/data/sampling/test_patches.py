"""Where patches are cut, and that the cut is exact."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.prepare.crop import crop
from data.sampling.augment import Augment
from data.sampling.patches import draw_offset, draw_sample, grid_offsets
from engine.config import check_config


def augment_by(**sections: dict[str, float]) -> Augment:
    tree = {"name": "x", "data": {"root": ".", "augment": sections}, "train": {"steps": 1}}
    return Augment(check_config(tree, "test").data.augment)


def sample(
    volume: np.ndarray, label: np.ndarray, size: tuple[int, int, int], rate: float = 0.0, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A patch of a case without foreground voxels, of seed 0."""
    rng = np.random.default_rng(0)
    return draw_sample(volume, label, {}, rng, patch_size=size, foreground_rate=rate, **options)


@pytest.fixture
def volume() -> np.ndarray:
    """Each voxel holds its own flat index, in two channels."""
    index = np.arange(10 * 12 * 8, dtype=np.float32).reshape(10, 12, 8)
    return np.stack([index, -index], axis=-1)


def test_a_patch_is_the_volume_at_its_offset_and_small_volumes_are_padded(volume: np.ndarray) -> None:
    label = volume[..., 0].astype(np.int16)
    x, y = sample(volume, label, (4, 5, 6))
    d, h, w = np.unravel_index(int(x[0, 0, 0, 0]), volume.shape[:3])
    np.testing.assert_array_equal(x, volume[d : d + 4, h : h + 5, w : w + 6])
    np.testing.assert_array_equal(y, label[d : d + 4, h : h + 5, w : w + 6])
    volume = np.ones((2, 5, 4, 1), np.float32)
    label = np.ones((2, 5, 4), np.uint8)
    x, y = sample(volume, label, (6, 4, 4))
    np.testing.assert_array_equal(x[:, 0, 0, 0], [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(y[:, 0, 0], [0, 0, 1, 1, 0, 0])
    assert x.shape == (6, 4, 4, 1)


def test_every_offset_inside_is_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_offset((6, 4, 4), {}, rng, (4, 4, 4), 0.0) for _ in range(3000)])
    assert (drawn[:, 1:] == 0).all()
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 3000, [1 / 3] * 3, atol=0.03)


def test_arrays_can_go_straight_into_a_stream(volume: np.ndarray) -> None:
    volume = volume.astype(np.float16)
    volume.setflags(write=False)
    for kept, dtype in ((np.uint8, np.uint8), (np.int16, np.int32)):
        label = np.ones(volume.shape[:3], kept)
        label.setflags(write=False)
        for augment in (None, augment_by(flip={"probability": 1})):
            x, y = sample(volume, label, (4, 4, 4), augment=augment)
            assert (x.dtype, y.dtype) == (np.float32, dtype)
            for array in (x, y):
                assert array.flags.c_contiguous
                assert array.flags.writeable
                assert not np.shares_memory(array, volume)
                assert not np.shares_memory(array, label)


def test_foreground_rate_one_centres_on_a_foreground_voxel() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[8, 9, 10] = 1
    label[12, 11, 10] = 2
    foreground = {value: np.argwhere(label == value).astype(np.int32) for value in (1, 2, 3)}
    rng = np.random.default_rng(0)
    centres = []
    for _ in range(200):
        volume = label[..., None].astype(np.float32)
        _, y = draw_sample(volume, label, foreground, rng, patch_size=(6, 7, 8), foreground_rate=1.0)
        centres.append(y[3, 3, 4])
    np.testing.assert_allclose(np.bincount(centres, minlength=3) / 200, [0, 0.5, 0.5], atol=0.1)


def test_foreground_rate_is_the_share_of_centred_patches() -> None:
    foreground = {1: np.array([[50, 50, 50]], np.int32)}
    rng = np.random.default_rng(0)
    offsets = [draw_offset((100, 100, 100), foreground, rng, (10, 10, 10), 0.3) for _ in range(2000)]
    assert np.mean([offset == (45, 45, 45) for offset in offsets]) == pytest.approx(0.3, abs=0.03)
    foreground = {1: np.array([[0, 19, 10]], np.int32)}
    assert draw_offset((20, 20, 20), foreground, np.random.default_rng(0), (8, 8, 8), 1.0) == (0, 12, 6)


def test_whole_pads_and_refuses_larger_volumes(volume: np.ndarray) -> None:
    label = np.ones(volume.shape[:3], np.uint8)
    x, y = sample(volume, label, (12, 12, 9), 1.0, sampling="whole")
    np.testing.assert_array_equal(x[1:11, :, :8], volume)
    assert y.sum() == label.size
    with pytest.raises(ValueError, match=r"at least the volume's \[10, 12, 8\]; got \[12, 8, 8\]"):
        sample(volume, label, (12, 8, 8), 1.0, sampling="whole")


def test_grid_offsets_cover_the_volume() -> None:
    assert grid_offsets((10, 4, 2), (4, 4, 4)) == [(0, 0, -1), (4, 0, -1), (6, 0, -1)]
    assert grid_offsets((8, 4, 4), (4, 4, 4)) == [(0, 0, 0), (4, 0, 0)]
    rng = np.random.default_rng(0)
    drawn = {draw_offset((10, 4, 2), {}, rng, (4, 4, 4), 0.0, "grid") for _ in range(50)}
    assert drawn == {(0, 0, -1), (4, 0, -1), (6, 0, -1)}
    array = np.ones((3, 3, 3))
    np.testing.assert_array_equal(crop(array, (5, 0, 0), (2, 2, 2)), np.zeros((2, 2, 2)))
    np.testing.assert_array_equal(crop(array, (0, -4, 0), (2, 2, 2)), np.zeros((2, 2, 2)))


def test_a_memory_map_gives_the_same_patch_as_an_array(volume: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "case.npy", volume)
    mapped = np.load(tmp_path / "case.npy", mmap_mode="r")
    label = np.zeros(volume.shape[:3], np.uint8)
    for transform in (None, augment_by(rotate={"probability": 1})):
        x, again = (sample(array, label, (4, 4, 4), augment=transform)[0] for array in (mapped, volume))
        assert type(x) is np.ndarray
        np.testing.assert_array_equal(x, again)

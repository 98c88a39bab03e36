"""Where patches are cut, and that the cut is exact."""

from pathlib import Path

import numpy as np
import pytest

from data.prepare.crop import crop
from data.sampling.augment import Augment
from data.sampling.patches import draw_offset, draw_sample, grid_offsets
from engine.config import check_config


def augment_by(**sections: dict[str, float]) -> Augment:
    tree = {"name": "x", "data": {"root": ".", "augment": sections}, "train": {"steps": 1}}
    return Augment(check_config(tree, "test").data.augment)


@pytest.fixture
def volume() -> np.ndarray:
    """Each voxel holds its own flat index, in two channels."""
    index = np.arange(10 * 12 * 8, dtype=np.float32).reshape(10, 12, 8)
    return np.stack([index, -index], axis=-1)


def test_a_patch_is_the_volume_at_its_offset(volume: np.ndarray) -> None:
    label = volume[..., 0].astype(np.int16)
    x, y = draw_sample(volume, label, {}, np.random.default_rng(0), patch_size=(4, 5, 6), foreground_rate=0.0)
    d, h, w = np.unravel_index(int(x[0, 0, 0, 0]), volume.shape[:3])
    np.testing.assert_array_equal(x, volume[d : d + 4, h : h + 5, w : w + 6])
    np.testing.assert_array_equal(y, label[d : d + 4, h : h + 5, w : w + 6])


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
            x, y = draw_sample(
                volume,
                label,
                {},
                np.random.default_rng(0),
                patch_size=(4, 4, 4),
                foreground_rate=0.0,
                augment=augment,
            )
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
        _, y = draw_sample(
            label[..., None].astype(np.float32), label, foreground, rng, patch_size=(6, 7, 8), foreground_rate=1.0
        )
        centres.append(y[3, 3, 4])
    np.testing.assert_allclose(np.bincount(centres, minlength=3) / 200, [0, 0.5, 0.5], atol=0.1)


def test_foreground_rate_is_the_share_of_centred_patches() -> None:
    foreground = {1: np.array([[50, 50, 50]], np.int32)}
    rng = np.random.default_rng(0)
    offsets = [draw_offset((100, 100, 100), foreground, rng, (10, 10, 10), 0.3) for _ in range(2000)]
    assert np.mean([offset == (45, 45, 45) for offset in offsets]) == pytest.approx(0.3, abs=0.03)


def test_a_patch_at_the_border_stays_inside() -> None:
    foreground = {1: np.array([[0, 19, 10]], np.int32)}
    assert draw_offset((20, 20, 20), foreground, np.random.default_rng(0), (8, 8, 8), 1.0) == (0, 12, 6)


def test_a_small_volume_is_padded_on_both_sides() -> None:
    volume = np.ones((2, 5, 4, 1), np.float32)
    label = np.ones((2, 5, 4), np.uint8)
    x, y = draw_sample(
        volume,
        label,
        {},
        np.random.default_rng(0),
        patch_size=(6, 4, 4),
        foreground_rate=0.0,
        fill=-3.0,
    )
    np.testing.assert_array_equal(x[:, 0, 0, 0], [-3, -3, 1, 1, -3, -3])
    np.testing.assert_array_equal(y[:, 0, 0], [0, 0, 1, 1, 0, 0])
    assert x.shape == (6, 4, 4, 1)


def test_whole_pads_and_refuses_larger_volumes(volume: np.ndarray) -> None:
    label = np.ones(volume.shape[:3], np.uint8)
    options = {"foreground_rate": 1.0, "sampling": "whole"}
    x, y = draw_sample(volume, label, {}, np.random.default_rng(0), patch_size=(12, 12, 9), **options)
    np.testing.assert_array_equal(x[1:11, :, :8], volume)
    assert y.sum() == label.size
    with pytest.raises(ValueError, match=r"at least the volume's \[10, 12, 8\]; got \[12, 8, 8\]"):
        draw_sample(volume, label, {}, np.random.default_rng(0), patch_size=(12, 8, 8), **options)


def test_grid_offsets_cover_the_volume() -> None:
    assert grid_offsets((10, 4, 2), (4, 4, 4)) == [(0, 0, -1), (4, 0, -1), (6, 0, -1)]
    assert grid_offsets((8, 4, 4), (4, 4, 4)) == [(0, 0, 0), (4, 0, 0)]
    assert grid_offsets((8, 4, 4), (4, 4, 4), stride=(2, 2, 2)) == [(0, 0, 0), (2, 0, 0), (4, 0, 0)]
    rng = np.random.default_rng(0)
    drawn = {draw_offset((10, 4, 2), {}, rng, (4, 4, 4), 0.0, "grid") for _ in range(50)}
    assert drawn == {(0, 0, -1), (4, 0, -1), (6, 0, -1)}


def test_crop_outside_is_all_fill() -> None:
    array = np.ones((3, 3, 3))
    np.testing.assert_array_equal(crop(array, (5, 0, 0), (2, 2, 2), fill=7), np.full((2, 2, 2), 7))
    np.testing.assert_array_equal(crop(array, (0, -4, 0), (2, 2, 2), fill=7), np.full((2, 2, 2), 7))


def test_a_memory_map_gives_the_same_patch_as_an_array(volume: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "case.npy", volume)
    mapped = np.load(tmp_path / "case.npy", mmap_mode="r")
    label = np.zeros(volume.shape[:3], np.uint8)
    options = {"patch_size": (4, 4, 4), "foreground_rate": 0.0}
    augment = augment_by(rotate={"probability": 1})
    for transform in (None, augment):
        x, _ = draw_sample(mapped, label, {}, np.random.default_rng(3), augment=transform, **options)
        again, _ = draw_sample(volume, label, {}, np.random.default_rng(3), augment=transform, **options)
        assert type(x) is np.ndarray
        np.testing.assert_array_equal(x, again)

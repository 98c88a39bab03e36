"""Labels on another grid keep their volumes, and no label is preferred."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.label_resampling import measure
from configs.schema.data import DataConfig
from data.files.volumes import read_label
from data.layouts.registry import find_cases
from data.prepare.resample_labels import resample_label
from tests.data.grids import at, square_grid

SPACINGS = [(2, 2, 2), (3, 3, 3), (1.5, 1.5, 1.5), (2, 1, 1)]
# Of the restored perfect labels over the hippocampi: nnU-Net's Dice at each of these spacings.
NNUNET_DICE = [0.878, 0.820, 0.917, 0.910]


def balls(seed, radii, shape=(40, 44, 48)):
    """Balls of labels 1 and 2, each in halves of the two, at places that no grid favours."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for radius in radii:
        offset = np.indices(shape) - rng.uniform(radius, np.array(shape) - radius)[:, None, None, None]
        inside = (offset**2).sum(axis=0) < radius**2
        label[inside] = np.where(offset[int(rng.integers(3))] > 0, 1, 2)[inside]
    return label


@pytest.mark.slow
@pytest.mark.parametrize("spacing_mm", [*SPACINGS, (0.7, 0.7, 0.7), (1, 1, 1.3)])
@pytest.mark.parametrize("kind", ["balls", "sheets"])
def test_every_label_keeps_its_volume(kind, spacing_mm):
    before, after = np.zeros(3), np.zeros(3)
    for seed in range(4):
        label = balls(seed, (4, 5, 6, 3, 3))
        if kind == "sheets":  # two voxels thick, aslant
            d, h, w = np.indices(label.shape)
            height = d + 0.3 * h + 0.2 * seed * w
            label = np.digitize(height, [30, 32, 34]).astype(np.uint8) % 3
        source = square_grid(label.shape)
        target = at(source, spacing_mm)
        before += np.bincount(label.ravel(), minlength=3) * source.voxel_volume_mm3
        after += np.bincount(resample_label(label, source, target).ravel(), minlength=3) * target.voxel_volume_mm3
    assert after[1:].sum() == pytest.approx(before[1:].sum(), rel=0.01)
    np.testing.assert_allclose(after[1:], before[1:], rtol=0.02)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("names", [(0, 2, 1), (2, 0, 1), (1, 2, 0)])
def test_no_label_is_preferred(names, spacing_mm):
    label, names = balls(7, (6, 5, 4)), np.array(names, np.uint8)
    source = square_grid(label.shape)
    target = at(source, spacing_mm)
    result = resample_label(label, source, target)
    other = resample_label(names[label], source, target)
    assert np.count_nonzero(names[result] != other) <= 0.01 * np.count_nonzero(result)


def test_ties_go_to_the_nearest_voxel_and_less_than_half_is_lost() -> None:
    source = square_grid((1, 1, 8))
    target = source.resample((1, 1, 4), (1.0, 1.0, 2.0))
    # Voxels 0 and 1 of the target have as much of the 1; the centre of 0 lies between voxels 0 and 1 of the source.
    assert resample_label(np.uint8([[[0, 1, 1, 0, 0, 0, 0, 0]]]), source, target).tolist() == [[[1, 0, 0, 0]]]
    assert resample_label(np.uint8([[[1, 0, 0, 1, 1, 1, 1, 1]]]), source, target).tolist() == [[[0, 1, 1, 1]]]
    source = square_grid((8, 8, 8))
    target = at(source, (2, 2, 2))
    label = np.zeros(source.shape, np.uint8)
    label[2, 2:4, 4] = label[3, 2, 4] = 1  # three of the eight that make a voxel
    assert not resample_label(label, source, target).any()
    label[2, 2:4, 5] = 1  # five
    assert np.argwhere(resample_label(label, source, target)).tolist() == [[1, 1, 2]]


def test_specks_and_many_labels_at_one_place_keep_their_volume() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random((24, 24, 24)) < 0.02).astype(np.uint8)  # single voxels
    source = square_grid(label.shape)
    result = resample_label(label, source, at(source, (2, 2, 2)))
    assert np.count_nonzero(result) == round(np.count_nonzero(label) / 8)
    # More than two labels share most voxels, and each still gets its own.
    label = np.random.default_rng(3).integers(0, 6, (8, 8, 8)).astype(np.uint8).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    source = square_grid(label.shape)
    result = resample_label(label, source, at(source, (1.6, 1.6, 1.6)))
    share = np.bincount(result.ravel(), minlength=6) / result.size
    np.testing.assert_allclose(share, np.bincount(label.ravel(), minlength=6) / label.size, rtol=0.02)


@pytest.mark.parametrize("ignore", [-1, 255])
def test_strokes_in_an_ignored_volume_stay_strokes(ignore):
    label = np.full((4, 32, 32), ignore, np.int16)
    label[:, 5:7, 4:28] = 1
    label[:, 20:22, 4:28] = 0
    source = square_grid(label.shape, (5.0, 1.0, 1.0))
    result = resample_label(label, source, at(source, (5, 2, 2)))
    assert result.dtype == np.int16
    for value, row in ((1, 3), (0, 10)):
        assert np.count_nonzero(result == value) == pytest.approx(4 * 2 * 24 / 4, abs=1)
        assert {int(h) for h in np.argwhere(result == value)[:, 1]} <= {row - 1, row}


def test_labels_are_never_interpolated_as_numbers():
    label = np.zeros((6, 10, 10), np.uint8)
    label[:, 2:5, 2:8] = 7
    label[:, 5:8, 2:8] = 1
    source = square_grid(label.shape, (3.0, 1.0, 1.0))
    target = source.resample((18, 50, 50), (1.0, 0.2, 0.2))
    result = resample_label(label, source, target)
    assert result.dtype == np.uint8
    assert set(np.unique(result)) == {0, 1, 7}
    volume_before = np.prod(source.spacing_mm) * (label == 7).sum()
    volume_after = np.prod(target.spacing_mm) * (result == 7).sum()
    assert volume_after == pytest.approx(volume_before, rel=0.002)
    np.testing.assert_array_equal(resample_label(result, target, source), label)


def test_what_a_label_keeps_at_whole_factors_and_outside_the_target() -> None:
    source = square_grid((4, 5, 6))
    ones = np.ones(source.shape, np.uint8)
    np.testing.assert_array_equal(resample_label(ones, source, at(source, (2, 2, 2))), np.ones((2, 2, 3)))
    label = balls(0, (2,), source.shape)
    copy = resample_label(label, source, source)
    np.testing.assert_array_equal(copy, label)
    assert copy is not label
    label = np.random.default_rng(1).integers(0, 4, (4, 5, 6)).astype(np.int16) - 1
    source = square_grid(label.shape)
    target = source.resample((4, 5, 18), (1.0, 1.0, 1 / 3))
    np.testing.assert_array_equal(resample_label(label, source, target), label.repeat(3, axis=2))
    source = square_grid((1, 1, 40))
    target = source.crop((0, 0, 0), (1, 1, 20))
    label = np.zeros(source.shape, np.uint8)
    label[..., 30:35] = 1
    assert not resample_label(label, source, target).any()
    label[..., 5:9] = 2  # where both grids have the same voxels
    assert resample_label(label, source, target).tolist() == label[..., :20].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("spacing_mm", "least"), list(zip(SPACINGS, NNUNET_DICE, strict=True)))
def test_the_hippocampi(datasets: Path, spacing_mm, least):
    cases = find_cases(DataConfig(source="msd", root=datasets / "hippocampus")).cases[:35]
    kept, dice = measure([read_label(case.label)[:2] for case in cases], spacing_mm, resample_label)
    assert kept[0] == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(kept[1:], 1, atol=0.02)
    assert dice >= least - 0.003

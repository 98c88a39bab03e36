"""A case from files to what the network sees, and a prediction back to the file's grid."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from data.files.grid import Grid
from data.files.volumes import FileProblem, read_image
from data.layouts.cases import Case
from data.prepare.cache import Entry
from data.prepare.normalise import Intensities
from data.prepare.to_source_grid import restore_labels, restore_maps, restore_slabs
from data.prepare.volumes import (
    MAX_FOREGROUND,
    Preparation,
    Prepared,
    map_labels,
    nonzero_box,
    prepare,
    read_case_image,
    sample_foreground,
    sample_intensities,
    working_grid,
)

# Columns: LPS-like flips, oblique, 0.8 x 1.2 x 2.5 mm.
AFFINE = np.array([[-0.8, 0.05, 0.1, 40.0], [-0.05, -1.2, 0.3, 55.0], [0.05, 0.1, 2.5, -30.0], [0, 0, 0, 1.0]])
PLAIN = Preparation(num_classes=3, normalisation="none")


def save(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def voxels():
    rng = np.random.default_rng(0)
    image = rng.normal(50, 10, (20, 16, 10)).astype(np.float32)
    label = np.zeros((20, 16, 10), np.uint8)
    label[4:12, 3:12, 2:8] = 1
    label[12:16, 5:9, 3:6] = 2
    return image, label


@pytest.fixture
def case(tmp_path, voxels):
    image, label = voxels
    return Case("c", (save(tmp_path / "image.nii", image),), save(tmp_path / "label.nii", label))


def restore_probabilities(prepared, probabilities):
    return np.concatenate([slab for _, slab in restore_slabs(prepared, probabilities)])


def one_hot(label, num_classes):
    return np.eye(num_classes, dtype=np.float32)[label]


def test_label_maps_replace_all_at_once_and_leave_old_keys_alone() -> None:
    label = np.array([[0, 1, 2, 3, 7]], np.uint8)
    np.testing.assert_array_equal(map_labels(label, ((1, 2), (2, 1), (7, 0))), [[0, 2, 1, 3, 0]])
    assert map_labels(label, ((3, -1),)).tolist() == [[0, 1, 2, -1, 7]]
    assert label.tolist() == [[0, 1, 2, 3, 7]], "the file's own array is left alone"
    assert map_labels(label, None) is label
    assert "label_map" not in PLAIN.to_json()
    assert replace(PLAIN, label_map=((2, 1),)).to_json()["label_map"] == ((2, 1),)
    assert Preparation(num_classes=256).label_dtype == np.uint8
    assert Preparation(num_classes=3, ignore_label=255).label_dtype == np.uint8
    assert Preparation(num_classes=3, ignore_label=-1).label_dtype == np.int16
    assert Preparation(num_classes=300).label_dtype == np.int16


def test_without_changes_the_case_is_its_files_and_merged_classes_are_one_foreground(case, voxels) -> None:
    prepared = prepare(case, PLAIN)
    # RAS+ flips the first two axes of this affine; (k, j, i) = (D, H, W).
    np.testing.assert_array_equal(prepared.volume[..., 0], voxels[0][::-1, ::-1].transpose(2, 1, 0))
    np.testing.assert_array_equal(prepared.label, voxels[1][::-1, ::-1].transpose(2, 1, 0))
    assert prepared.label.dtype == np.uint8
    assert prepared.grid is prepared.source_grid or prepared.grid.matches(prepared.source_grid)
    assert prepared.notes == ()
    merged = prepare(case, replace(PLAIN, num_classes=2, label_map=((2, 1),)))
    whole = prepare(case, PLAIN)
    np.testing.assert_array_equal(merged.label, whole.label > 0)
    assert list(merged.foreground) == [1]
    assert len(merged.foreground[1]) == np.count_nonzero(voxels[1])


def test_intensities_are_scaled_after_resampling(case) -> None:
    preparation = Preparation(num_classes=3, spacing_mm=(1.5, 1.5, 1.5))
    prepared = prepare(case, preparation)
    assert prepared.grid.spacing_mm == pytest.approx((1.5, 1.5, 1.5))
    assert prepared.volume.shape[:3] == prepared.label.shape == prepared.grid.shape
    assert prepared.volume.mean() == pytest.approx(0, abs=1e-5)
    assert prepared.volume.std() == pytest.approx(1, abs=1e-5)
    plain = prepare(case, PLAIN)
    known = (Intensities(low=40, high=60, mean=50, std=5),)
    scaled = prepare(case, replace(PLAIN, normalisation="ct", intensities=known))
    np.testing.assert_allclose(scaled.volume, (plain.volume.clip(40, 60) - 50) / 5, atol=1e-5)


def test_working_grid_keeps_field_and_centre():
    grid = Grid((10, 16, 20), AFFINE)
    target = working_grid(grid, (1.0, 1.0, 1.0))
    assert np.abs(np.array(target.shape) - np.array(grid.shape) * grid.spacing_mm).max() <= 0.5
    centre = lambda g: g.affine @ [*((np.array(g.shape[::-1]) - 1) / 2), 1]  # noqa: E731
    np.testing.assert_allclose(centre(target), centre(grid), atol=1e-9)
    assert working_grid(grid, None) is grid
    assert working_grid(grid, tuple(np.array(grid.spacing_mm) * 1.0005)) is grid


def test_crop_moves_the_origin_and_keeps_every_voxel(tmp_path):
    image = np.zeros((9, 8, 7), np.float32)
    image[2:5, 3:8, 1:3] = np.random.default_rng(1).uniform(1, 2, (3, 5, 2))
    label = (image > 1.5).astype(np.uint8)
    path = save(tmp_path / "image.nii", image, np.diag([1.0, 2.0, 3.0, 1.0]))
    label_path = save(tmp_path / "label.nii", label, np.diag([1.0, 2.0, 3.0, 1.0]))
    prepared = prepare(Case("c", (path,), label_path), replace(PLAIN, crop_nonzero=True))
    assert prepared.box == ((1, 3, 2), (2, 5, 3))
    np.testing.assert_allclose(prepared.grid.affine[:3, 3], [2 * 1, 3 * 2, 1 * 3])
    np.testing.assert_array_equal(prepared.volume[..., 0], image[2:5, 3:8, 1:3].transpose(2, 1, 0))
    restored = restore_labels(prepared, one_hot(prepared.label, 3))
    np.testing.assert_array_equal(restored, label.transpose(2, 1, 0))
    probabilities = restore_probabilities(prepared, one_hot(prepared.label, 3))
    np.testing.assert_array_equal(probabilities.argmax(-1), restored)
    np.testing.assert_array_equal(probabilities.sum(-1), 1)


def test_crop_that_loses_labels_says_so(tmp_path):
    image = np.zeros((6, 6, 6), np.float32)
    image[:3] = 1
    label = np.ones((6, 6, 6), np.uint8)
    case = Case("c", (save(tmp_path / "i.nii", image),), save(tmp_path / "l.nii", label))
    (note,) = prepare(case, replace(PLAIN, crop_nonzero=True)).notes
    assert note.startswith("108 labelled voxels lie where the image is 0")
    assert nonzero_box(np.zeros((3, 4, 5, 1))) == ((0, 0, 0), (3, 4, 5))  # all of it, where it is empty


@pytest.mark.parametrize(
    ("spacing_mm", "least"), [((1.0, 0.5, 0.5), 0.97), ((1.0, 1.0, 1.0), 0.86), ((3.0, 1.5, 1.1), 0.8)]
)
@pytest.mark.parametrize("crop", [False, True])
def test_prediction_comes_back_to_the_source_grid(case, voxels, spacing_mm, least, crop):
    prepared = prepare(case, replace(PLAIN, spacing_mm=spacing_mm, crop_nonzero=crop))
    restored = restore_labels(prepared, one_hot(prepared.label, 3))
    truth = voxels[1][::-1, ::-1].transpose(2, 1, 0)
    assert restored.shape == truth.shape
    assert restored.dtype == np.uint8
    for value in (1, 2):
        found, there = restored == value, truth == value
        assert 2 * (found & there).sum() / (found.sum() + there.sum()) > least
    probabilities = restore_probabilities(prepared, one_hot(prepared.label, 3))
    np.testing.assert_array_equal(restored, probabilities.argmax(-1))


def test_position_survives_resampling_and_return(tmp_path):
    """A ramp in mm is the same ramp on the working grid, and again on the source grid."""
    i, j, k = np.indices((24, 22, 20))
    slope = np.array([0.4, -0.3, 0.2])
    ramp = (np.stack([i, j, k], -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]) @ slope
    case = Case("c", (save(tmp_path / "i.nii", ramp.astype(np.float32)),))
    prepared = prepare(case, replace(PLAIN, spacing_mm=(1.9, 1.0, 0.7)))
    d, h, w = np.indices(prepared.grid.shape)
    affine = prepared.grid.affine
    expected = (np.stack([w, h, d], -1) @ affine[:3, :3].T + affine[:3, 3]) @ slope
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(prepared.volume[..., 0][inner], expected[inner], atol=0.01)
    back = restore_maps(prepared, prepared.volume)[..., 0]
    source, _, _ = read_image(case.images[0])
    np.testing.assert_allclose(back[inner], source[..., 0][inner], atol=0.02)


def test_another_grid_and_an_absurd_size_are_refused(case) -> None:
    with pytest.raises(ValueError, match=r"case c must lie on its prepared grid \(10, 16, 20\); got \(4, 4, 4\)"):
        restore_labels(prepare(case, PLAIN), np.zeros((4, 4, 4, 3)))
    with pytest.raises(FileProblem, match=r"resampled to data\.spacing_mm=\[0\.001, 0\.01, 0\.01\] it has"):
        prepare(case, replace(PLAIN, spacing_mm=(0.001, 0.01, 0.01)))


def test_several_files_are_channels_in_order(tmp_path, voxels):
    image, _ = voxels
    paths = (save(tmp_path / "a.nii", image), save(tmp_path / "b.nii", np.stack([image * 2, image * 3], -1)))
    volume, _, source = read_case_image(Case("c", paths))
    assert volume.shape == (10, 16, 20, 3)
    np.testing.assert_array_equal(volume[..., 1], volume[..., 0] * 2)
    assert source.path == paths[0]
    chosen, _, _ = read_case_image(Case("c", paths), channels=(2, 0))
    np.testing.assert_array_equal(chosen, volume[..., [2, 0]])


def test_labels_of_other_values_and_places_are_file_problems(tmp_path, case, voxels) -> None:
    image, label = voxels
    image[3, 3, 3] = np.nan
    bad_image = Case("n", (save(tmp_path / "nan.nii", image),), case.label)
    with pytest.raises(FileProblem, match=r"nan\.nii: 1 NaN and 0 infinite voxels"):
        prepare(bad_image, PLAIN)
    label[0, 0, :2] = 9
    with pytest.raises(FileProblem, match=r"nine\.nii: label values outside 0…2: 9, 2 voxels"):
        prepare(replace(case, label=save(tmp_path / "nine.nii", label)), PLAIN)
    prepared = prepare(replace(case, label=tmp_path / "nine.nii"), replace(PLAIN, ignore_label=9))
    assert (prepared.label == 9).sum() == 2
    assert 9 not in prepared.foreground
    moved = AFFINE.copy()
    moved[0, 3] += 2
    with pytest.raises(FileProblem, match=r"moved\.nii: affine differs from that of image\.nii"):
        prepare(replace(case, label=save(tmp_path / "moved.nii", voxels[1], moved)), PLAIN)
    with pytest.raises(FileProblem, match=r"small\.nii: shape .* differs from .* of image\.nii"):
        prepare(replace(case, label=save(tmp_path / "small.nii", voxels[1][1:])), PLAIN)


def test_foreground_is_a_fixed_sample_of_each_class():
    label = np.zeros((30, 30, 30), np.uint8)
    label[5:29, 3:28, 2:27] = 1
    label[0, 0, 1:4] = 3
    found = sample_foreground(label, "case_1", 4)
    assert set(found) == {1, 3}
    assert len(found[1]) == MAX_FOREGROUND
    assert len(np.unique(found[1], axis=0)) == MAX_FOREGROUND
    assert (label[tuple(found[1].T)] == 1).all()
    np.testing.assert_array_equal(found[3], [[0, 0, 1], [0, 0, 2], [0, 0, 3]])
    np.testing.assert_array_equal(found[1], sample_foreground(label, "case_1", 4)[1])
    assert not np.array_equal(found[1], sample_foreground(label, "case_2", 4)[1])
    np.testing.assert_allclose(found[1].mean(0), [16.5, 15, 14], atol=0.3)  # spread over the class


def test_intensities_are_drawn_evenly_from_the_foreground(case, voxels, tmp_path) -> None:
    image, label = voxels
    found = sample_intensities(case, PLAIN)
    assert found.shape == (10_000, 1)  # of fewer voxels: with replacement
    assert set(found[:, 0]) <= set(image[label > 0])
    assert found.mean() == pytest.approx(image[label > 0].mean(), abs=0.3)
    np.testing.assert_array_equal(found, sample_intensities(case, PLAIN))
    assert not np.array_equal(found, sample_intensities(replace(case, id="d"), PLAIN))
    assert sample_intensities(replace(case, label=None), PLAIN).shape == (0, 1)
    label = np.ones((40, 40, 40), np.uint8)
    label[:4, :20, :20] = 2  # 1,600 of 64,000
    label[-1] = 255  # ignored
    image = np.float32([0, 0, 100] + [0] * 252 + [-1000])[label]
    case = Case("c", (save(tmp_path / "i.nii", image),), save(tmp_path / "l.nii", label))
    found = sample_intensities(case, replace(PLAIN, ignore_label=255))
    assert found.mean() == pytest.approx(100 * 1600 / (64000 - 1600), abs=0.5)


def test_prepared_survives_the_cache(case):
    prepared = prepare(case, replace(PLAIN, spacing_mm=(2, 2, 2), crop_nonzero=True))
    entry = prepared.to_entry()
    back = Prepared.from_entry(Entry(entry.arrays, json.loads(json.dumps(entry.facts))))
    for name in ("volume", "label"):
        np.testing.assert_array_equal(getattr(back, name), getattr(prepared, name))
    assert set(back.foreground) == set(prepared.foreground) == {1, 2}
    for value, found in prepared.foreground.items():
        np.testing.assert_array_equal(back.foreground[value], found)
    np.testing.assert_array_equal(back.grid.affine, prepared.grid.affine)
    np.testing.assert_array_equal(back.source.affine, prepared.source.affine)
    assert (back.box, back.notes, back.id) == (prepared.box, prepared.notes, "c")
    unlabelled = prepare(replace(case, label=None), PLAIN)
    assert Prepared.from_entry(unlabelled.to_entry()).label is None

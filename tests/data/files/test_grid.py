import json
from pathlib import Path

import numpy as np
import pytest

from data.files.grid import Grid, Source, affines_agree, distance_mm

AFFINE = np.array([[2.0, 0, 0, -10], [0, 3, 0, -20], [0, 0, 4, -30], [0, 0, 0, 1]])


def test_spacing_is_in_dhw_order() -> None:
    assert Grid((7, 6, 5), AFFINE).spacing_mm == (4, 3, 2)
    assert np.isclose(Grid((7, 6, 5), AFFINE).voxel_volume_mm3, 24)


def test_crop_moves_the_origin_by_spacing_times_offset_and_pad_undoes_it() -> None:
    cropped = Grid((10, 10, 10), AFFINE).crop((1, 2, 3), (4, 5, 6))

    assert cropped.shape == (4, 5, 6)
    assert np.array_equal(cropped.affine[:3, 3], [-10 + 3 * 2, -20 + 2 * 3, -30 + 1 * 4])
    assert np.array_equal(cropped.affine[:3, :3], AFFINE[:3, :3])
    grid = Grid((10, 10, 10), AFFINE)
    back = grid.crop((1, 2, 3), (4, 5, 6)).pad((1, 2, 3), (10, 10, 10))

    assert back.shape == grid.shape
    assert np.array_equal(back.affine, grid.affine)


def test_resample_keeps_the_faces_or_where_the_shape_is_rounded_the_centre() -> None:
    grid = Grid((10, 10, 10), AFFINE)
    finer = grid.resample((20, 10, 20), (2, 3, 1))

    assert finer.spacing_mm == (2, 3, 1)
    first_face = finer.affine @ [-0.5, -0.5, -0.5, 1]
    last_face = finer.affine @ [19.5, 9.5, 19.5, 1]
    np.testing.assert_allclose(first_face, AFFINE @ [-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(last_face, AFFINE @ [9.5, 9.5, 9.5, 1])
    coarser = Grid((10, 10, 10), AFFINE).resample((3, 10, 10), (12.5, 3, 2))

    np.testing.assert_allclose(coarser.affine @ [4.5, 4.5, 1, 1], AFFINE @ [4.5, 4.5, 4.5, 1])


def test_distance_is_that_of_the_worst_corner_and_a_tenth_of_a_voxel_matches() -> None:
    stretched = AFFINE.copy()
    stretched[0, 0] += 0.01

    assert np.isclose(distance_mm(AFFINE, stretched, (101, 2, 2)), 1.0)
    assert affines_agree(AFFINE, stretched, (11, 2, 2))
    assert not affines_agree(AFFINE, stretched, (101, 2, 2))
    grid = Grid((10, 10, 10), AFFINE)
    nudged, moved = AFFINE.copy(), AFFINE.copy()
    nudged[0, 3] += 0.19  # the shortest edge is 2 mm
    moved[0, 3] += 0.21

    assert grid.matches(Grid((10, 10, 10), nudged))
    assert not grid.matches(Grid((10, 10, 10), moved))
    assert not grid.matches(Grid((10, 10, 9), AFFINE))


def test_grid_and_source_survive_json_bit_for_bit() -> None:
    affine = AFFINE + np.random.default_rng(0).normal(size=(4, 4))
    grid = Grid.from_json(json.loads(json.dumps(Grid((3, 4, 5), affine).to_json())))
    stored = json.dumps(Source(Path("a.nii"), "nifti1", (5, 4, 3), affine, b"\x00\xff").to_json())
    source = Source.from_json(json.loads(stored))

    assert grid.shape == (3, 4, 5)
    assert np.array_equal(grid.affine, affine)
    assert np.array_equal(source.affine, affine)
    assert (source.path, source.format, source.shape, source.header) == (
        Path("a.nii"),
        "nifti1",
        (5, 4, 3),
        b"\x00\xff",
    )


@pytest.mark.parametrize(("kind", "shape"), [("nifti1", (4, 3, 2, 5)), ("numpy", (2, 3, 4, 5))])
def test_a_volume_in_its_files_axes(kind: str, shape: tuple[int, ...]) -> None:
    volume = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # (D, H, W, C)
    found = Source(Path("scan"), kind, (4, 3, 2), np.diag([-1.0, 1, 1, 1])).in_file_axes(volume)
    assert found.shape == shape
    turned = volume[:, :, ::-1]  # the file's W runs from right to left
    np.testing.assert_array_equal(found, turned if kind == "numpy" else turned.transpose(2, 1, 0, 3))

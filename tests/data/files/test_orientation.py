import itertools

import numpy as np
import pytest

from data.files.orientation import Orientation, axis_codes

ALL = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize(("axes", "flips"), ALL)
def test_every_orientation_comes_to_ras_and_back(axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> None:
    shape = (4, 5, 6)  # in the file's axes
    affine = np.eye(4)
    affine[:3, :3] = 0
    for ras, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        affine[ras, axis] = -(ras + 1.0) if flip else ras + 1.0
    affine[:3, 3] = (7, 8, 9)
    array = np.arange(120).reshape(shape)

    orientation = Orientation.of(affine)
    dhw = orientation.to_dhw(array)
    ras_affine = orientation.ras_affine(affine, shape)

    assert orientation == Orientation(axes, flips)
    assert axis_codes(ras_affine) == "RAS"
    assert np.array_equal(np.diag(ras_affine)[:3], (1, 2, 3))
    assert np.array_equal(orientation.from_dhw(dhw), array)
    for value in (0, 17, 119):  # a voxel keeps its place in mm
        in_file = [int(n[0]) for n in np.nonzero(array == value)]
        d, h, w = (int(n[0]) for n in np.nonzero(dhw == value))
        assert np.array_equal(affine @ [*in_file, 1], ras_affine @ [w, h, d, 1])


def test_an_oblique_affine_keeps_its_angle_and_channels_stay_last() -> None:
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]

    orientation = Orientation.of(affine)
    ras = orientation.ras_affine(affine, (10, 10, 10))

    assert orientation == Orientation((0, 1, 2), (True, False, False))
    np.testing.assert_allclose(ras[:3, 0], [np.cos(turn), -np.sin(turn), 0], atol=1e-15)
    np.testing.assert_allclose(ras[:3, 3], [-9 * np.cos(turn), 9 * np.sin(turn), 0], atol=1e-12)
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    dhw = Orientation.of(np.diag([-1.0, 1, 1, 1])).to_dhw(array)

    assert dhw.shape == (4, 3, 2, 5)
    assert np.array_equal(dhw[3, 2, 0], array[1, 2, 3])

"""Label values and outputs: classes that exclude each other, and regions."""

import numpy as np
import pytest

from engine.evaluation.labelling import Labelling, Regions

NESTED = Regions(("whole", "core", "enhancing"), None, ((1, 2, 3), (2, 3), (3,)))
CROSSING = Regions(("a", "b"), None, ((1, 3), (2, 3)))


def inside(*rows: tuple[float, ...]) -> np.ndarray:
    """Probabilities (n, R) of voxels, each a row of 0 and 1 of its regions."""
    return np.array(rows, np.float32) * 0.8 + 0.1


def test_nested_regions_are_written_as_the_value_that_lies_in_just_them() -> None:
    p = inside((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1))
    assert NESTED.decide(p).tolist() == [0, 1, 2, 3]
    # No value lies in the core alone, or in the enhancing region alone: the last one written stands.
    assert NESTED.decide(inside((0, 1, 0), (0, 0, 1), (1, 0, 1))).tolist() == [2, 3, 3]
    assert NESTED.decide(np.full((1, 3), 0.5, np.float32)).tolist() == [0]  # not above 0.5


def test_what_is_written_is_read_back_as_the_regions_that_were_decided() -> None:
    for regions in (NESTED, CROSSING):
        values = np.arange(4)
        p = regions.truth(values).astype(np.float32)
        assert regions.decide(p).tolist() == values.tolist()
        np.testing.assert_array_equal(np.stack(list(regions.parts(values)), -1), p)


def test_values_in_an_order_are_written_one_region_after_the_other() -> None:
    both = inside((1, 1), (1, 0), (0, 1))
    assert CROSSING.decide(both).tolist() == [3, 1, 2]
    assert Regions(("a", "b"), None, CROSSING.values, (1, 2)).decide(both).tolist() == [2, 1, 2]
    # BraTS's own labels of before 2023: 1 necrosis, 2 oedema, 4 enhancing; the order of nnU-Net is 2, 1, 4
    brats = Regions(NESTED.names, None, ((1, 2, 4), (1, 4), (4,)), (2, 1, 4))
    assert brats.decide(inside((1, 0, 0), (1, 1, 0), (1, 1, 1))).tolist() == [2, 1, 4]
    assert brats.num_values == 5


@pytest.mark.parametrize("ignored", [9, -1])
def test_ignored_voxels_stay_ignored_in_each_part(ignored: int) -> None:
    regions = Regions(NESTED.names, ignored, NESTED.values)
    labels = np.array([[0, 1, ignored], [2, 3, ignored]])
    parts = [part.tolist() for part in regions.parts(labels)]
    assert parts == [
        [[0, 1, ignored], [1, 1, ignored]],
        [[0, 0, ignored], [1, 1, ignored]],
        [[0, 0, ignored], [0, 1, ignored]],
    ]
    assert [number for number, _ in regions.masks(labels)] == [1, 2, 3]


def test_outlines_are_of_what_is_scored() -> None:
    labels = np.array([0, 1, 1, 2])
    found = {number: mask.tolist() for number, mask in NESTED.masks(labels)}
    assert found == {1: [False, True, True, True], 2: [False, False, False, True]}
    assert NESTED.titles == ("background", "whole", "core", "enhancing")
    classes = Labelling(("background", "a", "b"), ignore_label=2)
    assert [number for number, _ in classes.masks(labels)] == [1]

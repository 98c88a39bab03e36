import json
from pathlib import Path

import numpy as np
import pytest

from engine.metrics.surface import (
    border,
    border_distances_mm,
    element_areas_mm2,
    surface_elements,
    transform_distances_mm,
    tree_distances_mm,
)


def test_border_has_a_neighbour_outside() -> None:
    region = np.zeros((5, 6, 7), bool)
    region[1:4, 1:5, 1:6] = True
    expected = region.copy()
    expected[2, 2:4, 2:5] = False
    np.testing.assert_array_equal(border(region), expected)
    region = np.ones((3, 3, 3), bool)
    expected = region.copy()
    expected[1, 1, 1] = False
    np.testing.assert_array_equal(border(region), expected)
    assert border(np.ones((1, 4, 4), bool)).all()


def test_distance_is_in_mm_along_each_axis_either_way() -> None:
    for axis, spacing in enumerate((3.0, 2.0, 0.5)):
        first, second = np.zeros((2, 6, 6, 6), bool)
        first[0, 0, 0] = True
        position = [0, 0, 0]
        position[axis] = 4
        second[tuple(position)] = True
        there, back = border_distances_mm(first, second, (3.0, 2.0, 0.5))
        assert there.tolist() == back.tolist() == [4 * spacing]
    rng = np.random.default_rng(2)
    for density in (0.01, 0.5):
        first, second = rng.random((2, 12, 12, 12)) < density
        first, second = border(first), border(second)
        there, back = border_distances_mm(first, second, (2.0, 1.0, 1.0))
        np.testing.assert_allclose(there, tree_distances_mm(first, second, (2.0, 1.0, 1.0)), rtol=1e-6)
        assert len(back) == second.sum()


@pytest.mark.parametrize("density", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7)])
def test_tree_equals_distance_transform(density: float, spacing_mm: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(1)
    points, targets = rng.random((2, 17, 20, 23)) < density
    targets[0, 0, 0] = True
    expected = transform_distances_mm(points, targets, spacing_mm)
    np.testing.assert_allclose(tree_distances_mm(points, targets, spacing_mm), expected, rtol=1e-6)


def test_a_block_has_its_surface_by_the_areas_of_surface_distance() -> None:
    """At edges and corners of a block the surface is cut off: in mm², voxels 3 × 2 × 0.5 mm."""
    frozen = json.loads(Path(__file__).with_name("surface_distance.json").read_text())
    np.testing.assert_allclose(element_areas_mm2((3.0, 2.0, 0.5)), frozen["areas_mm2"], atol=1e-8)
    passes, areas = surface_elements(np.ones((4, 5, 20), bool), (3.0, 2.0, 0.5))
    assert passes.shape == (5, 6, 21)
    assert passes.sum() == len(areas) == 5 * 6 * 21 - 3 * 4 * 19
    faces = 2 * (4 * 5 * 6 + 4 * 20 * 1.5 + 5 * 20 * 1)
    assert 0.85 * faces < areas.sum() < faces
    inner = element_areas_mm2((3.0, 2.0, 0.5))[[15, 51, 85]]  # inside below, behind, beside
    assert sorted(inner) == [1.0, 1.5, 6.0]

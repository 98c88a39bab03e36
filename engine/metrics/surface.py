"""Borders and surfaces of binary regions, and the distances between two of them."""

from functools import lru_cache
from itertools import permutations, product

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

# Above this share of border voxels in the box a k-d tree costs more time and memory than a distance transform.
_DENSE = 1 / 16

# What marching cubes put between 2 × 2 × 2 voxels: by code (bit 7 is the first voxel, in C order), eight times the
# normals of its facets, as long as their areas are large, without signs. Every other code is one of these after
# turning, mirroring, or exchanging inside and outside, none of which changes an area.
_FACETS = {
    1: ((1, 1, 1),),
    3: ((2, 2, 0), (2, 2, 0)),
    6: ((1, 1, 1), (1, 1, 1)),
    7: ((4, 0, 0), (2, 2, 2), (1, 1, 1)),
    15: ((4, 0, 0), (4, 0, 0)),
    22: ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    23: ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    24: ((1, 1, 1), (1, 1, 1)),
    25: ((0, 2, 2), (0, 2, 2), (1, 1, 1)),
    27: ((1, 1, 1), (3, 3, 3), (0, 2, 2), (2, 0, 2)),
    30: ((4, 0, 0), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    60: ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0)),
    105: ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
}
_BITS = 1 << np.arange(7, -1, -1).reshape(2, 2, 2)  # of the voxels in a code


@lru_cache(maxsize=64)
def element_areas_mm2(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the area in mm² of the surface between 2 × 2 × 2 voxels, by their code: (256,) float64.

    Those of DeepMind's surface-distance (Nikolov et al. 2021, arXiv:1809.04430), whose package is not used itself:
    its one release calls names that NumPy 2 and SciPy's next version lack, and sorts in Python.
    """
    faces_mm2 = np.prod(spacing_mm) / np.array(spacing_mm)
    areas = np.zeros(256)
    for code, facets in _FACETS.items():
        inside = (code & _BITS) > 0
        for axes in permutations(range(3)):
            area = np.linalg.norm(np.array(facets)[:, axes] / 8 * faces_mm2, axis=1).sum()
            for steps in product((1, -1), repeat=3):
                d, h, w = (slice(None, None, step) for step in steps)
                turned = int(_BITS[inside.transpose(axes)[d, h, w]].sum())
                areas[[turned, 255 - turned]] = area
    return areas


def surface_elements(region: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return where the surface of a region (D, H, W) bool passes, and with which area.

    The surface's elements lie at voxels' corners: (D + 1, H + 1, W + 1) bool, and their areas in mm², in the order of
    np.argwhere. What lies beyond the array counts as outside.
    """
    d, h, w = region.shape
    codes = np.zeros((d + 1, h + 1, w + 1), np.uint8)
    for i, j, k in np.ndindex(2, 2, 2):
        # the corner (0, 0, 0) is the last one of the first voxel's neighbourhood
        codes[1 - i : d + 1 - i, 1 - j : h + 1 - j, 1 - k : w + 1 - k] += region * np.uint8(_BITS[i, j, k])
    passes = (codes != 0) & (codes != 255)
    return passes, element_areas_mm2(spacing_mm)[codes[passes]]


def border(region: np.ndarray) -> np.ndarray:
    """Return the voxels of a region (D, H, W) bool that have one of their six neighbours outside it.

    What lies beyond the array counts as outside.
    """
    inside = region.copy()
    for axis in range(region.ndim):
        voxels, mask = np.moveaxis(inside, axis, 0), np.moveaxis(region, axis, 0)
        voxels[1:] &= mask[:-1]
        voxels[:-1] &= mask[1:]
        voxels[[0, -1]] = False
    inside ^= region
    return inside


def border_distances_mm(
    first: np.ndarray, second: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """From each voxel of one border to the other's nearest one: (first to second, second to first).

    Borders are (D, H, W) bool, both with at least one voxel; crop them to their common bounding box first,
    since the cost is the array's. Distances are float32, in mm, in the order of np.argwhere.
    """
    sparse = np.count_nonzero(first) + np.count_nonzero(second) < _DENSE * first.size
    distances = tree_distances_mm if sparse else transform_distances_mm
    return distances(first, second, spacing_mm), distances(second, first, spacing_mm)


def tree_distances_mm(points: np.ndarray, targets: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Distances from `points` to the nearest of `targets`, both (D, H, W) bool, by a k-d tree.

    Its cost grows with the number of marked voxels: fast where they are few.
    """
    tree = KDTree(np.argwhere(targets) * np.asarray(spacing_mm), leafsize=32)
    return tree.query(np.argwhere(points) * np.asarray(spacing_mm))[0].astype(np.float32)


def transform_distances_mm(
    points: np.ndarray, targets: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Return the same distances by a distance transform, whose cost is the array's, however many voxels are marked.

    Only the nearest voxels' indices are asked of SciPy (12 bytes a voxel): its distances would take 60.
    """
    nearest = distance_transform_edt(~targets, sampling=spacing_mm, return_distances=False, return_indices=True)
    distances = []
    for plane in range(len(points)):
        h, w = np.nonzero(points[plane])
        voxels = (np.full_like(h, plane), h, w)
        steps_mm = [
            (nearest[axis][voxels] - voxels[axis]) * spacing_mm[axis] for axis in range(3)
        ]  # three of (points in this plane,)
        distances.append(np.sqrt(sum(step**2 for step in steps_mm)).astype(np.float32))
    return np.concatenate(distances)

"""Borders of binary regions, and the distances between two of them."""

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

# Above this share of border voxels in the box a k-d tree costs more time and memory than a distance transform.
_DENSE = 1 / 16


def border(region: np.ndarray) -> np.ndarray:
    """The voxels of a region (D, H, W) bool that have one of their six neighbours outside it.

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
    since the cost is the array's. Distances are float32, in mm, in no particular order.
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
    """The same distances by a distance transform, whose cost is the array's, however many voxels are marked.

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

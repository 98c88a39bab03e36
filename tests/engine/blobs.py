"""Fifty pairs of blobs, made again from the seed wherever they are needed."""

from dataclasses import dataclass

import numpy as np

NUM_PAIRS = 50


@dataclass(frozen=True)
class Pair:
    prediction: np.ndarray  # (D, H, W) uint8, classes 1 and 2 touch each other
    reference: np.ndarray
    spacing_mm: tuple[float, float, float]
    tolerance_mm: float


def make_pair(number: int) -> Pair:
    """Pair `number` of NUM_PAIRS: anisotropic; every third touches the volume's border; some are empty.

    The prediction lacks class 2 in one of ten pairs, the reference in another, both in a third.
    """
    rng = np.random.default_rng([20240, number])
    shape = tuple(int(size) for size in rng.integers(9, 30, size=3))
    d_mm, h_mm, w_mm = rng.uniform(0.4, 3.0, size=3).round(2).tolist()
    reference = np.zeros(shape, dtype=np.uint8)
    prediction = np.zeros(shape, dtype=np.uint8)
    for value in (1, 2):
        centre = rng.uniform(0.3, 0.7, size=3) * shape
        if number % 3 == 0:
            centre[value] = 0.0 if value == 1 else shape[value] - 1
        radius = rng.uniform(0.12, 0.35, size=3) * shape + 1
        reference[_ellipsoid(shape, centre, radius)] = value
        shift, growth = rng.normal(0, 1.5, size=3), rng.uniform(0.7, 1.3, size=3)
        prediction[_ellipsoid(shape, centre + shift, radius * growth)] = value
    if number % 10 in (3, 5):
        prediction[prediction == 2] = 0
    if number % 10 in (4, 5):
        reference[reference == 2] = 0
    return Pair(prediction, reference, (d_mm, h_mm, w_mm), round(float(rng.uniform(0.5, 3.0)), 2))


def _ellipsoid(shape: tuple[int, ...], centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    grid = np.ogrid[tuple(slice(0, size) for size in shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) <= 1

"""Grids for tests of resampling."""

import numpy as np

from data.files.grid import Grid


def square_grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Grid:
    return Grid(shape, np.diag([*spacing_mm[::-1], 1.0]))


def at(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The same field of view at another spacing."""
    return grid.resample(tuple(np.rint(np.array(grid.shape) * grid.spacing_mm / spacing_mm).astype(int)), spacing_mm)

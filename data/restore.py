"""Predictions back onto the grid of the file that their case came from."""

import numpy as np

from data.prepare import Prepared
from data.resample import resample_argmax, resample_probabilities


def restore_labels(prepared: Prepared, probabilities: np.ndarray) -> np.ndarray:
    """Labels (D, H, W) on the source file's RAS+ grid, uint8 (int16 beyond 256 classes).

    `probabilities` (d, h, w, K) lie on the prepared grid. They are resampled class by class, then the largest
    wins; what was cropped away is background. Extra memory: the result and a slab.
    """
    inside = _inside(prepared, probabilities)
    cropped = prepared.source_grid.crop(*prepared.box)
    labels = resample_argmax(probabilities, prepared.grid, cropped)
    if cropped.shape == prepared.source_grid.shape:
        return labels
    restored = np.zeros(prepared.source_grid.shape, labels.dtype)
    restored[inside] = labels
    return restored


def restore_probabilities(prepared: Prepared, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (D, H, W, K) float32 on the source file's RAS+ grid, background where cropped away."""
    inside = _inside(prepared, probabilities)
    cropped = prepared.source_grid.crop(*prepared.box)
    values = resample_probabilities(probabilities, prepared.grid, cropped)
    if cropped.shape == prepared.source_grid.shape:
        return values
    restored = np.zeros((*prepared.source_grid.shape, probabilities.shape[-1]), np.float32)
    restored[..., 0] = 1
    restored[inside] = values
    return restored


def _inside(prepared: Prepared, probabilities: np.ndarray) -> tuple[slice, ...]:
    if probabilities.shape[:3] != prepared.grid.shape:
        raise ValueError(
            f"probabilities of case {prepared.id} must lie on its prepared grid {prepared.grid.shape}; "
            f"got {probabilities.shape[:3]}"
        )
    return tuple(slice(o, o + n) for o, n in zip(*prepared.box, strict=True))

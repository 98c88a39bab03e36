"""Small pictures of volumes, for pages that show every case."""

import numpy as np
from imageio.v3 import imwrite
from scipy import ndimage

from data.files.grid import Spacing
from data.preview import fullest_slice

COLOURS = ("#e8743b", "#3f8efc", "#19a979", "#b65fcf", "#e6447d", "#13a4b4", "#b5892b", "#6c8893")
LONG_SIDE = 180  # pixels


def draw_thumbnail(volume: np.ndarray, label: np.ndarray | None, spacing_mm: Spacing) -> bytes:
    """Return a JPEG of the axial slice of volume (D, H, W) with the most labelled voxels, or the middle one.

    The classes of `label` (D, H, W), where there is one of the same shape, are outlined. Anterior is up, the
    left of the body left.
    """
    if label is not None and label.shape != volume.shape:
        label = None
    index = volume.shape[0] // 2 if label is None else fullest_slice(label, 0)
    plane = volume[index]  # (H, W)
    millimetres = np.array(plane.shape) * spacing_mm[1:]
    rows, columns = np.maximum(np.rint(LONG_SIDE * millimetres / millimetres.max()), 1).astype(int)
    places = np.meshgrid(
        (np.arange(rows)[::-1] + 0.5) * plane.shape[0] / rows - 0.5,  # H runs upwards
        (np.arange(columns) + 0.5) * plane.shape[1] / columns - 0.5,
        indexing="ij",
    )
    finite = np.nan_to_num(plane, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(finite, (0.5, 99.5))
    grey = ndimage.map_coordinates(finite, places, order=1, mode="nearest")
    grey = np.clip((grey - low) / max(high - low, 1e-30), 0, 1)
    picture = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)  # (rows, columns, RGB)
    if label is not None:
        classes = ndimage.map_coordinates(label[index], places, order=0, mode="nearest")
        for value in np.unique(classes[classes > 0]).tolist():
            inside = classes == value
            rim = inside & ~ndimage.binary_erosion(inside, np.ones((3, 3)))
            picture[rim] = colour_of(value)
    return imwrite("<bytes>", picture, extension=".jpeg", quality=85, subsampling=0)


def draw_frame(picture: np.ndarray) -> bytes:
    """Return a JPEG of a clip's frame (h, w, RGB) uint8."""
    return imwrite("<bytes>", picture, extension=".jpeg", quality=80)


def colour_of(value: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class's outline."""
    text = COLOURS[(value - 1) % len(COLOURS)]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)

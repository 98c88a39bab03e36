"""A picture of one batch, to see what the model will see."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def save_preview(
    path: Path, x: np.ndarray, y: np.ndarray, class_names: Sequence[str], ids: Sequence[str], limit: int = 8
) -> None:
    """Write a PNG: a row per sample, a column per plane, labels as outlines over the first channel.

    x (B, D, H, W, C), y (B, D, H, W), `ids` the B case ids; at most `limit` samples are shown. Each slice is
    the one with the most labelled voxels, or the middle one; D and H run upwards, W to the right.
    """
    # Imported here: pyplot costs half a second, and no training run needs it. No pyplot figure, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = min(len(x), limit)
    values = [value for value in range(1, len(class_names)) if (y[:rows] == value).any()]
    colours = {value: f"C{(value - 1) % 10}" for value in values}
    figure = Figure(figsize=(9, 3 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 3, squeeze=False)
    for row, axes in enumerate(grid):
        for plane, (ax, name) in enumerate(zip(axes, ("D", "H", "W"), strict=True)):
            index = fullest_slice(y[row], plane)
            picture = np.take(x[row, ..., 0], index, axis=plane)
            labels = np.take(y[row], index, axis=plane)
            low, high = np.percentile(x[row, ..., 0], (0.5, 99.5))
            ax.imshow(picture, cmap="gray", origin="lower", vmin=low, vmax=high)
            for value in values:
                if (inside := labels == value).any():
                    ax.contour(inside, [0.5], colors=[to_rgba(colours[value])], linewidths=1.2)
            ax.set_title(f"{ids[row]}, {name} = {index}", fontsize=8)
            ax.set_axis_off()
    if values:
        handles = [Line2D([], [], color=colours[value], label=class_names[value]) for value in values]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(values), 5))
    figure.savefig(path, dpi=100)


def save_labelled_preview(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    class_names: Sequence[str],
    ids: Sequence[str],
    is_clip: bool,
    limit: int = 8,
) -> None:
    """Write a PNG of samples with classes: a row per sample, six planes or frames along D, its classes above.

    x (B, D, H, W, C), in colour where C is 3, else the first channel; y (B,) class numbers, or (B, K) of 0 and 1.
    H runs upwards, in clips downwards.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = min(len(x), limit), min(x.shape[1], 6)
    figure = Figure(figsize=(9, 1.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for row, axes in enumerate(figure.subplots(rows, columns, squeeze=False)):
        image = x[row] if x.shape[-1] == 3 else x[row, ..., 0]
        low, high = np.percentile(image, (0.5, 99.5))
        image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        for ax, index in zip(axes, np.linspace(0, len(image) - 1, columns).round().astype(int), strict=True):
            ax.imshow(image[index], cmap="gray", vmin=0, vmax=1, origin="upper" if is_clip else "lower")
            ax.set_axis_off()
        there = [int(y[row])] if y.ndim == 1 else np.flatnonzero(y[row]).tolist()
        names = " + ".join(class_names[k] for k in there) or "none"
        axes[0].set_title(f"{ids[row]}: {names}", fontsize=8, loc="left")
    figure.savefig(path, dpi=100)


def fullest_slice(label: np.ndarray, axis: int) -> int:
    """The slice of label (D, H, W) along `axis` with the most labelled voxels; the middle one if none has."""
    counts = (label > 0).sum(axis=tuple(a for a in range(3) if a != axis))
    return int(counts.argmax()) if counts.any() else label.shape[axis] // 2

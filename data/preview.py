"""A picture of one batch, to see what the model will see."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def save_preview(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    class_names: Sequence[str],
    ids: Sequence[str],
    is_clip: bool = False,
    limit: int = 8,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write a PNG of a batch, a row per sample, at most `limit`.

    x (B, D, H, W, C), `ids` the B case ids. With label volumes, y (B, D, H, W), a column per plane, labels as
    outlines over the first channel, or the `regions`, by the label values that each holds: each slice is the one with
    the most labelled voxels, or the middle one; D and H run upwards, W to the right. With classes, y (B,) numbers or
    (B, K) of 0 and 1, six planes or frames along D, the classes above: in colour where C is 3, H upwards, in clips
    downwards.
    """
    # Imported here: pyplot costs half a second, and no training run needs it. No pyplot figure, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows, voxelwise = min(len(x), limit), y.ndim == 4
    columns, height = (3, 3 * rows + 0.5) if voxelwise else (min(x.shape[1], 6), 1.9 * rows)
    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)
    held = regions or {name: (value,) for value, name in enumerate(class_names) if value}
    drawn = [
        (number, *item) for number, item in enumerate(held.items()) if voxelwise and np.isin(y[:rows], item[1]).any()
    ]
    for row, axes in enumerate(figure.subplots(rows, columns, squeeze=False)):
        for ax in axes:
            ax.set_axis_off()
        if voxelwise:
            _draw_planes(axes, x[row, ..., 0], y[row], drawn, ids[row])
            continue
        _draw_frames(axes, x[row], is_clip)
        there = [int(y[row])] if y.ndim == 1 else np.flatnonzero(y[row]).tolist()
        names = " + ".join(class_names[k] for k in there) or "none"
        axes[0].set_title(f"{ids[row]}: {names}", fontsize=8, loc="left")
    if drawn:
        handles = [Line2D([], [], color=f"C{number % 10}", label=name) for number, name, _ in drawn]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(drawn), 5))
    figure.savefig(path, dpi=100)


def _draw_planes(
    axes: Sequence[Any],
    image: np.ndarray,
    label: np.ndarray,
    drawn: Sequence[tuple[int, str, Sequence[int]]],
    name: str,
) -> None:
    low, high = np.percentile(image, (0.5, 99.5))
    for plane, (ax, axis) in enumerate(zip(axes, ("D", "H", "W"), strict=True)):
        index = fullest_slice(label, plane)
        ax.imshow(np.take(image, index, axis=plane), cmap="gray", origin="lower", vmin=low, vmax=high)
        for number, _, values in drawn:
            if (inside := np.isin(np.take(label, index, axis=plane), values)).any():
                ax.contour(inside, [0.5], colors=[f"C{number % 10}"], linewidths=1.2)
        ax.set_title(f"{name}, {axis} = {index}", fontsize=8)


def _draw_frames(axes: Sequence[Any], image: np.ndarray, is_clip: bool) -> None:
    image = image if image.shape[-1] == 3 else image[..., 0]
    low, high = np.percentile(image, (0.5, 99.5))
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    for ax, index in zip(axes, np.linspace(0, len(image) - 1, len(axes)).round().astype(int), strict=True):
        ax.imshow(image[index], cmap="gray", vmin=0, vmax=1, origin="upper" if is_clip else "lower")


def fullest_slice(label: np.ndarray, axis: int) -> int:
    """Return the slice of label (D, H, W) along `axis` with the most labelled voxels; the middle one if none has."""
    counts = (label > 0).sum(axis=tuple(a for a in range(3) if a != axis))
    return int(counts.argmax()) if counts.any() else label.shape[axis] // 2

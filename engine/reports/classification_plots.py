"""Figures of a classification report: confusion matrix, ROC curves, and what a network looked at."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from engine.reports.plots import COLORS, INK, PLANES, data_uri, ink_axes, plain

_MAX_FRAMES = 8


def plot_confusion(counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> str:
    """SVG of the confusion matrix as a data URI: rows are labels, columns predictions, shades shares of a row."""
    matrix = np.asarray(counts)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = 1.6 + 0.55 * len(class_names)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=9)
    long = max(map(len, class_names)) > 3
    names = [plain(name) for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    ink_axes(axes)
    axes.grid(False)
    return data_uri(figure, "svg")


def plot_roc(probabilities: np.ndarray, truth: np.ndarray, class_names: Sequence[str], exclusive: bool) -> str | None:
    """SVG of the ROC curves, each class against the rest, as a data URI; None where no class has one.

    probabilities (N, K), truth (N, K) booleans. Of two classes that exclude each other only the second is drawn:
    the other's curve is the same one.
    """
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    first = 1 if exclusive and len(class_names) == 2 else 0
    drawn = 0
    for k in range(first, len(class_names)):
        if truth[:, k].all() or not truth[:, k].any():
            continue
        alarms, hits, _ = roc_curve(truth[:, k], probabilities[:, k], drop_intermediate=False)
        auc = roc_auc_score(truth[:, k], probabilities[:, k])
        label = f"{plain(class_names[k])}, {auc:.3f}"
        axes.plot(alarms, hits, color=COLORS[k % len(COLORS)], linewidth=1.5, label=label)
        drawn += 1
    if not drawn:
        return None
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="dotted")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.set_aspect("equal")
    ink_axes(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="lower right")
    return data_uri(figure, "svg")


def plot_windows(times_s: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> str:
    """SVG of class probabilities (N, K) over time as a data URI; times_s (N, 2) are from and up to."""
    figure = Figure(figsize=(10.5, 2.8), layout="constrained")
    axes = figure.subplots()
    middles, marker = times_s.mean(axis=1), "." if len(times_s) < 30 else ""
    for k, name in enumerate(class_names):
        color = COLORS[k % len(COLORS)]
        axes.plot(middles, probabilities[:, k], color=color, label=plain(name), linewidth=1.2, marker=marker)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("seconds, the middle of each window")
    axes.set_ylabel("probability")
    ink_axes(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return data_uri(figure, "svg")


def plot_activation(picture: np.ndarray, activation: np.ndarray | None, is_clip: bool) -> str:
    """PNG of a view, and below it the same with an activation (D, H, W) of 0..1 over it, as a data URI.

    picture: (D, H, W, 1 or 3) uint8. Of a clip frames at even distances; of a volume the three planes through the
    activation's maximum, anterior and superior up.
    """
    image = picture if picture.shape[-1] == 3 else picture[..., 0]
    if is_clip:
        chosen = np.linspace(0, len(image) - 1, min(_MAX_FRAMES, len(image))).round().astype(int)
        planes = [(0, int(position), f"frame {position + 1}") for position in chosen]
    else:
        shape = picture.shape[:3]
        centre = tuple(size // 2 for size in shape)
        if activation is not None and activation.any():
            centre = tuple(map(int, np.unravel_index(activation.argmax(), shape)))
        planes = [(axis, centre[axis], f"{PLANES[axis]}, plane {centre[axis] + 1}") for axis in range(3)]
    rows = 1 if activation is None else 2
    columns = max(len(planes), 3)
    aspect = picture.shape[1] / picture.shape[2]
    width = min(10.5 / columns, 2.4)  # inches
    figure = Figure(figsize=(columns * width, rows * width * aspect + 0.3), layout="constrained")
    for row, cells in enumerate(figure.subplots(rows, columns, squeeze=False)):
        for axes in cells:
            axes.set_axis_off()
        for axes, (axis, position, title) in zip(cells, planes, strict=False):
            origin = "upper" if is_clip else "lower"
            shown = np.take(image, position, axis)
            if row == 1 and shown.ndim == 3:
                shown = shown.mean(axis=-1)  # grey: the colours below are the activation's
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255, origin=origin)
            if row == 0:
                axes.set_title(title, color=INK, fontsize=9)
            elif activation is not None:
                plane = np.take(activation, position, axis)
                axes.imshow(plane, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * plane, origin=origin)
    return data_uri(figure, "png")

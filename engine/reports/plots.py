"""Figures of a report, as images that carry their own data and read on light and on dark paper."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from engine.evaluation.labelling import Labelling
from engine.reports.slices import Slices

INK = "#808080"  # of axes and text: 4:1 against white and against black
COLORS = ("#e8743b", "#3f8efc", "#19a979", "#b65fcf", "#e6447d", "#13a4b4", "#b5892b", "#6c8893")
PLANES = ("axial", "coronal", "sagittal")  # across D, H, W


def plot_curves(series: Mapping[str, Sequence[tuple[float, float]]], label: str, logarithmic: bool = False) -> str:
    """SVG of curves {name: [(step, value)]} over the steps, as a data URI."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")  # as small rates have long numbers on the axis
    axes = figure.subplots()
    for number, (name, points) in enumerate(series.items(), 1):
        steps, values = zip(*points, strict=True)
        color = INK if name == "mean" else color_of(number)  # classes have the colours of their outlines
        axes.plot(steps, values, color=color, label=plain(name), linewidth=1.5, marker="." if len(points) < 30 else "")
    if logarithmic:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    ink_axes(axes)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return data_uri(figure, "svg")


def plot_scores(scores: Mapping[str, Sequence[float]], label: str) -> str:
    """SVG of one dot a case and class {class: values}, with the mean as a bar."""
    height = 0.7 + 0.45 * len(scores)  # inches, 0.6 of them for the axis below
    figure = Figure(figsize=(8, height))
    axes = figure.add_axes((0.25, 0.6 / height, 0.73, 1 - 0.7 / height))
    for row, values in enumerate(scores.values()):
        finite = np.asarray(values)[np.isfinite(values)]
        spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(finite))  # so that equal values stay visible
        axes.scatter(finite, row + spread, s=18, color=color_of(row + 1), alpha=0.6, linewidths=0)
        if len(finite):
            axes.plot([finite.mean()] * 2, [row - 0.35, row + 0.35], color=INK, linewidth=2)
    axes.set_yticks(range(len(scores)), [plain(name) for name in scores])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlabel(label)
    ink_axes(axes)
    return data_uri(figure, "svg")


def plot_case(image: np.ndarray, slices: Slices, labelling: Labelling) -> str:
    """PNG of three planes of a case, as a data URI: the prediction's outlines solid, the reference's dashed.

    image: (D, H, W) on the grid of the slices. Anterior and superior are up; the left of the body is left.
    """
    figure = Figure(figsize=(10.5, 4.0))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.09, top=0.93, wspace=0.03)
    shown: set[int] = set()
    for axis, axes in enumerate(figure.subplots(1, 3)):
        prediction, reference = slices.prediction(axis), slices.reference(axis)
        labels = [plane for plane in (prediction, reference) if plane is not None]
        window = around_foreground(labels)
        spacing = [mm for i, mm in enumerate(slices.spacing_mm) if i != axis]
        plane = slices.cut(image, axis)[window].astype(np.float32)
        low, high = np.percentile(plane, [0.5, 99.5])
        axes.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=spacing[0] / spacing[1])
        for labels_here, style in ((reference, "dashed"), (prediction, "solid")):
            if labels_here is not None:
                shown |= outline(axes, labels_here[window], labelling, style)
        axes.set_title(f"{PLANES[axis]}, plane {slices.positions[axis] + 1}", color=INK, fontsize=10)
        axes.set_axis_off()
    handles = [Line2D([], [], color=color_of(value), label=plain(labelling.titles[value])) for value in sorted(shown)]
    handles.append(Line2D([], [], color=INK, label="prediction"))
    if slices.reference(0) is not None:
        handles.append(Line2D([], [], color=INK, linestyle="dashed", label="reference"))
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 8), frameon=False, labelcolor=INK)
    return data_uri(figure, "png")


def outline(axes: Any, labels: np.ndarray, labelling: Labelling, style: str) -> set[int]:
    """Draw the outlines of a plane's classes or regions, an ignore label's not; return their numbers."""
    shown = set()
    for number, inside in labelling.masks(labels):
        mask = np.pad(inside, 1)  # closes outlines at the plane's edge
        h, w = (np.arange(-1, size - 1) for size in mask.shape)
        axes.contour(w, h, mask, levels=[0.5], colors=[color_of(number)], linewidths=1.4, linestyles=style)
        shown.add(number)
    return shown


def around_foreground(planes: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Return the foreground's box, widened by half its extent and at least 12 voxels; the whole plane without any."""
    rows, columns = np.nonzero(np.any([plane > 0 for plane in planes], axis=0))
    window = []
    for found, size in ((rows, planes[0].shape[0]), (columns, planes[0].shape[1])):
        if not len(found):
            return slice(None), slice(None)
        low, high = int(found.min()), int(found.max()) + 1
        margin = max(12, (high - low) // 2)
        window.append(slice(max(low - margin, 0), min(high + margin, size)))
    return window[0], window[1]


def color_of(value: int) -> str:
    """Return the colour of a class or region, from 1 upwards."""
    return COLORS[(value - 1) % len(COLORS)]


def plain(name: str) -> str:
    """Return a class's name with its $ escaped: Matplotlib takes what lies between two for a formula."""
    return name.replace("$", r"\$")


def ink_axes(axes: Any) -> None:
    """Axes, ticks and grid in INK."""
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=INK, alpha=0.2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def data_uri(figure: Figure, kind: str) -> str:
    """Return the figure as a data URI; kind: svg or png."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    with rc_context({"svg.hashsalt": "report"}):  # and no date: the same file for the same numbers
        figure.savefig(buffer, format=kind, transparent=True, dpi=110, metadata=metadata)
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"

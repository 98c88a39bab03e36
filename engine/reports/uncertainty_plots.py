"""Figures of calibration and uncertainty."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from engine.evaluation.labelling import Labelling
from engine.metrics.uncertainty import MEASURES
from engine.reports.plots import COLORS, INK, around_foreground, color_of, data_uri, ink_axes, outline, plain
from engine.reports.slices import PackedPlane, Slices

Bins = Sequence[Mapping[str, float]]

_SHOWN = ("entropy", "mutual_information")  # of the measures, as maps


def plot_reliability(series: Mapping[str, Bins]) -> str:
    """SVG of a reliability diagram {name: rows of `reliability_bins`}: on the diagonal probabilities come true.

    Below it the share of the decisions in each bin, on a logarithmic axis.
    """
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    above.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="dotted")
    for number, (name, bins) in enumerate(series.items()):
        confidence, accuracy, share = ([row[key] for row in bins] for key in ("confidence", "accuracy", "share"))
        style = {"color": COLORS[number % len(COLORS)], "linewidth": 1.5, "marker": ".", "label": name}
        above.plot(confidence, accuracy, **style)
        below.plot(confidence, share, **style)
    above.set_ylabel("how often right")
    below.set_ylabel("share")
    below.set_yscale("log")
    below.yaxis.set_minor_formatter(NullFormatter())
    below.set_xlabel("probability of what was decided")
    lowest = min((row["confidence"] for bins in series.values() for row in bins), default=0.0)
    above.set_xlim(max(0.0, lowest - 0.05), 1.01)
    for axes in (above, below):
        ink_axes(axes)
    above.legend(frameon=False, labelcolor=INK, fontsize=9)
    return data_uri(figure, "svg")


def plot_risk_coverage(curves: Mapping[str, Sequence[float]], error_rate: float) -> str:
    """SVG of {"coverage": shares, measure: risk at each}; dotted, the error rate if nothing is set aside."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(error_rate, color=INK, linewidth=1, linestyle="dotted")
    names = [name for name in curves if name != "coverage"]
    for number, name in enumerate(names):
        axes.plot(curves["coverage"], curves[name], color=COLORS[number], linewidth=1.5, label=name.replace("_", " "))
    axes.set_xlabel("coverage: share kept, the least uncertain")
    axes.set_ylabel("share of errors among it")
    axes.set_ylim(bottom=0)
    ink_axes(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return data_uri(figure, "svg")


def plot_uncertainty(image: np.ndarray, slices: Slices, plane: PackedPlane, labelling: Labelling) -> str:
    """PNG of one axial plane: prediction on the image, error where there is a reference, entropy, mutual information.

    image: (D, H, W) on the grid of the slices. Anterior is up; the left of the body is left.
    """
    prediction, reference = slices.prediction(0), slices.reference(0)
    window = around_foreground([labels for labels in (prediction, reference) if labels is not None])
    maps = dict(zip(MEASURES, plane.unpack(), strict=True))
    aspect = slices.spacing_mm[1] / slices.spacing_mm[2]
    count = 1 + (reference is not None) + len(_SHOWN)
    height, width = prediction[window].shape
    figure = Figure(figsize=(2.9 * count, 2.9 * min(1.6, height * aspect / width) + 0.5), layout="constrained")
    panels = iter(figure.subplots(1, count))

    def show(pixels: np.ndarray, title: str, colorbar: bool = False, **style: Any) -> Any:
        axes = next(panels)
        shown = axes.imshow(pixels[window], origin="lower", aspect=aspect, interpolation="nearest", **style)
        axes.set_title(title, color=INK, fontsize=10)
        axes.set_axis_off()
        if colorbar:
            bar = figure.colorbar(shown, ax=axes, shrink=0.8)
            bar.ax.tick_params(colors=INK, labelsize=8)
            bar.outline.set_visible(False)
        return axes

    pixels = slices.cut(image, 0).astype(np.float32)
    low, high = np.percentile(pixels[window], [0.5, 99.5])
    axes = show(pixels, f"prediction, plane {slices.positions[0] + 1}", cmap="gray", vmin=low, vmax=high)
    shown = outline(axes, prediction[window], labelling, "solid")
    for value in shown:
        axes.plot([], [], color=color_of(value), label=plain(labelling.titles[value]))
    if reference is not None:
        axes.plot([], [], color=INK, linestyle="dashed", label="reference")
        outline(axes, reference[window], labelling, "dashed")
        show(prediction != reference, "error", cmap="gray", vmin=0, vmax=1)
    for name in _SHOWN:
        show(maps[name], f"{name.replace('_', ' ')} (nats)", True, cmap="inferno", vmin=0)
    if shown or reference is not None:
        figure.legend(loc="outside lower center", ncols=8, frameon=False, labelcolor=INK, fontsize=9)
    return data_uri(figure, "png")

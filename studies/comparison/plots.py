"""Figures of a comparison, as SVG data URIs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from engine.reports.plots import COLORS, INK, data_uri, ink_axes
from studies.comparison.compare import CellResult, Comparison
from studies.comparison.format import number
from studies.comparison.read_runs import Curve

_WORSE, _BETTER = COLORS[0], COLORS[1]


@dataclass(frozen=True)
class Band:
    """A curve's mean over seeds, and its standard deviation; arrays over the steps."""

    steps: np.ndarray
    mean: np.ndarray
    sd: np.ndarray  # NaN with one seed


def band(curves: Sequence[Curve]) -> Band | None:
    """Return mean and sd of several runs' curves, over the steps that all of them have; None without such steps."""
    common = sorted(set.intersection(*(set(dict(curve)) for curve in curves))) if curves else []
    if not common:
        return None
    values = np.array([[dict(curve)[step] for step in common] for curve in curves])
    sd = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(len(common), np.nan)
    return Band(np.array(common), values.mean(axis=0), sd)


def plot_differences(comparison: Comparison) -> str | None:
    """Plot a row for each cell: a dot for each seed's difference from the baseline, their mean, and its interval.

    Filled: more than noise explains, blue where better, orange where worse. Hollow: could be noise, or not tested.
    The axis spans the stable cells; an unstable cell's interval ends in arrows at its limits and is written out.
    Return None where no cell has a difference.
    """
    rows = [result for result in comparison.results if result.difference and not math.isnan(result.difference.mean)]
    if not rows:
        return None
    height = 0.9 + 0.34 * len(rows)  # inches, 0.6 of them for the axis below
    left = min(0.5, 0.04 + 0.0085 * max(len(result.cell.name) for result in rows))
    figure = Figure(figsize=(9, height))
    axes = figure.add_axes((left, 0.6 / height, 0.98 - left, 1 - 0.75 / height))
    axes.axvline(0, color=INK, linewidth=1, linestyle="dashed")
    for row, result in enumerate(rows):
        _draw_difference(axes, row, result, comparison.study.less_is_better)
    axes.set_yticks(range(len(rows)), [result.cell.name for result in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _frame(axes, rows)
    axes.set_xlabel(f"{comparison.study.metric}, difference from {comparison.study.baseline.name}")
    ink_axes(axes)
    return data_uri(figure, "svg")


def span_of(rows: Sequence[CellResult]) -> tuple[float, float]:
    """Return the range of the rows' dots and intervals and 0, with a margin on both sides."""
    found = [r.difference for r in rows if r.difference]
    values = np.concatenate([[0.0], *([*d.interval, *d.by_seed] for d in found)])
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.06 * (high - low)
    return float(low - margin), float(high + margin)


def _frame(axes: Any, rows: Sequence[CellResult]) -> None:
    stable = [result for result in rows if not result.is_unstable]
    low, high = span_of(stable)
    if len(stable) == len(rows) or low == high:
        return
    axes.set_xlim(low, high)
    for row, result in enumerate(rows):
        first, last = span_of([result])
        difference = result.difference
        if difference is None or (first >= low and last <= high):
            continue
        ends = [(low, "<")] * (first < low) + [(high, ">")] * (last > high)
        for end, marker in ends:
            axes.scatter([end], [row], s=42, marker=marker, color=INK, clip_on=False, zorder=3)
        numbers = [number(value, sign="+") for value in (difference.mean, *difference.interval)]
        words = f"unstable: {numbers[0]} ({numbers[1]} to {numbers[2]})"
        axes.text((low + high) / 2, row - 0.12, words, color=INK, fontsize=8, ha="center", va="bottom")


def _draw_difference(axes: Any, row: int, result: CellResult, less_is_better: bool) -> None:
    difference = result.difference
    assert difference is not None
    resolved = difference.is_noise is False
    better = (difference.mean < 0) == less_is_better
    color = (_BETTER if better else _WORSE) if resolved else INK
    low, high = difference.interval
    if not math.isnan(low):
        axes.plot([low, high], [row, row], color=color, linewidth=2, solid_capstyle="round")
    seeds = difference.by_seed[np.isfinite(difference.by_seed)]
    axes.scatter(seeds, np.full(len(seeds), row + 0.24), s=10, color=color, alpha=0.7, linewidths=0)
    face = color if resolved else "none"
    axes.scatter([difference.mean], [row], s=42, facecolors=face, edgecolors=color, linewidths=1.5, zorder=3)


def plot_bands(bands: Mapping[str, Band], reference: str, label: str, columns: int = 4) -> str:
    """Plot a small panel for each cell: its mean curve and ± sd over seeds, and the reference's in grey."""
    shown = [name for name in bands if name != reference] or [reference]
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(11, 0.5 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel, name in zip(grid.flat, shown, strict=False):
        for each, color in ((reference, INK), (name, COLORS[1])):
            if found := bands.get(each):
                panel.plot(found.steps, found.mean, color=color, linewidth=1.4)
                if np.isfinite(found.sd).all():
                    edges = found.mean - found.sd, found.mean + found.sd
                    panel.fill_between(found.steps, *edges, color=color, alpha=0.25, linewidth=0)
        panel.set_title(_shorten(name), color=INK, fontsize=9)
        ink_axes(panel)
        panel.tick_params(labelsize=8)
    for panel in grid.flat[len(shown) :]:
        panel.set_axis_off()
    for panel in grid.flat[max(0, len(shown) - columns) : len(shown)]:  # those with none below them
        panel.tick_params(labelbottom=True)
    figure.supxlabel("step", color=INK, fontsize=10)
    figure.supylabel(label, color=INK, fontsize=10)
    return data_uri(figure, "svg")


def _shorten(name: str, most: int = 36) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"

"""Ranges and counts in words, as terminal and page share them."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from planning.survey.case_summary import CaseFacts


def axes(values: Sequence[tuple[float, float, float]], unit: str) -> str:
    """Range and median along each axis, as in D 30–40 (35) × H 50 × W 36 voxels."""
    lows, middles, highs = np.min(values, axis=0), np.median(values, axis=0), np.max(values, axis=0)
    parts = []
    for axis, low, middle, high in zip("DHW", lows, middles, highs, strict=True):
        same = f"{low:.3g}" == f"{high:.3g}"
        parts.append(f"{axis} {middle:.3g}" if same else f"{axis} {low:.3g}–{high:.3g} (median {middle:.3g})")
    return f"{' × '.join(parts)} {unit}"


def times(values: Iterable[float]) -> str:
    return "×".join(f"{value:.3g}" for value in values)


def counted(counts: Counter) -> str:
    """The values with their counts, as in `RAS (30), LPS (2)`; a lone one by itself."""
    return ", ".join(f"{value} ({count})" if len(counts) > 1 else f"{value}" for value, count in counts.most_common())


def intensities(cases: Sequence[CaseFacts]) -> list[tuple[str, str]]:
    """A row for each channel: the range over all cases, and the usual range of one."""
    read = [facts.voxels for facts in cases if facts.voxels]
    rows = []
    for number in range(min((len(voxels) for voxels in read), default=0)):
        channels = [voxels[number] for voxels in read]
        low, high = min(channel.low for channel in channels), max(channel.high for channel in channels)
        usual = [
            float(np.median([getattr(channel, key) for channel in channels]))
            for key in ("percentile_low", "mean", "percentile_high")
        ]
        value = (
            f"{low:.4g} … {high:.4g}; in the median case mean {usual[1]:.4g}, 99 % in {usual[0]:.4g} … {usual[2]:.4g}"
        )
        rows.append(("intensity" if number == 0 else f"  channel {number}", value))
    return rows

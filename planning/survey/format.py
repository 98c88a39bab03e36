"""Ranges and counts in words, as terminal and page share them."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


def axes(values: Sequence[tuple[float, float, float]], unit: str) -> str:
    """Return range and median along each axis, as in D 30–40 (35) × H 50 × W 36 voxels."""
    columns = zip(*values, strict=True)
    return f"{' × '.join(f'{axis} {span(column)}' for axis, column in zip('DHW', columns, strict=True))} {unit}"


def span(values: Sequence[float]) -> str:
    """Return range and median, or the one value that all have."""
    low, middle, high = min(values), float(np.median(values)), max(values)
    same = f"{low:.3g}" == f"{high:.3g}"
    return f"{middle:.3g}" if same else f"{low:.3g}–{high:.3g} (median {middle:.3g})"


def times(values: Iterable[float]) -> str:
    return "×".join(f"{value:.3g}" for value in values)


def counted(counts: Counter) -> str:
    """Return the values with their counts, as in `RAS (30), LPS (2)`; a lone one by itself."""
    return ", ".join(f"{value} ({count})" if len(counts) > 1 else f"{value}" for value, count in counts.most_common())

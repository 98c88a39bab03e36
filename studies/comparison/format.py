"""Formats the numbers of a comparison."""

import math

from engine.reports import tables
from studies.comparison.compare import Spread


def format_spread(spread: Spread, digits: int = 4) -> str:
    """Return `0.8830 ± 0.0021`, without ± for one seed."""
    mean = number(spread.mean, digits)
    return mean if math.isnan(spread.sd) else f"{mean} ± {number(spread.sd, digits)}"


def format_p(p: float, name: str = "") -> str:
    """Return `0.03`, or with a name `p = 0.03`; never 0."""
    if math.isnan(p):
        return "–"
    if p < 0.001:
        return f"{name}< 0.001"
    equals = "= " if name else ""
    return f"{name}{equals}{p:.3f}" if p < 0.1 else f"{name}{equals}{p:.2f}"


def number(value: float, digits: int = 4, sign: str = "") -> str:
    """Return the number with a true minus sign; «–» for NaN and infinity."""
    return tables.number(value, digits, sign).replace("-", "−")

"""Temperature scaling: one number that softens or sharpens all probabilities and changes no decision.

Guo et al. 2017, arXiv:1706.04599. Here it acts on the logarithms of the final probabilities, after views, windows,
draws and members are averaged; of a single forward pass these are its logits up to a constant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax

from engine.metrics.calibration import TINY
from engine.runs.run_folder import RunFolder

LOWEST, HIGHEST = 0.05, 20.0

Scored = tuple[np.ndarray, np.ndarray]  # of a case: probabilities (n, K); labels (n,) or, multi-label, (n, K)


def scale(probabilities: np.ndarray, temperature: float, multi_label: bool = False) -> np.ndarray:
    """Return the probabilities (..., K) at a temperature, in their dtype: softer above 1, sharper below."""
    if temperature == 1:
        return probabilities
    p = np.clip(probabilities.astype(np.float64), TINY, 1 - TINY)
    scaled = expit(logit(p) / temperature) if multi_label else softmax(np.log(p) / temperature, axis=-1)
    return scaled.astype(probabilities.dtype)


def fit_temperature(cases: Sequence[Scored]) -> float:
    """Return the temperature, LOWEST to HIGHEST, of the least negative log-likelihood; each case has one weight."""
    multi_label = np.ndim(cases[0][1]) == 2
    p = np.concatenate([p for p, _ in cases]).astype(np.float64).clip(TINY, 1 - TINY)
    labels = np.concatenate([labels for _, labels in cases])
    weights = np.concatenate([np.full(len(labels), 1 / max(len(labels), 1)) for _, labels in cases])
    if multi_label:
        margins = np.where(labels == 1, logit(p), -logit(p))  # of the truth over its opposite

        def loss(log_temperature: float) -> float:
            return float(weights @ np.logaddexp(0, -margins * np.exp(-log_temperature)).mean(axis=1))
    else:
        logs = np.log(p)
        logs -= np.take_along_axis(logs, labels[:, None].astype(np.intp), axis=1)  # the truth's is 0

        def loss(log_temperature: float) -> float:
            return float(weights @ np.logaddexp.reduce(logs * np.exp(-log_temperature), axis=1))

    bounds = (float(np.log(LOWEST)), float(np.log(HIGHEST)))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x))


def is_at_bound(temperature: float) -> bool:
    """Return whether a fitted temperature is an end of what was searched: cases all right, or too few, tell none."""
    return not LOWEST * 1.01 < temperature < HIGHEST / 1.01


@dataclass(frozen=True)
class CrossFit:
    """Temperatures of two halves of the cases, and the cases scaled by that of the other half."""

    halves: tuple[float, float]
    scaled: list[Scored]


def cross_fit(cases: Sequence[Scored], groups: Sequence[str], seed: int = 0) -> CrossFit | None:
    """Fit on each half of the groups, scale the other; None with fewer than two groups.

    groups: of each case, what must not be on both sides (a patient; the case alone where there is none).
    """
    names = sorted(set(groups))
    if len(names) < 2:
        return None
    drawn = np.random.default_rng(seed).permutation(len(names))
    first = {names[i] for i in drawn[: (len(names) + 1) // 2]}
    sides = [0 if group in first else 1 for group in groups]
    fitted = [fit_temperature([c for c, s in zip(cases, sides, strict=True) if s == side]) for side in (0, 1)]
    multi_label = np.ndim(cases[0][1]) == 2
    scaled = [(scale(p, fitted[1 - side], multi_label), y) for (p, y), side in zip(cases, sides, strict=True)]
    return CrossFit((fitted[0], fitted[1]), scaled)


def store_temperature(run: RunFolder, kind: str, temperature: float, fitted_on: dict[str, Any]) -> None:
    """Write it into the run's temperature.json, beside those of other kinds of prediction.

    kind: "plain", whose entry is the file's own, or "mc_dropout", which has one within.
    """
    entry = {"temperature": temperature, "fitted_on": fitted_on}
    found = run.read_json("temperature") if run.has_json("temperature") else {}
    run.write_json("temperature", {**found, **entry} if kind == "plain" else {**found, kind: entry})


def choose_temperature(run: RunFolder, setting: str | float, kind: str, checkpoint: Mapping[str, Any]) -> float:
    """Return what evaluate.temperature comes to, for a kind of prediction by a checkpoint, {"step", "weights"}.

    Raises ValueError where the run's stored one is asked for and there is none, or it was fitted for other weights.
    """
    if not isinstance(setting, str):
        return setting
    if setting == "none":
        return 1.0
    where = f"evaluate.temperature=stored: {run.path / 'temperature.json'}"
    if kind == "ensemble":
        raise ValueError(f"{where} is of one run; give the number that the ensemble's metrics.json holds")
    option = "--mc-dropout " if kind == "mc_dropout" else ""
    fix = f"run evaluate.py {option}on the val split first, without evaluate.temperature"
    found = run.read_json("temperature") if run.has_json("temperature") else {}
    entry = found if kind == "plain" else found.get(kind, {})
    if "temperature" not in entry:
        raise ValueError(f"{where} holds none for this kind of prediction ({kind}); {fix}")
    fitted, step, weights = entry["fitted_on"], checkpoint["step"], checkpoint["weights"]
    if (fitted["step"], fitted["weights"]) != (step, weights):
        raise ValueError(
            f"{where} was fitted at step {fitted['step']} ({fitted['weights']} weights), this checkpoint is of step "
            f"{step} ({weights}); {fix}"
        )
    return float(entry["temperature"])

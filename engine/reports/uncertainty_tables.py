"""The parts "calibration" and "uncertainty" of metrics.json, and their tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.classification import ClassifiedCase
from engine.evaluation.segmentation import CaseResult
from engine.evaluation.temperature import Scored, cross_fit, fit_temperature
from engine.evaluation.voxels import NUM_SAMPLED, REGION
from engine.metrics.bootstrap import resampling_units, whole_and_samples, with_interval
from engine.metrics.calibration import (
    Reliability,
    add_reliability,
    count_reliability,
    reliability_bins,
    score_reliability,
)
from engine.metrics.means import summarise
from engine.metrics.ranking import aurc, error_auroc, least_aurc, rank_exactly, risk_coverage
from engine.metrics.uncertainty import MEASURES
from engine.reports.tables import interval, number, text_table, write_csv

SCORES = {"ece": "ECE", "classwise_ece": "class-wise ECE", "brier": "Brier", "nll": "NLL"}
COVERAGE = np.linspace(0.01, 1, 100)


def summarise_voxels(
    results: Sequence[CaseResult], num_samples: int, temperature: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """{"calibration", "uncertainty"} of the labelled cases whose voxels were counted; {} without any.

    Every case weighs alike. Intervals are bootstrap 95 % intervals over cases, or groups. temperature: the one applied.
    """
    counted = [(result, result.voxels) for result in results if result.voxels is not None]
    if not counted:
        return {}
    facts = [voxels for _, voxels in counted]
    groups = [result.id if result.group is None else f"group {result.group}" for result, _ in counted]
    sums = add_reliability([each.reliability for each in facts], alike=True)
    sampled = f"{NUM_SAMPLED} voxels a case, drawn at random"
    calibration = _calibrate(sums, [each.scored for each in facts], groups, temperature, seed, REGION, sampled)
    names = list(MEASURES[: len(facts[0].ranks)])
    counts = np.array([each.ranks for each in facts], np.float64)  # (cases, M, 2, B)
    alike = (counts / counts.sum(axis=(-1, -2), keepdims=True)).mean(axis=0)
    uncertainty: dict[str, Any] = {"of": REGION, "error_rate": float(alike[0, 0].sum())}
    for key, values in _rank(counts[:, :, 0], counts[:, :, 1]).items():
        rows = summarise(values, names, groups, num_samples, bounds=(0, 1))
        uncertainty[key] = {name: {"value": rows[name].pop("mean"), **rows[name]} for name in names}
    return {"calibration": calibration, "uncertainty": uncertainty | _curves(names, alike)}


def summarise_classified(
    cases: Sequence[ClassifiedCase], num_samples: int, temperature: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """{"calibration", "uncertainty"} of the labelled cases; {} without any. Intervals are over cases, or groups."""
    labelled = [case for case in cases if case.labelled]
    if not labelled:
        return {}
    scored = [(case.probabilities[None], np.array(case.label)[None]) for case in labelled]
    groups = resampling_units([case.group for case in labelled])
    sums = _count(scored)
    calibration = _calibrate(sums, scored, groups, temperature, seed, "cases", "all of them")
    wrong = np.array([case.predicted != case.truth for case in labelled])
    weights = whole_and_samples(groups, num_samples)
    names = list(MEASURES[: len(labelled[0].measures)])
    uncertainty: dict[str, Any] = {"of": "cases", "error_rate": float(wrong.mean())}
    curves = []
    for m, name in enumerate(names):
        ranked = rank_exactly(np.array([case.measures[m] for case in labelled]), wrong, weights)
        curves.append((ranked[0][0], ranked[1][0]))
        for key, values in _rank(*ranked).items():
            uncertainty.setdefault(key, {})[name] = with_interval(float(values[0]), values[1:])
    return {"calibration": calibration, "uncertainty": uncertainty | _curves(names, curves)}


def _rank(wrong: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Return what uncertainty tells of errors, from counts (..., B), see `engine.metrics.ranking`."""
    area = aurc(wrong, right)
    return {"error_auroc": error_auroc(wrong, right), "aurc": area, "excess_aurc": area - least_aurc(wrong, right)}


def _curves(names: Sequence[str], counts: Any) -> dict[str, Any]:
    risks = {
        name: risk_coverage(wrong, right, COVERAGE).tolist() for name, (wrong, right) in zip(names, counts, strict=True)
    }
    return {"risk_coverage": {"coverage": COVERAGE.tolist(), **risks}}


def _calibrate(
    sums: Reliability,
    scored: Sequence[Scored],
    groups: Sequence[str],
    temperature: float,
    seed: int,
    of: str,
    sampled: str,
) -> dict[str, Any]:
    fit = cross_fit(scored, groups, seed)
    calibration: dict[str, Any] = {
        "of": of,
        "num_cases": len(scored),
        **score_reliability(sums),
        "bins": reliability_bins(sums),
        "applied_temperature": temperature,
        "fitted_temperature": fit_temperature(scored),
        "temperature_scaling": None,
    }
    if fit is not None:
        before, after = _count(scored), _count(fit.scaled)
        calibration["temperature_scaling"] = {
            "on": sampled,
            "of_halves": list(fit.halves),
            "before": score_reliability(before),
            "after": score_reliability(after),
            "bins_after": reliability_bins(after),
        }
    return calibration


def _count(scored: Sequence[Scored]) -> Reliability:
    return add_reliability([count_reliability(*case) for case in scored], alike=True)


def write_case_uncertainty(path: Path, results: Sequence[CaseResult]) -> None:
    """Write uncertainty.csv, a row a labelled segmentation: calibration, and each measure's mean and error AUROC."""
    counted = [(result.id, result.voxels) for result in results if result.voxels is not None]
    if not counted:
        return
    names = MEASURES[: len(counted[0][1].means)]
    rows = []
    for case_id, voxels in counted:
        row = [case_id, *score_reliability(voxels.reliability).values()]
        for mean, (wrong, right) in zip(voxels.means, voxels.ranks.astype(np.float64), strict=True):
            row += [float(mean), float(error_auroc(wrong, right)), float(aurc(wrong, right))]
        rows.append(row)
    keys = (f"{key}_{name}" for name in names for key in ("mean", "error_auroc", "aurc"))
    write_csv(path, ("case", *SCORES, *keys), rows)


def format_tables(metrics: Mapping[str, Any]) -> str:
    """Calibration and uncertainty as plain text; "" where metrics.json has neither."""
    if "calibration" not in metrics:
        return ""
    found, scores = metrics["uncertainty"], [("calibration", *SCORES.values())]
    for title, row in calibration_rows(metrics["calibration"]):
        scores.append((title, *(number(row[score]) for score in SCORES)))
    rows = [("uncertainty", "error AUROC", "95 % interval", "AURC", "excess")]
    for name, auroc, area, excess in uncertainty_rows(found):
        rows.append((name, number(auroc["value"]), interval(auroc), area, excess))
    lines = ["", "", *text_table("{:<38}" + "{:>16}" * len(SCORES), scores)]
    lines += ["", *text_table("{:<20}{:>12}  {:<17}{:>9}{:>9}", rows)]
    count, where = metrics["calibration"]["num_cases"], found["of"]
    lines.append(f"of {count} cases{'' if where == 'cases' else f', {where}'}; error rate {found['error_rate']:.4f}")
    return "\n".join(lines)


def calibration_rows(calibration: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    """(what, scores): as predicted, and before and after temperature scaling where it was tried."""
    applied, scaling = calibration["applied_temperature"], calibration["temperature_scaling"]
    title = "as predicted" if applied == 1 else f"at temperature {applied:.3g}"
    if scaling is None:
        return [(title, calibration)]
    first, second = scaling["of_halves"]
    scaled = f"scaled by {first:.3g} and {second:.3g}, cross-fitted"
    if calibration["of"] == "cases":
        return [(title, calibration), (scaled, scaling["after"])]
    return [(title, calibration), (f"{title}, sampled voxels", scaling["before"]), (scaled, scaling["after"])]


def uncertainty_rows(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str, str]]:
    """(measure, error AUROC with its interval, AURC, excess AURC): the last two as text."""
    return [
        (name.replace("_", " "), auroc, *(number(found[key][name]["value"], 5) for key in ("aurc", "excess_aurc")))
        for name, auroc in found["error_auroc"].items()
    ]

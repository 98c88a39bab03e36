"""The sections of report.html on calibration and uncertainty."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from engine.evaluation.labelling import Labelling
from engine.evaluation.segmentation import CaseResult
from engine.evaluation.temperature import is_at_bound
from engine.reports.page import figure
from engine.reports.tables import html_number, html_table, number
from engine.reports.uncertainty_plots import plot_reliability, plot_risk_coverage, plot_uncertainty
from engine.reports.uncertainty_tables import SCORES, calibration_rows, uncertainty_rows

_SHOWN_CASES = 3


def uncertainty_sections(
    metrics: Mapping[str, Any],
    results: Sequence[CaseResult] = (),
    labelling: Labelling | None = None,
    read_image: Callable[[str], np.ndarray] | None = None,
) -> list[str]:
    """HTML of what metrics.json holds, and of maps: of the cases with the highest mean entropy, if they have any.

    [] where nothing was labelled or mapped. read_image: case id -> (D, H, W) on the source file's grid.
    """
    body = []
    if "calibration" in metrics:
        body += [*_calibration(metrics["calibration"]), *_uncertainty(metrics["uncertainty"])]
    mapped = [result for result in results if result.plane is not None]
    if mapped and labelling is not None and read_image is not None:
        body += _maps(mapped, labelling, read_image)
    return body


def _calibration(calibration: Mapping[str, Any]) -> list[str]:
    scaling = calibration["temperature_scaling"]
    rows = [(title, *(number(row[score]) for score in SCORES)) for title, row in calibration_rows(calibration)]
    series = {"as predicted" if calibration["applied_temperature"] == 1 else "as scaled": calibration["bins"]}
    where = "" if calibration["of"] == "cases" else f", {calibration['of']}, with equal weight per case"
    sentences = [f"Of {calibration['num_cases']} cases{where}. Lower is better."]
    if scaling is None:
        sentences.append("With one case, or cases of one group, temperature scaling cannot be evaluated.")
    else:
        series["temperature-scaled"] = scaling["bins_after"]
        sentences.append(
            "Temperature scaling is fitted on half of the cases and scored on the other, and the other way round; "
            f"on all of them the temperature is {calibration['fitted_temperature']:.3g}."
        )
    if is_at_bound(calibration["fitted_temperature"]):
        sentences.append(
            "That is the end of the range searched, so these cases do not determine a temperature; leave "
            "evaluate.temperature at none."
        )
    return [
        "<h2>Calibration</h2>",
        *html_table(("", *SCORES.values()), rows),
        f"<p>{escape(' '.join(sentences))}</p>",
        figure("Reliability diagram", plot_reliability(series)),
    ]


def _uncertainty(found: Mapping[str, Any]) -> list[str]:
    rows = [(name, html_number(auroc), *areas) for name, auroc, *areas in uncertainty_rows(found)]
    where = "all cases" if found["of"] == "cases" else escape(found["of"])
    plot = plot_risk_coverage(found["risk_coverage"], found["error_rate"])
    return [
        "<h2>Uncertainty</h2>",
        *html_table(("", "error AUROC", "AURC", "excess AURC"), rows),
        f"<p>Of {where}; {found['error_rate']:.2%} are errors. Error AUROC: the chance that an error is more uncertain "
        "than a correct prediction, 0.5 where they are unrelated. AURC: the mean share of errors over all "
        "coverages, and its excess over that of an uncertainty that ranks all errors first; lower is better.</p>",
        figure("Risk and coverage", plot, "Risk-coverage curve"),
    ]


def _maps(results: Sequence[CaseResult], labelling: Labelling, read: Callable[[str], np.ndarray]) -> list[str]:
    def mean_entropy(result: CaseResult) -> float:
        assert result.plane is not None
        return float(result.plane.unpack()[0].mean() if result.voxels is None else result.voxels.means[0])

    ranked = sorted(results, key=mean_entropy, reverse=True)[:_SHOWN_CASES]
    body = ["<h2>Uncertainty maps</h2>", "<p>The cases of the highest mean entropy.</p>"]
    for result in ranked:
        assert result.plane is not None
        uri = plot_uncertainty(read(result.id), result.slices, result.plane, labelling)
        body.append(figure(f"{result.id}: mean entropy {mean_entropy(result):.4f}", uri))
    return body

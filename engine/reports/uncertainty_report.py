"""The sections of report.html on calibration and uncertainty."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from engine.evaluation.segmentation import CaseResult
from engine.evaluation.temperature import is_at_bound
from engine.reports.page import image
from engine.reports.uncertainty_plots import plot_reliability, plot_risk_coverage, plot_uncertainty
from engine.reports.uncertainty_tables import SCORES, calibration_rows

_SHOWN_CASES = 3


def uncertainty_sections(
    metrics: Mapping[str, Any],
    results: Sequence[CaseResult] = (),
    class_names: Sequence[str] = (),
    read_image: Callable[[str], np.ndarray] | None = None,
) -> list[str]:
    """HTML of what metrics.json holds, and of maps: of the cases with the highest mean entropy, if they have any.

    [] where nothing was labelled or mapped. read_image: case id -> (D, H, W) on the source file's grid.
    """
    body = []
    if "calibration" in metrics:
        body += [*_calibration(metrics["calibration"]), *_uncertainty(metrics["uncertainty"])]
    mapped = [result for result in results if result.plane is not None]
    if mapped and read_image is not None:
        body += _maps(mapped, class_names, read_image)
    return body


def _calibration(calibration: Mapping[str, Any]) -> list[str]:
    scaling = calibration["temperature_scaling"]
    rows = [
        f"<tr><th>{escape(title)}</th>" + "".join(f"<td>{row[score]:.4f}</td>" for score in SCORES) + "</tr>"
        for title, row in calibration_rows(calibration)
    ]
    series = {"as predicted" if calibration["applied_temperature"] == 1 else "as scaled": calibration["bins"]}
    where = "" if calibration["of"] == "cases" else f", {calibration['of']}, each case weighing the same"
    sentences = [f"Of {calibration['num_cases']} cases{where}. Less is better."]
    if scaling is None:
        sentences.append("With one case, or cases of one group, temperature scaling cannot be tried.")
    else:
        series["temperature-scaled"] = scaling["bins_after"]
        sentences.append(
            "Temperature scaling is fitted on half of the cases and scored on the other, and the other way round; "
            f"on all of them the temperature is {calibration['fitted_temperature']:.3g}."
        )
    if is_at_bound(calibration["fitted_temperature"]):
        sentences.append(
            "That is as far as is searched: these cases tell no temperature; leave evaluate.temperature at none."
        )
    head = "".join(f"<th>{escape(title)}</th>" for title in SCORES.values())
    picture = image(plot_reliability(series), "Reliability diagram")
    return [
        "<h2>Calibration</h2>",
        f'<div class="wide"><table><tr><th></th>{head}</tr>',
        *rows,
        "</table></div>",
        f"<p>{escape(' '.join(sentences))}</p>",
        f"<figure><figcaption>Reliability diagram</figcaption>{picture}</figure>",
    ]


def _uncertainty(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for name in found["error_auroc"]:
        auroc, area, excess = (found[key][name] for key in ("error_auroc", "aurc", "excess_aurc"))
        low, high = (_number(end) for end in auroc["interval_95"])
        cells = f"<td>{_number(auroc['value'])}<small>{low} – {high}</small></td>"
        cells += f"<td>{area['value']:.5f}</td><td>{excess['value']:.5f}</td>"
        rows.append(f"<tr><th>{escape(name.replace('_', ' '))}</th>{cells}</tr>")
    where = "all cases" if found["of"] == "cases" else escape(found["of"])
    picture = image(plot_risk_coverage(found["risk_coverage"], found["error_rate"]), "Risk-coverage curve")
    return [
        "<h2>Uncertainty</h2>",
        '<div class="wide"><table><tr><th></th><th>error AUROC</th><th>AURC</th><th>excess AURC</th></tr>',
        *rows,
        "</table></div>",
        f"<p>Of {where}; {found['error_rate']:.2%} are errors. Error AUROC: the chance that an error is more uncertain "
        "than what is right, 0.5 without any relation. AURC: the mean share of errors over all coverages, and its "
        "excess over that of an uncertainty which knows the errors; less is better.</p>",
        f"<figure><figcaption>Risk and coverage</figcaption>{picture}</figure>",
    ]


def _maps(results: Sequence[CaseResult], class_names: Sequence[str], read: Callable[[str], np.ndarray]) -> list[str]:
    def mean_entropy(result: CaseResult) -> float:
        assert result.plane is not None
        return float(result.plane.unpack()[0].mean() if result.voxels is None else result.voxels.means[0])

    ranked = sorted(results, key=mean_entropy, reverse=True)[:_SHOWN_CASES]
    body = ["<h2>Uncertainty maps</h2>", "<p>The cases of the highest mean entropy.</p>"]
    for result in ranked:
        assert result.plane is not None
        uri = plot_uncertainty(read(result.id), result.slices, result.plane, class_names)
        caption = escape(f"{result.id}: mean entropy {mean_entropy(result):.4f}")
        body.append(f"<figure><figcaption>{caption}</figcaption>{image(uri, caption)}</figure>")
    return body


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"

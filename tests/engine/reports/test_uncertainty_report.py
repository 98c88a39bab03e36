import re
from dataclasses import replace

import numpy as np
import pytest

from engine.evaluation.labelling import Labelling
from engine.evaluation.segmentation import CaseResult
from engine.reports.slices import PackedPlane
from engine.reports.uncertainty_plots import plot_reliability, plot_risk_coverage, plot_uncertainty
from engine.reports.uncertainty_report import uncertainty_sections
from engine.reports.uncertainty_tables import summarise_voxels
from tests.engine.uncertainty.results import make_result

CLASSES = Labelling(("background", "organ"))


def with_plane(result: CaseResult, level: float) -> CaseResult:
    shape = result.slices.prediction(0).shape
    return replace(result, plane=PackedPlane.pack(np.full((*shape, 3), level)))


def read_image(case_id: str) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, 6, 6))


@pytest.mark.usefixtures("no_figures")
def test_sections_tell_the_numbers_and_show_the_most_uncertain_cases() -> None:
    results = [with_plane(make_result(i), 0.1) for i in range(4)]
    found = summarise_voxels(results, 50)
    text = "\n".join(uncertainty_sections(found, results, CLASSES, read_image))
    calibration, auroc = found["calibration"], found["uncertainty"]["error_auroc"]["entropy"]
    assert f"<td>{calibration['ece']:.4f}</td>" in text
    assert f"<td>{calibration['temperature_scaling']['after']['nll']:.4f}</td>" in text
    assert f"on all of them the temperature is {calibration['fitted_temperature']:.3g}." in text
    assert "That is the end of the range" not in text
    found["calibration"]["fitted_temperature"] = 0.0501
    bound = "these cases do not determine a temperature; leave evaluate.temperature at none."
    assert bound in "\n".join(uncertainty_sections(found, results, CLASSES, read_image))
    assert f"<td>{auroc['value']:.3f}<small>" in text
    means = {result.id: result.voxels.means[0] for result in results if result.voxels is not None}
    expected = sorted(means, key=means.__getitem__, reverse=True)[:3]
    assert re.findall(r"<figcaption>(c\d): mean entropy", text) == expected


@pytest.mark.usefixtures("no_figures")
def test_without_labels_there_are_maps_alone() -> None:
    results = [with_plane(make_result(i, labelled=False), level) for i, level in enumerate((0.1, 0.3))]
    sections = uncertainty_sections({}, results, CLASSES, read_image)
    assert sections[0] == "<h2>Uncertainty maps</h2>"
    shown = re.findall(r"<figcaption>(c\d: mean entropy [\d.]+)<", "".join(sections))
    assert shown == ["c1: mean entropy 0.3000", "c0: mean entropy 0.1000"]
    assert uncertainty_sections({}) == []
    text = "\n".join(uncertainty_sections(summarise_voxels([make_result(0)], 50)))  # of one case
    assert "temperature scaling cannot be evaluated" in text


def test_pictures_are_drawn() -> None:
    result = with_plane(make_result(0), 0.25)
    np.testing.assert_array_equal(result.plane.unpack(), np.full((3, 6, 6), 0.25))
    assert plot_uncertainty(read_image("c0"), result.slices, result.plane, CLASSES).startswith("data:image/png")
    found = summarise_voxels([result, make_result(1)], 50)
    curves = found["uncertainty"]["risk_coverage"]
    for picture in (plot_reliability({"as predicted": found["calibration"]["bins"]}), plot_risk_coverage(curves, 0.1)):
        assert picture.startswith("data:image/svg+xml")

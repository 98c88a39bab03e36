from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from engine.evaluation.classification import ClassifiedCase
from engine.evaluation.segmentation import CaseResult
from engine.metrics.calibration import score_reliability
from engine.metrics.ranking import error_auroc
from engine.reports.uncertainty_tables import (
    format_tables,
    summarise_classified,
    summarise_voxels,
    write_case_uncertainty,
)
from tests.engine.uncertainty.results import make_result
from tests.runs import read_rows


def test_every_segmented_case_weighs_alike() -> None:
    results = [make_result(0, size=4), make_result(1, size=30), make_result(2, labelled=False)]
    found = summarise_voxels(results, 100)
    parts = [result.voxels for result in results if result.voxels is not None]
    rows = [score_reliability(part.reliability) for part in parts]
    assert found["calibration"]["num_cases"] == 2
    assert found["calibration"]["brier"] == pytest.approx(np.mean([row["brier"] for row in rows]))
    auroc = found["uncertainty"]["error_auroc"]
    assert list(auroc) == ["entropy"]
    each = [float(error_auroc(*part.ranks[0].astype(float))) for part in parts]
    assert auroc["entropy"]["value"] == pytest.approx(np.mean(each))
    assert auroc["entropy"]["num_cases"] == 2
    errors = [part.ranks[0, 0].sum() / part.ranks[0].sum() for part in parts]
    assert found["uncertainty"]["error_rate"] == pytest.approx(np.mean(errors))
    curves = found["uncertainty"]["risk_coverage"]
    assert curves["coverage"][-1] == 1
    assert curves["entropy"][-1] == pytest.approx(np.mean(errors))
    assert curves["entropy"][10] < curves["entropy"][-1]
    excess, whole = (found["uncertainty"][name]["entropy"]["value"] for name in ("excess_aurc", "aurc"))
    assert 0 < excess < whole


def test_scaling_is_scored_on_the_other_half_and_a_group_is_on_one_side() -> None:
    results = [make_result(i) for i in range(4)]
    calibration = summarise_voxels(results, 100)["calibration"]
    scaling = calibration["temperature_scaling"]
    assert calibration["fitted_temperature"] == pytest.approx(1, abs=0.15)  # labels were drawn from p
    assert scaling["of_halves"] == pytest.approx([1, 1], abs=0.3)
    assert scaling["before"]["brier"] == pytest.approx(calibration["brier"])  # all voxels are in the sample
    assert scaling["after"]["nll"] != scaling["before"]["nll"]
    assert summarise_voxels(results[:1], 100)["calibration"]["temperature_scaling"] is None
    assert summarise_voxels([make_result(0, labelled=False)], 100) == {}
    results = [make_result(i) for i in range(2)]
    same = [CaseResult(r.id, r.scores, True, r.slices, 1.0, r.voxels, group="p") for r in results]
    assert summarise_voxels(same, 100)["calibration"]["temperature_scaling"] is None


def make_cases(count: int, multi_label: bool = False) -> list[ClassifiedCase]:
    rng = np.random.default_rng(0)
    cases = []
    for number in range(count):
        p = rng.uniform(size=2) if multi_label else rng.dirichlet([1, 1])
        drawn = rng.uniform(size=2) < p
        label = tuple(drawn.astype(int).tolist()) if multi_label else int(drawn[1])
        predicted = tuple(np.flatnonzero(p >= 0.5).tolist()) if multi_label else (int(p.argmax()),)
        measures = (float(1 - p.max()), float(rng.uniform()), 0.1)
        cases.append(ClassifiedCase(f"c{number}", p, predicted, label, None, 1, None, measures))
    return cases


def test_classified_cases_are_ranked_by_their_measures() -> None:
    cases = make_cases(60)
    found = summarise_classified([*cases, ClassifiedCase("x", np.array([0.5, 0.5]), (0,), None, None, 1)], 200)
    wrong = [case.predicted != (case.label,) for case in cases]
    auroc = found["uncertainty"]["error_auroc"]
    for m, name in enumerate(("entropy", "mutual_information", "variance")):
        assert auroc[name]["value"] == pytest.approx(roc_auc_score(wrong, [case.measures[m] for case in cases]))
    low, high = auroc["entropy"]["interval_95"]
    assert low < auroc["entropy"]["value"] < high
    assert found["uncertainty"]["error_rate"] == pytest.approx(np.mean(wrong))
    assert found["calibration"]["num_cases"] == 60
    assert found["calibration"]["temperature_scaling"]["before"]["ece"] == pytest.approx(found["calibration"]["ece"])


def test_a_case_of_several_labels_is_wrong_where_any_is() -> None:
    cases = make_cases(20, multi_label=True)
    found = summarise_classified(cases, 50)
    wrong = [case.predicted != tuple(np.flatnonzero(np.array(case.label))) for case in cases]
    assert found["uncertainty"]["error_rate"] == pytest.approx(np.mean(wrong))
    assert summarise_classified([], 50) == {}


def test_tables_and_csv_hold_the_numbers(tmp_path: Path) -> None:
    results = [make_result(i) for i in range(3)]
    found = summarise_voxels(results, 50)
    text = format_tables(found)
    assert f"as predicted {found['calibration']['ece']:>41.4f}" in text
    assert "cross-fitted" in text
    assert f"{found['uncertainty']['error_auroc']['entropy']['value']:.4f}" in text
    assert format_tables({}) == ""
    write_case_uncertainty(tmp_path / "u.csv", results)
    rows = read_rows(tmp_path, "u.csv")
    assert [row["case"] for row in rows] == ["c0", "c1", "c2"]
    auroc = found["uncertainty"]["error_auroc"]["entropy"]["value"]
    assert np.mean([float(row["error_auroc_entropy"]) for row in rows]) == pytest.approx(auroc, rel=1e-4)
    write_case_uncertainty(tmp_path / "none.csv", [make_result(0, labelled=False)])
    assert not (tmp_path / "none.csv").exists()

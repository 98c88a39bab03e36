import json
from pathlib import Path

import numpy as np
import pytest

from engine.metrics.segmentation import dice_per_class, score_case
from tests.engine.blobs import NUM_PAIRS, make_pair

SPACING_MM = (3.0, 2.0, 1.0)
FROZEN, SURFACES = (
    json.loads(Path(__file__).with_name(f"{name}.json").read_text())["pairs"]
    for name in ("monai_metrics", "surface_distance")
)


def box(*slices: tuple[int, int], shape: tuple[int, int, int] = (8, 9, 10), value: int = 1) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(*s) for s in slices)] = value
    return labels


@pytest.mark.parametrize("number", range(NUM_PAIRS))
def test_equals_monai(number: int) -> None:
    pair, expected = make_pair(number), FROZEN[number]
    scores = score_case(pair.prediction, pair.reference, pair.spacing_mm, 3, pair.tolerance_mm)
    for i, score in enumerate(scores):
        if score.empty == "both":
            assert np.isnan([score["dice"], score["iou"], score["hd95_voxels_mm"], score["nsd_voxels"]]).all()
            assert expected["nsd_voxels"][i] == expected["hd95_voxels_mm"][i] == "nan"
            continue
        assert score["dice"] == pytest.approx(expected["dice"][i], abs=1e-5)
        assert score["nsd_voxels"] == pytest.approx(expected["nsd_voxels"][i], abs=1e-5)
        if score.empty:  # MONAI interpolates between infinities: NaN
            assert (score["dice"], score["nsd_voxels"], score["hd95_voxels_mm"]) == (0, 0, np.inf)
            assert expected["hd95_voxels_mm"][i] == "nan"
        else:
            assert score["hd95_voxels_mm"] == pytest.approx(expected["hd95_voxels_mm"][i], abs=1e-5)


@pytest.mark.parametrize("number", range(NUM_PAIRS))
def test_equals_surface_distance(number: int) -> None:
    """DeepMind's, whom NSD is cited after: surfaces are weighed by their areas."""
    pair = make_pair(number)
    scores = score_case(pair.prediction, pair.reference, pair.spacing_mm, 3, pair.tolerance_mm)
    for score, expected in zip(scores, SURFACES[number], strict=True):
        if expected is None:
            assert np.isnan(score["nsd"]) if score.empty == "both" else (score["nsd"], score["hd95_mm"]) == (0, np.inf)
            continue
        assert score["nsd"] == pytest.approx(expected["nsd"], abs=1e-6)
        assert score["hd95_mm"] == pytest.approx(expected["hd95_mm"], abs=1e-5)


def test_frozen_pairs_hold_every_kind_and_the_two_definitions_differ() -> None:
    empty = [score.empty for n in range(NUM_PAIRS) for score in _scores(n)]
    assert {"", "both", "prediction", "reference"} == set(empty)
    border = [n for n in range(NUM_PAIRS) if make_pair(n).reference[:, 0].any()]
    assert len(border) > 10
    scores = [score for n in range(NUM_PAIRS) for score in _scores(n) if not score.empty]
    assert max(abs(score["nsd"] - score["nsd_voxels"]) for score in scores) > 0.05
    assert max(abs(score["hd95_mm"] - score["hd95_voxels_mm"]) for score in scores) > 0.2
    for number in range(10):
        pair = make_pair(number)
        quick = dice_per_class(pair.prediction, pair.reference.astype(np.int32), 3)
        full = [score["dice"] for score in score_case(pair.prediction, pair.reference, pair.spacing_mm, 3)]
        np.testing.assert_allclose(quick, full)


def _scores(number: int) -> list:
    pair = make_pair(number)
    return score_case(pair.prediction, pair.reference, pair.spacing_mm, 3)


def test_hand_arithmetic() -> None:
    prediction = box((1, 4), (1, 4), (1, 4))  # 27 voxels
    reference = box((1, 4), (1, 4), (3, 6))  # 27, of which 9 in common
    (score,) = score_case(prediction, reference, SPACING_MM, 2, tolerance_mm=1.0)
    assert score["dice"] == pytest.approx(18 / 54)
    assert score["iou"] == pytest.approx(9 / 45)
    assert score["hd95_voxels_mm"] == pytest.approx(2.0)  # nine of 26 border voxels lie 2 mm off
    # Within 1 mm: of each region's 26 border voxels the common face's 9 and the 8 on the rim of the next layer,
    # and its centre, which is no border voxel
    assert score["nsd_voxels"] == pytest.approx(34 / 52)
    assert score["volume_error_ml"] == 0
    assert score.volume_ml == pytest.approx(27 * 6 / 1000)
    (score,) = score_case(box((0, 1), (0, 2), (0, 5)), box((0, 2), (0, 2), (0, 5)), SPACING_MM, 2)
    assert score["volume_error_ml"] == pytest.approx(-10 * 6 / 1000)
    assert (score.volume_ml, score.reference_volume_ml) == (pytest.approx(0.06), pytest.approx(0.12))
    labels = box((0, 8), (2, 5), (9, 10))
    (score,) = score_case(labels, labels.astype(np.int16), SPACING_MM, 2)
    assert (score["dice"], score["iou"], score["hd95_mm"], score["nsd"], score.empty) == (1, 1, 0, 1, "")
    spacing_mm = (1.0, 1.0, 0.1)
    prediction, reference = box((0, 1), (0, 1), (0, 1)), box((0, 1), (0, 1), (3, 4))
    (score,) = score_case(prediction, reference, spacing_mm, 2, tolerance_mm=0.3)
    assert score["nsd"] == 1


@pytest.mark.parametrize(("predicted", "empty"), [(True, "reference"), (False, "prediction")])
def test_class_in_one_volume_alone(predicted: bool, empty: str) -> None:
    there, nothing = box((1, 2), (1, 2), (1, 2)), np.zeros((8, 9, 10), np.uint8)
    prediction, reference = (there, nothing) if predicted else (nothing, there)
    (score,) = score_case(prediction, reference, SPACING_MM, 2)
    assert (score["dice"], score["iou"], score["hd95_mm"], score["nsd"], score.empty) == (0, 0, np.inf, 0, empty)


def test_ignored_voxels_count_nowhere() -> None:
    reference = box((0, 4), (0, 4), (0, 4))
    prediction = reference.copy()
    prediction[6:] = 1
    reference[6:] = 9
    (score,) = score_case(prediction, reference, SPACING_MM, 2, ignore_label=9)
    assert score["dice"] == 1
    (score,) = score_case(prediction, reference, SPACING_MM, 2)
    assert score["dice"] < 0.5
    with pytest.raises(ValueError, match=r"must have one shape; got \(8, 9, 10\) and \(8, 9, 9\)"):
        score_case(np.zeros((8, 9, 10), int), np.zeros((8, 9, 9), int), SPACING_MM, 2)

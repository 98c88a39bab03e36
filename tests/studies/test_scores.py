from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from engine.metrics.segmentation import SURFACE_DEFINITION
from studies.case_rows import read_table
from studies.scores import whole_score
from tests.studies.made_up import write_classified, write_metrics, write_segmented

DICE = np.array([[0.9, 0.8], [0.7, np.nan], [0.5, 0.6]])
P = np.array([0.9, 0.2, 0.6, 0.4, 0.7])
LABELS = np.array([1, 0, 0, 1, 1])


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    write_segmented(tmp_path, DICE)
    return tmp_path / "cases.csv"


@pytest.fixture
def classified(tmp_path: Path) -> Path:
    write_classified(tmp_path, np.stack([1 - P, P], axis=1), LABELS)
    return tmp_path / "cases.csv"


@pytest.mark.parametrize("metric", ["dice.mean", "dice", "dice.posterior"])
def test_segmentation_is_the_mean_over_classes_of_means_over_cases(segmented: Path, metric: str) -> None:
    assert whole_score(read_table(segmented, metric, False)) == pytest.approx(0.7)


def test_weights_count_cases_as_often_as_they_are_drawn(segmented: Path) -> None:
    table = read_table(segmented, "dice.mean", False)
    # Case 0 twice and case 1 once: (0.9 + 0.9 + 0.7) / 3 and 0.8; case 1 alone: 0.7 and no posterior.
    found = table.score(np.array([[2, 1, 0], [0, 1, 0]]))
    assert found == pytest.approx([(2.5 / 3 + 0.8) / 2, 0.7])
    values = table.case_values()
    assert values == pytest.approx([0.85, 0.7, 0.55])
    assert table.units == ("case fold0case0", "case fold0case1", "case fold0case2")


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 0.6),
        ("auc", roc_auc_score(LABELS, P)),
        ("auc.normal", roc_auc_score(LABELS, P)),
        ("log_loss", log_loss(LABELS, P)),
        ("f1.hyperplasia", 2 / 3),
    ],
)
def test_classification_has_scikit_learns_values(classified: Path, metric: str, expected: float) -> None:
    assert whole_score(read_table(classified, metric, False)) == pytest.approx(expected)


def test_weights_recompute_auc_and_accuracy_is_a_mean_over_cases(classified: Path) -> None:
    table = read_table(classified, "auc", False)
    weights = np.array([[2, 1, 0, 1, 1], [1, 0, 0, 0, 1]])
    found = table.score(weights)
    assert found[0] == pytest.approx(roc_auc_score(LABELS, P, sample_weight=weights[0]))
    assert np.isnan(found[1])  # no normal case
    assert table.case_values() is None
    values = read_table(classified, "accuracy", False).case_values()
    assert values.tolist() == [1, 1, 0, 0, 1]


def test_labels_that_may_coincide_and_segmentations_have_groups(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text("case,group,label,predicted,correct,views,p(a),p(b)\n1,,a|b,a,0,1,0.9,0.3\n2,g,,,1,1,0.2,0.1\n")
    table = read_table(path, "accuracy", True)
    assert whole_score(table) == 0.5
    assert table.units == ("case 1", "group g")
    columns = "case,group,class,dice,reference_volume_ml\n"
    (tmp_path / "cases.csv").write_text(f"{columns}1,p,lobe,0.5,1\n2,p,lobe,0.7,1\n3,,lobe,0.9,1\n")
    table = read_table(tmp_path / "cases.csv", "dice.mean", False)
    assert table.units == ("group p", "group p", "case 3")


@pytest.mark.parametrize(
    ("written", "metric", "message"),
    [
        ("segmented", "auc", r"no metric auc: expected one of dice, .*, \.anterior, \.posterior"),
        ("segmented", "dice.lobe", "no metric dice.lobe"),
        ("classified", "dice.mean", r"no metric dice.mean: expected one of accuracy, .*auc.CLASS"),
    ],
)
def test_unknown_metrics_are_named(request: pytest.FixtureRequest, written: str, metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(request.getfixturevalue(written), metric, False)


def test_unfit_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("case,dice\n1,0.5\n")
    with pytest.raises(ValueError, match=r"other.csv: no column 'correct'; was it written by evaluate.py"):
        read_table(tmp_path / "other.csv", "dice.mean", False)
    (tmp_path / "empty.csv").write_text("case,class,dice\n")
    with pytest.raises(ValueError, match=r"empty.csv: no case in it"):
        read_table(tmp_path / "empty.csv", "dice.mean", False)


def test_surfaces_of_another_definition_are_refused(segmented: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics.json: surface_definition=None, expected .*; evaluate the run again"):
        read_table(segmented, "nsd.mean", False)
    write_metrics(segmented.parent, surface_definition=SURFACE_DEFINITION)
    assert whole_score(read_table(segmented, "nsd.mean", False)) == 1

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from engine.metrics.classification import METRICS, compare, resampling_units, score_probabilities, summarise
from engine.runs.run_folder import without_nan

# Two of three of class 0 right, one of two of class 1, one of one of class 2.
LABELS = np.array([0, 0, 0, 1, 1, 2])
P = np.array([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.1, 0.1, 0.8]])
NAMES = ["a", "b", "c"]


def test_values_by_hand_and_by_scikit_learn() -> None:
    scores = score_probabilities(P, LABELS)
    assert scores["accuracy"].value == pytest.approx(4 / 6)
    assert scores["balanced_accuracy"].value == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert scores["balanced_accuracy"].per_class == pytest.approx([2 / 3, 1 / 2, 1])
    assert scores["f1"].per_class == pytest.approx([4 / 5, 2 / 4, 2 / 3])
    assert scores["f1"].value == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert scores["auc"].per_class == pytest.approx([1, 5 / 8, 1])  # of b: 0.8 beats all four others, 0.2 one
    assert scores["log_loss"].value == pytest.approx(-np.log([0.6, 0.5, 0.2, 0.8, 0.2, 0.8]).mean())
    assert tuple(scores) == METRICS
    guess = P.argmax(axis=1)
    assert scores["balanced_accuracy"].value == pytest.approx(sk.balanced_accuracy_score(LABELS, guess))
    assert scores["f1"].value == pytest.approx(sk.f1_score(LABELS, guess, average="macro"))
    assert scores["auc"].value == pytest.approx(sk.roc_auc_score(LABELS, P, multi_class="ovr", average="macro"))
    precision = sk.average_precision_score(np.eye(3)[LABELS], P, average="macro")
    assert scores["average_precision"].value == pytest.approx(precision)
    labels, p1 = np.array([0, 0, 1, 0, 1]), np.array([0.1, 0.4, 0.35, 0.6, 0.8])
    scores = score_probabilities(np.stack([1 - p1, p1], axis=1), labels)
    assert scores["auc"].value == pytest.approx(4 / 6)
    assert scores["average_precision"].value == pytest.approx(sk.average_precision_score(labels, p1))


def test_multi_label() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    p = np.array([[0.9, 0.2], [0.4, 0.5], [0.3, 0.6], [0.1, 0.7]])
    scores = score_probabilities(p, labels)
    assert scores["accuracy"].value == 2 / 4  # cases with every label right
    assert scores["balanced_accuracy"].per_class == pytest.approx([(1 / 2 + 1) / 2, (1 + 1 / 2) / 2])
    assert scores["f1"].per_class == pytest.approx([2 / 3, 4 / 5])
    assert scores["auc"].value == pytest.approx(sk.roc_auc_score(labels, p, average="macro"))
    assert scores["log_loss"].value == pytest.approx(-np.log(np.where(labels, p, 1 - p)).mean())
    summary = summarise(p, labels, [None] * 4, ["x", "y"], 20)
    assert "confusion" not in summary
    assert summary["cases_per_class"] == {"x": 2, "y": 2}


def test_summary_holds_what_metrics_json_promises() -> None:
    summary = summarise(np.tile(P, (2, 1)), np.tile(LABELS, 2), [None] * 12, NAMES, 200)
    assert summary["num_cases"] == 12
    assert summary["accuracy"] == pytest.approx(4 / 6)
    assert summary["confusion"] == [[4, 2, 0], [0, 2, 2], [0, 0, 2]]
    assert summary["cases_per_class"] == {"a": 6, "b": 4, "c": 2}
    low, high = summary["details"]["accuracy"]["interval_95"]
    assert 0 <= low < 4 / 6 < high <= 1
    assert summary["details"]["f1"]["per_class"]["b"]["value"] == pytest.approx(1 / 2)
    assert (summary["interval_by"], summary["num_groups"], summary["notes"]) == ("case", 12, [])


def test_intervals_are_by_group_where_there_are_groups() -> None:
    labels, p = np.repeat(np.tile(LABELS, 2), 5), np.repeat(np.tile(P, (2, 1)), 5, axis=0)
    by_case = summarise(p, labels, [None] * 60, NAMES, 500)
    by_group = summarise(p, labels, [str(i // 5) for i in range(60)], NAMES, 500)
    assert (by_group["interval_by"], by_group["num_groups"]) == ("group", 12)
    wide, narrow = (np.ptp(s["details"]["accuracy"]["interval_95"]) for s in (by_group, by_case))
    assert wide > 1.7 * narrow  # sqrt(5), about: five copies of a case say no more than one
    assert len(set(resampling_units(["0", None, "0", None]))) == 3
    assert len(set(resampling_units([None, "case 0"]))) == 2


def test_one_class_alone_has_no_auc_and_json_no_nan() -> None:
    summary = without_nan(summarise(P[:3], LABELS[:3], ["g", "g", "g"], NAMES, 50))
    json.dumps(summary, allow_nan=False)
    assert summary["auc"] is None
    assert summary["details"]["auc"]["interval_95"] == [None, None]
    assert summary["details"]["accuracy"]["interval_95"] == [None, None]
    assert summary["balanced_accuracy"] == pytest.approx(2 / 3)  # of class a
    assert "no case of b, c" in summary["notes"][0]
    assert "every case is a: auc and average_precision" in summary["notes"][1]
    assert summary["num_groups"] == 1
    summary = without_nan(summarise(np.zeros((0, 3)), np.zeros(0, int), [], NAMES, 50))
    assert summary["num_cases"] == 0
    assert [summary[name] for name in METRICS] == [None] * 6
    assert summary["notes"][0] == "no labelled case: nothing is scored"


def test_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2; got 0\.\.3"):
        score_probabilities(P[:2], np.array([0, 3]))
    with pytest.raises(ValueError, match=r"multi-label targets must be 0 or 1, 3 a case; got shape \(6, 2\)"):
        score_probabilities(P, np.zeros((6, 2), int))


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    good = np.where(rng.random(200) < 0.8, labels, 1 - labels)
    worse = np.where(np.arange(200) < 10, 1 - labels, good)  # differs in ten cases at most
    first, second = (np.eye(2)[guess] * 0.8 + 0.1 for guess in (good, worse))
    difference = compare(first, second, labels, [None] * 200, 500)["accuracy"]
    assert difference["value"] == pytest.approx((good == labels).mean() - (worse == labels).mean())
    low, high = difference["interval_95"]
    assert low <= difference["value"] <= high
    assert high - low < 0.08  # two apart would have about 0.15
    assert compare(first, first, labels, [None] * 200, 50)["auc"]["interval_95"] == (0, 0)

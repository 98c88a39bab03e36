"""Pooling of folds: values, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from engine.metrics.segmentation import METRICS, SURFACE_DEFINITION
from studies.folds import main, pool_folds

CLIPS = {
    "name": "x",
    "task": "classification",
    "data": {"source": "csv", "root": "clips", "patch_size_voxels": [8, 8, 8]},
    "model": {"name": "cnn3d"},
    "loss": {"name": "cross_entropy"},
    "train": {"steps": 1},
    "checkpoint": {"metric": "auc"},
}


def write_run(folder: Path, rows: list[dict[str, object]], split: str = "val") -> Path:
    (folder / "eval" / split).mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CLIPS))
    with (folder / "eval" / split / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "eval" / split / "metrics.json").write_text(json.dumps({"surface_definition": SURFACE_DEFINITION}))
    return folder


def clip(case: str, group: str, label: str, p_fight: float) -> dict[str, object]:
    predicted = "fight" if p_fight > 0.5 else "calm"
    decided = {"predicted": predicted, "correct": int(label == predicted), "views": 1}
    p = {"p(calm)": round(1 - p_fight - 1e-6, 6), "p(fight)": p_fight}  # as a file rounds
    return {"case": case, "group": group, "label": label, **decided, **p}


def organ(case: str, name: str, dice: float | str) -> dict[str, object]:
    numbers = dict.fromkeys((*METRICS, "volume_ml", "reference_volume_ml"), 1.0) | {"dice": dice}
    return {"case": case, "group": case[0], "class": name, **numbers, "empty_in": ""}


def test_classifications_are_pooled_before_they_are_scored(tmp_path: Path) -> None:
    folds = [
        write_run(tmp_path / "a", [clip("1", "g1", "fight", 0.9), clip("2", "g2", "calm", 0.8)]),
        write_run(tmp_path / "b", [clip("3", "g3", "fight", 0.7), clip("4", "g3", "calm", 0.1)]),
    ]
    baseline = tmp_path / "motion.csv"
    baseline.write_text("case,p(calm),p(fight)\n" + "".join(f"{case},0.6,0.4\n" for case in "1234"))
    pooled = pool_folds(folds, baseline=baseline)
    assert pooled["num_cases"] == 4
    assert pooled["num_groups"] == 3
    assert pooled["accuracy"] == 0.75
    assert pooled["auc"] == 0.75  # of the pooled cases: 0.9 > 0.8, 0.1; 0.7 > 0.1 alone
    assert list(pooled["folds"].values()) == [0.5, 1.0]
    assert pooled["baselines"]["motion"]["accuracy"] == 0.5
    assert pooled["baselines"]["motion"]["difference"]["accuracy"]["value"] == 0.25


def test_segmentations_are_pooled_case_by_case(tmp_path: Path) -> None:
    folds = [
        write_run(tmp_path / "a", [organ("1", "liver", 0.9), organ("1", "spleen", 0.5), organ("2", "liver", 0.6)]),
        write_run(tmp_path / "b", [organ("3", "liver", 0.3), organ("3", "spleen", "")]),
    ]
    pooled = pool_folds(folds)
    assert pooled["num_cases"] == 3
    assert pooled["dice"]["liver"] == pytest.approx(0.6)
    assert pooled["dice"]["spleen"] == pytest.approx(0.5)
    assert pooled["folds"][str(folds[1])] == pytest.approx(0.3)


def test_the_command_prints_a_table_and_writes_json_or_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "a", [clip("1", "g1", "fight", 0.9), clip("2", "g2", "calm", 0.8)])
    assert main([str(run), "--json", str(tmp_path / "pooled.json")]) == 0
    assert "accuracy  0.5000" in capsys.readouterr().out
    assert json.loads((tmp_path / "pooled.json").read_text())["accuracy"] == 0.5
    assert main([str(run), "--split", "test"]) == 2
    assert "first run python evaluate.py" in capsys.readouterr().err


def test_cases_without_labels_count_nowhere(tmp_path: Path) -> None:
    unlabelled = {**clip("3", "g3", "", 0.9), "correct": ""}
    folds = [write_run(tmp_path / "a", [clip("1", "g1", "fight", 0.9), clip("2", "g2", "calm", 0.1), unlabelled])]
    pooled = pool_folds(folds)
    assert pooled["num_cases"] == 2
    assert list(pooled["folds"].values()) == [1.0]
    empty = {**organ("1", "liver", ""), "reference_volume_ml": ""}
    volumes = pool_folds([write_run(tmp_path / "b", [empty, organ("2", "liver", 0.5)])])
    assert (volumes["num_cases"], volumes["dice"]["mean"]) == (1, 0.5)
    with pytest.raises(ValueError, match=r"cases\.csv: no labelled case in it"):
        pool_folds([write_run(tmp_path / "c", [empty])])


def test_folds_that_share_a_case_or_mix_tasks_are_refused(tmp_path: Path) -> None:
    rows = [clip("1", "g1", "fight", 0.9), clip("2", "g2", "calm", 0.8)]
    folds = [write_run(tmp_path / "a", rows), write_run(tmp_path / "b", rows)]
    with pytest.raises(ValueError, match=r"case 1 is in .*a and in .*b: folds must not share cases"):
        pool_folds(folds)
    with pytest.raises(ValueError, match="they differ in task"):
        pool_folds([folds[0], write_run(tmp_path / "c", [organ("2", "liver", 0.3)])])


def test_surfaces_of_another_definition_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [organ("1", "liver", 0.9)])
    (run / "eval" / "val" / "metrics.json").write_text("{}")
    expected = r"a/eval/val/metrics.json: surface_definition=None, expected 'hd95_mm and nsd"
    with pytest.raises(ValueError, match=expected):
        pool_folds([run])


def test_scans_of_a_patient_in_several_folds_are_drawn_together(tmp_path: Path) -> None:
    folds = [
        write_run(tmp_path / name, [organ(f"{p}{name}", "liver", 0.5 + 0.04 * int(p)) for p in "0123456789"])
        for name in "ab"
    ]
    pooled = pool_folds(folds)
    assert (pooled["num_cases"], pooled["interval_by"], pooled["num_groups"]) == (20, "group", 10)
    alone = pool_folds(folds[:1])
    interval = alone["details"]["dice"]["liver"]["interval_95"]
    assert pooled["details"]["dice"]["liver"]["interval_95"] == pytest.approx(interval)

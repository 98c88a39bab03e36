"""Regions from end to end: nested tumours trained, evaluated, packed, averaged and fine-tuned from."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from engine.predict import load
from engine.runs.run_folder import RunFolder
from tests.data.write_layouts import write_volume
from tests.planning.take import config_of, findings, survey
from tests.runs import evaluated, read_metrics, read_rows, trained

pytestmark = pytest.mark.slow

REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def write_tumours(root: Path, cases: int = 6, shape: tuple[int, int, int] = (16, 20, 18)) -> Path:
    """Noisy volumes with an ellipsoid in an ellipsoid in an ellipsoid, the brighter the further in, as nnU-Net's."""
    for case in range(cases):
        rng = np.random.default_rng(case)
        centre = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
        far = (np.stack(np.indices(shape), -1) - centre) / rng.uniform(0.8, 1.2, 3)
        radius = np.sqrt((far**2).sum(-1))
        label = np.zeros(shape, np.uint8)
        for value, size in ((1, 7), (2, 5), (3, 3)):
            label[radius < size] = value
        write_volume(root / "imagesTr" / f"t{case}_0000.nii.gz", label + rng.normal(0, 0.2, shape).astype(np.float32))
        write_volume(root / "labelsTr" / f"t{case}.nii.gz", label)
    labels = {"background": 0, **REGIONS}
    facts = {"channel_names": {"0": "T1"}, "labels": labels, "regions_class_order": [1, 2, 3], "numTraining": cases}
    (root / "dataset.json").write_text(json.dumps({**facts, "file_ending": ".nii.gz"}))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tumours")
    data = {"source": "nnunet", "root": str(write_tumours(folder / "data")), "patch_size_voxels": [16, 16, 16]}
    tree: dict[str, Any] = {
        "name": "tumours",
        "run": {"dir": str(folder / "runs")},
        "data": {**data, "split": {"folds": 3}, "cache": {"folder": str(folder / "cache")}},
        "model": {"args": {"widths": [8, 16], "convolutions": 1}},
        "loss": {"batch_dice": True},
        "optim": {"learning_rate": 0.02},
        "train": {"steps": 120, "validate_every_steps": 60, "precision": "float32"},
        "evaluate": {"bootstrap_samples": 20},
    }
    tree["model"]["args"]["dropout"] = {"rate": 0.1, "places": ["bottleneck"]}
    (folder / "c.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFolder:
    return trained(folder / "c.yaml")


@pytest.fixture(scope="module")
def metrics(run: RunFolder) -> dict[str, Any]:
    evaluated(run.path)
    return read_metrics(run.evaluation("val"))


def test_nested_regions_are_learned_and_scored_by_their_names(run: RunFolder, metrics: dict[str, Any]) -> None:
    names = ["whole", "core", "enhancing"]
    assert list(metrics["dice"]) == [*names, "mean"]
    assert min(metrics["dice"].values()) > 0.8
    assert list(metrics["hd95_mm"]) == list(metrics["nsd"]) == [*names, "mean"]
    assert {row["class"] for row in read_rows(run.evaluation("val"))} == set(names)
    assert metrics["calibration"]["nll"] < 0.3
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "val"][-1]
    assert {f"dice.{name}" for name in (*names, "mean")} <= last.keys()
    assert json.loads((run.path / "statistics.json").read_text())["class_names"] == names
    resolved = yaml.safe_load((run.path / "config.yaml").read_text())["data"]
    assert (list(resolved["regions"].items()), resolved["region_values"]) == (list(REGIONS.items()), [1, 2, 3])


def test_the_label_file_holds_what_was_scored(run: RunFolder, metrics: dict[str, Any], folder: Path) -> None:
    rows = read_rows(run.evaluation("val"))
    for row in rows:
        found, wanted = (
            np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
            for path in (
                run.evaluation("val") / "predictions" / f"{row['case']}.nii.gz",
                folder / "data" / "labelsTr" / f"{row['case']}.nii.gz",
            )
        )
        assert set(np.unique(found)) <= {0, 1, 2, 3}
        a, b = (np.isin(volume, REGIONS[row["class"]]) for volume in (found, wanted))
        assert float(row["dice"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_probabilities_are_sigmoids_and_above_a_half_is_inside(
    run: RunFolder, metrics: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    image = folder / "data" / "imagesTr" / "t0_0000.nii.gz"
    pack = tmp_path / "model.zip"
    evaluated(run.path, "--export", pack, "--licence", "MIT")
    for source in (run.path, pack):
        predictor = load(source)
        assert predictor.class_names == ("whole", "core", "enhancing")
        p, labels = predictor.predict(image, probabilities=True), predictor.predict(image)
        nested = (p[..., 0] > 0.5) & ((p[..., 1] > 0.5) | ~(p[..., 2] > 0.5))
        assert nested.mean() > 0.05  # the tumour, where the regions lie in each other
        inside = (p > 0.5).sum(-1)
        assert (labels[nested] == inside[nested]).all()
    ensemble = load([run.path, run.path]).predict(image, probabilities=True)
    np.testing.assert_allclose(ensemble, load(run.path).predict(image, probabilities=True), atol=1e-6)


def test_draws_temperature_and_resuming(run: RunFolder, metrics: dict[str, Any], folder: Path) -> None:
    evaluated(run.path, "--mc-dropout", "2", "evaluate.temperature=1.5", "evaluate.save_probabilities=true")
    drawn = read_metrics(run.evaluation("val_mc_dropout"))
    assert drawn["dice"]["mean"] > 0.75
    assert set(drawn["uncertainty"]["error_auroc"]) == {"entropy", "mutual_information", "variance"}
    resumed = trained(folder / "c.yaml", "--resume", "train.steps=122")
    assert yaml.safe_load((resumed.path / "config.yaml").read_text())["data"]["regions"] == REGIONS


def test_a_run_on_fewer_regions_begins_from_the_rows_of_their_names(run: RunFolder, folder: Path) -> None:
    arguments = ["name=fewer", "data.regions={core: [2, 3], whole: [1, 2, 3]}", "train.steps=1"]
    fewer = trained(folder / "c.yaml", *arguments, f"init.from={run.path}", "init.head=by_name")
    rows = json.loads((fewer.path / "init.json").read_text())["tensors"]
    assert {row["how"] for row in rows if row["what"] == "adapted"} == {"classes: core, whole"}


def test_a_plan_takes_the_regions_that_the_data_declare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tumours(tmp_path / "data")
    config = config_of(root, capsys)
    assert config.data.regions == {name: tuple(values) for name, values in REGIONS.items()}
    assert (config.data.region_values, config.data.class_names) == ((1, 2, 3), None)
    found = survey(root)
    assert [row[1] for row in found.target.class_table(found.cases, str).rows] == [
        "background",
        "whole",
        "whole + core",
        "whole + core + enhancing",
    ]
    own = findings(root, "data.regions={any: [1, 2, 3], none: [4]}")
    assert own == ["no label has a voxel of region none"]
    own = findings(root, "data.regions={any: [1, 2, 3, 4]}")
    assert own == ["no label has a voxel of value 4, which data.regions puts in any"]


def test_a_table_with_a_file_for_each_region_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tumours(tmp_path / "data", cases=3)
    lines = ["image,whole,core"]
    for case in range(3):
        label = np.asarray(nibabel.load(root / "labelsTr" / f"t{case}.nii.gz").dataobj)  # type: ignore[attr-defined]
        for name in ("whole", "core"):
            write_volume(root / f"t{case}_{name}.nii.gz", np.isin(label, REGIONS[name]).astype(np.uint8).T)
        lines.append(f"imagesTr/t{case}_0000.nii.gz,t{case}_whole.nii.gz,t{case}_core.nii.gz")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    columns = "data.columns.label=[whole, core]"
    config = config_of(root / "cases.csv", capsys, columns)
    assert config.data.regions == {"whole": (1, 3), "core": (2, 3)}
    found = survey(root / "cases.csv", columns)
    assert [facts.problems for facts in found.cases] == [()] * 3
    assert set(found.cases[0].labels) == {0, 1, 3}
    assert not any("data.regions puts in" in text for text in findings(root / "cases.csv", columns))

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.metrics.segmentation import SURFACE_DEFINITION
from engine.runs.checkpoints import read_tensors
from engine.runs.pack import Pack, describe, export_run, read_weights
from engine.runs.pack.archive import PackError
from engine.runs.run_folder import RunFolder
from tests.engine.pack.packs import SECRET, make_model, read_members, write_metrics, write_run


def export(run: RunFolder, path: Path, licence: str | None = None, **settings: Any) -> Pack:
    from engine.config import check_config

    tree = run.read_config_tree()
    config = check_config({**tree, "evaluate": {**tree["evaluate"], **settings}}, "test")
    return export_run(path, run, config, make_model(config), run.checkpoint("best"), "best", licence)


@pytest.mark.parametrize(("weights", "file"), [("ema", "ema.safetensors"), ("raw", "model.safetensors")])
def test_packs_the_weights_that_would_be_evaluated(tmp_path: Path, weights: str, file: str) -> None:
    run, _ = write_run(tmp_path)
    pack = export(run, tmp_path / "model.zip", weights=weights)
    expected, found = read_tensors(run.checkpoint("best") / file), read_weights(pack.path)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.array(found[name]), np.array(value))
    assert pack.facts.checkpoint.weights == weights
    assert pack.facts.parameters == sum(value.size for value in expected.values())


def test_nothing_of_cases_paths_and_machines_is_packed(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    write_metrics(run)
    fitted_on = {"step": 3, "weights": "ema", "split": f"{SECRET}"}
    run.write_json("temperature", {"temperature": 1.5, "fitted_on": fitted_on})
    pack = export(run, tmp_path / "model.zip")
    members = read_members(pack.path)
    assert set(members) == {"README.md", "pack.json", "config.yaml", "model.safetensors"}
    for name, content in [*members.items(), ("the file", pack.path.read_bytes())]:
        assert SECRET.encode() not in content, name
        assert str(tmp_path).encode() not in content, name
    with zipfile.ZipFile(pack.path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert not any(info.extra or info.comment for info in archive.infolist())
    assert pack.facts.temperatures == {"plain": 1.5}


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    first, second = export(run, tmp_path / "a.zip"), export(run, tmp_path / "b.zip")
    assert first.path.read_bytes() == second.path.read_bytes()


def test_scores_are_those_of_the_packed_weights(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    write_metrics(run, "val")
    write_metrics(run, "test", step=2)
    write_metrics(run, "train", weights="raw")
    write_metrics(run, "all")
    run.write_json("temperature", {"temperature": 1.5, "fitted_on": {"step": 2, "weights": "ema"}})
    pack = export(run, tmp_path / "model.zip")
    row = {"mean": 0.75, "median": 0.7, "interval_95": [0.5, 0.875], "num_cases": 4}
    assert pack.facts.metrics == {"val": {"num_cases": 4, "details": {"dice": {"nucleus": row, "mean": row}}}}
    assert pack.facts.temperatures == {}
    card = read_members(pack.path)["README.md"].decode()
    assert "| dice | nucleus | 0.75 | 0.5 – 0.875 |" in card
    assert "Split `val` of the training data, 4 cases:" in card


def test_scores_on_cases_that_chose_the_weights_are_marked(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    choice = {"metric": SECRET, "best": {"step": 3, "value": 0.9}, "last": {"step": 7, "value": 0.85}}
    write_metrics(run, "val", optimistic=choice)
    pack = export(run, tmp_path / "model.zip")
    assert "scores    val (optimistic)" in describe(pack)
    card = read_members(pack.path)["README.md"].decode()
    assert "Optimistic: these cases chose the checkpoint." in card
    assert "dice.mean of 0.9, the last checkpoint 0.85." in card
    assert SECRET not in card


def test_surfaces_of_another_definition_stay_behind(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    write_metrics(run, "val", empty={})
    write_metrics(run, "test", empty={}, surface_definition=SURFACE_DEFINITION)
    pack = export(run, tmp_path / "model.zip")
    assert list(pack.facts.metrics) == ["test"]
    assert f"Surfaces: {SURFACE_DEFINITION}." in read_members(pack.path)["README.md"].decode()


def test_the_card_says_what_goes_in_and_comes_out(tmp_path: Path) -> None:
    data = {"root": "x", "patch_size_voxels": [8, 16, 8], "spacing_mm": [3, 1.5, 1.5], "normalisation": "zscore"}
    run, _ = write_run(tmp_path, data=data)
    card = read_members(export(run, tmp_path / "model.zip", "CC-BY-4.0").path)["README.md"].decode()
    for line in (
        "# small",
        "- volumes with 1 channel(s): T1",
        "- any spacing: resampled to 3 × 1.5 × 1.5 mm (D, H, W)",
        "- intensities as in training: zscore",
        "- the network sees 8 × 16 × 8 voxels (D, H, W) at a time",
        "- 1: nucleus",
        "CC-BY-4.0",
        "None: the run was not evaluated with these weights before it was packed.",
    ):
        assert line in card.splitlines(), line
    assert "of any orientation" in card
    assert "python evaluate.py --run model.zip --images FOLDER" in card


def test_what_is_printed(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    text = describe(export(run, tmp_path / "a.zip"))
    assert "weights   ema of step 3, " in text
    assert "classes   background, nucleus" in text
    assert "scores    none (this version's evaluate.py was not run on these weights)" in text
    assert "warning: without a licence only you may use the model; name one with --licence TEXT" in text
    text = describe(export(run, tmp_path / "b.zip", "MIT"))
    assert "licence   MIT" in text
    assert "remark" not in text


def test_no_pack_is_overwritten(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    export(run, tmp_path / "model.zip")
    with pytest.raises(PackError, match="exists already, and packs are not overwritten"):
        export(run, tmp_path / "model.zip")
    with pytest.raises(PackError, match=r"model: a pack's name ends in \.zip"):
        export(run, tmp_path / "model")


def test_a_run_that_no_pack_can_describe(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    facts = json.loads((run.path / "statistics.json").read_text())
    run.write_json("statistics", {**facts, "class_names": ["background", "nucleus" * 40]})
    with pytest.raises(PackError, match=r"cannot be packed: .*class_names"):
        export(run, tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()

"""Packs from end to end: evaluate.py --export, and evaluate.py --run model.zip elsewhere."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import nibabel
import numpy as np
import pytest
from mlx.utils import tree_flatten

import evaluate
from data.dataset import open_data
from data.synthetic.moving_shapes import write_moving_shapes
from data.synthetic.phantoms import write_phantoms
from engine.config import check_config
from engine.runs.checkpoints import save_checkpoint
from engine.runs.run_folder import RunFolder
from models import build_model
from tests.engine.pack.packs import with_facts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]


def write_run(folder: Path, data: dict[str, Any], **sections: Any) -> Path:
    """A run of which nothing was trained; its data are there."""
    tree: dict[str, Any] = {
        "name": "small",
        "run": {"dir": str(folder / "runs")},
        "data": {"split": {"kind": "ratio", "ratio": [0.5, 0.5, 0]}, **data},
        "train": {"steps": 1, "batch_size": 1},
        "evaluate": {"bootstrap_samples": 20, "overlap": 0.0},
    }
    config = check_config({**tree, **sections}, "test")
    opened = open_data(config)
    run = RunFolder(config.run_folder)
    run.path.mkdir(parents=True)
    run.write_config(config)
    for name, value in (("splits", opened.splits), ("statistics", opened.statistics), ("skipped", [])):
        run.write_json(name, value)
    mx.random.seed(3)
    model = build_model(config.model.name, config.model.args, opened.num_channels, opened.num_outputs)
    state = {"step": 5}
    save_checkpoint(run.checkpoints, {"model": dict(tree_flatten(model.parameters()))}, state, best=True, keep=1)
    return run.path


def export(run: Path, to: Path) -> Path:
    assert evaluate.main(["--run", str(run), "--export", str(to), "--licence", "MIT\n2026"]) == 0
    return to


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", cases=4, shape=(10, 14, 12)).parent


@pytest.fixture(scope="module")
def segmenter(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {"root": str(phantoms), "patch_size_voxels": [8, 8, 8], "spacing_mm": [7.0, 6.0, 6.0]}
    args = {"widths": [2, 4], "norm": "batch"}
    return write_run(tmp_path_factory.mktemp("runs"), data, model={"name": "unet3d", "args": args})


def test_volumes_are_segmented_elsewhere_as_at_home(
    segmenter: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    export(segmenter, elsewhere / "model.zip")
    printed = capsys.readouterr().out
    assert "classes   background, nucleus, crescent, vessel" in printed
    assert "licence   MIT 2026" in printed
    assert "left out  case names, file names and paths" in printed
    shutil.copytree(phantoms / "imagesTr", elsewhere / "scans")
    before = files_below(tmp_path)
    monkeypatch.chdir(elsewhere)
    assert evaluate.main(["--run", "model.zip", "--images", "scans"]) == 0
    assert {name.split("/")[1] for name in files_below(tmp_path) - before} == {"model"}
    home = tmp_path / "home"
    assert evaluate.main(["--run", str(segmenter), "--images", "scans", "--output", str(home)]) == 0
    written = elsewhere / "model" / "eval" / "images_scans"
    assert len(list((written / "predictions").iterdir())) == 4
    for path in (written / "predictions").iterdir():
        ours, theirs = nibabel.load(path), nibabel.load(home / "predictions" / path.name)
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert metrics_of(written)["checkpoint"]["step"] == 5
    assert metrics_of(written)["checkpoint"]["path"] == "model.zip"


def test_labelled_volumes_are_scored_as_at_home(segmenter: Path, phantoms: Path, tmp_path: Path) -> None:
    pack = export(segmenter, tmp_path / "model.zip")
    arguments = ["--split", "all", f"data.root={phantoms}", "evaluate.cases=2"]
    assert evaluate.main(["--run", str(pack), *arguments]) == 0
    assert evaluate.main(["--run", str(segmenter), "--output", str(tmp_path / "home"), *arguments]) == 0
    ours, theirs = metrics_of(tmp_path / "model" / "eval" / "all"), metrics_of(tmp_path / "home")
    assert ours["num_cases"] == 2
    assert ours["dice"] == theirs["dice"]
    assert (tmp_path / "model" / ".cache").is_dir()


def test_volumes_are_classified_elsewhere_as_at_home(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            np.save(tmp_path / "data" / name / f"{name}_{i}.npy", rng.normal(size=(6, 6, 6)).astype(np.float32))
    data = {"source": "classes", "root": str(tmp_path / "data"), "patch_size_voxels": [6, 6, 6]}
    model = {"name": "cnn3d", "args": {"widths": [4, 8]}}
    check_classifier(tmp_path, write_run(tmp_path, data, task="classification", model=model), tmp_path / "data/bright")


def test_clips_are_classified_elsewhere_as_at_home(tmp_path: Path) -> None:
    clips = write_moving_shapes(tmp_path / "clips", clips=2, frames=5)
    clip = {"frames": 4, "short_side_pixels": 24, "crop_pixels": [24, 24], "clips": 2}
    data = {"source": "classes", "root": str(clips), "clip": clip}
    model = {"name": "cnn3d", "args": {"widths": [4, 8]}}
    check_classifier(tmp_path, write_run(tmp_path, data, task="classification", model=model), clips / "left")
    assert evaluate.main(["--run", str(tmp_path / "model.zip"), "--split", "all", f"data.root={clips}"]) == 0
    assert metrics_of(tmp_path / "model" / "eval" / "all")["num_cases"] == 8


def check_classifier(folder: Path, run: Path, images: Path) -> None:
    pack = export(run, folder / "model.zip")
    assert evaluate.main(["--run", str(pack), "--images", str(images)]) == 0
    assert evaluate.main(["--run", str(run), "--images", str(images), "--output", str(folder / "home")]) == 0
    written = folder / "model" / "eval" / f"images_{images.name}"
    assert (written / "cases.csv").read_text() == (folder / "home" / "cases.csv").read_text()
    assert len((written / "cases.csv").read_text().splitlines()) > 2


def test_a_strangers_text_is_escaped_and_stripped(
    segmenter: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = export(segmenter, tmp_path / "model.zip")
    statistics = json.loads((segmenter / "statistics.json").read_text())
    names = ["background", "<script>alert(1)</script>", "\x1b[31mred\x07", "=1+1"]
    bad = with_facts(pack, statistics={**statistics, "class_names": names})
    capsys.readouterr()
    folders = ["data.source=folders", f"data.root={phantoms}", "data.images=imagesTr", "data.labels=labelsTr"]
    assert evaluate.main(["--run", str(bad), "--split", "all", *folders, "evaluate.cases=1"]) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\x07" not in printed.out + printed.err
    assert "\ufffd[31mred\ufffd" in printed.out
    report = (tmp_path / "changed" / "eval" / "all" / "report.html").read_text()
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert" in report


def expect_mistake(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("evaluate.py: ")
    return error


def test_mistakes_are_one_line(segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = export(segmenter, tmp_path / "model.zip")
    run = ["--run", str(pack)]
    assert "predict with --images FOLDER, or evaluate labelled data with" in expect_mistake(run, capsys)
    assert "data.root=NOT-IN-THE-PACK: no such folder" in expect_mistake([*run, "--split", "all"], capsys)
    assert "is a pack already: copy it" in expect_mistake([*run, "--export", str(tmp_path / "b.zip")], capsys)
    assert "--licence goes with --export" in expect_mistake([*run, "--licence", "MIT"], capsys)
    assert "settled when" in expect_mistake([*run, "run.dir=/tmp", "--images", str(tmp_path)], capsys)
    (tmp_path / "cut.zip").write_bytes(pack.read_bytes()[:-100])
    assert "cut.zip: not a whole zip file" in expect_mistake(["--run", str(tmp_path / "cut.zip")], capsys)
    (tmp_path / "text.zip").write_text("hello" * 50)
    assert "not a whole zip file, or not a pack" in expect_mistake(["--run", str(tmp_path / "text.zip")], capsys)
    export_again = ["--run", str(segmenter), "--export", str(pack)]
    assert "exists already, and no pack is overwritten" in expect_mistake(export_again, capsys)
    assert not (tmp_path / "model").exists()

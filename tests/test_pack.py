"""Packs from end to end: evaluate.py --export, and evaluate.py --run model.zip elsewhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import evaluate
from data.synthetic.moving_shapes import write_moving_shapes
from tests.engine.pack.packs import with_facts
from tests.runs import Capture, evaluated, read_metrics, refused, untrained

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
    return untrained({**tree, **sections}, seed=3).path


def export(run: Path, to: Path) -> Path:
    evaluated(run, "--export", to, "--licence", "MIT\n2026")
    return to


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def segmenter(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {"root": str(phantoms), "patch_size_voxels": [8, 8, 8], "spacing_mm": [7.0, 6.0, 6.0]}
    args = {"widths": [2, 4], "norm": "batch"}
    return write_run(tmp_path_factory.mktemp("runs"), data, model={"name": "unet3d", "args": args})


def test_volumes_are_segmented_elsewhere_as_at_home(
    segmenter: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
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
    evaluated("model.zip", "--images", "scans")
    assert {name.split("/")[1] for name in files_below(tmp_path) - before} == {"model"}
    home = tmp_path / "home"
    evaluated(segmenter, "--images", "scans", "--output", home)
    written = elsewhere / "model" / "eval" / "images_scans"
    assert len(list((written / "predictions").iterdir())) == 4
    for path in (written / "predictions").iterdir():
        ours, theirs = nibabel.load(path), nibabel.load(home / "predictions" / path.name)
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert read_metrics(written)["checkpoint"]["step"] == 5
    assert read_metrics(written)["checkpoint"]["path"] == "model.zip"


def test_labelled_volumes_are_scored_as_at_home(segmenter: Path, phantoms: Path, tmp_path: Path) -> None:
    pack = export(segmenter, tmp_path / "model.zip")
    arguments = ["--split", "all", f"data.root={phantoms}", "evaluate.cases=2"]
    evaluated(pack, *arguments)
    evaluated(segmenter, "--output", tmp_path / "home", *arguments)
    ours, theirs = read_metrics(tmp_path / "model" / "eval" / "all"), read_metrics(tmp_path / "home")
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
    evaluated(tmp_path / "model.zip", "--split", "all", f"data.root={clips}")
    assert read_metrics(tmp_path / "model" / "eval" / "all")["num_cases"] == 8


def check_classifier(folder: Path, run: Path, images: Path) -> None:
    pack = export(run, folder / "model.zip")
    evaluated(pack, "--images", images)
    evaluated(run, "--images", images, "--output", folder / "home")
    written = folder / "model" / "eval" / f"images_{images.name}"
    assert (written / "cases.csv").read_text() == (folder / "home" / "cases.csv").read_text()
    assert len((written / "cases.csv").read_text().splitlines()) > 2


def test_a_strangers_text_is_escaped_and_stripped(
    segmenter: Path, phantoms: Path, tmp_path: Path, capsys: Capture
) -> None:
    pack = export(segmenter, tmp_path / "model.zip")
    statistics = json.loads((segmenter / "statistics.json").read_text())
    names = ["background", "<script>alert(1)</script>", "\x1b[31mred\x07", "=1+1"]
    bad = with_facts(pack, statistics={**statistics, "class_names": names})
    capsys.readouterr()
    folders = ["data.source=folders", f"data.root={phantoms}", "data.images=imagesTr", "data.labels=labelsTr"]
    evaluated(bad, "--split", "all", *folders, "evaluate.cases=1")
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\x07" not in printed.out + printed.err
    assert "\ufffd[31mred\ufffd" in printed.out
    report = (tmp_path / "changed" / "eval" / "all" / "report.html").read_text()
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert" in report


def test_mistakes_are_one_message(segmenter: Path, tmp_path: Path, capsys: Capture) -> None:
    pack = export(segmenter, tmp_path / "model.zip")
    run = ["--run", str(pack)]
    assert "predict with --images FOLDER, or evaluate labelled data with" in refused(evaluate, capsys, *run)
    assert "data.root=NOT-IN-THE-PACK: no such file or folder" in refused(evaluate, capsys, *run, "--split", "all")
    assert "is a pack already: copy it" in refused(evaluate, capsys, *run, "--export", str(tmp_path / "b.zip"))
    assert "--licence only with --export" in refused(evaluate, capsys, *run, "--licence", "MIT")
    assert "fixed when" in refused(evaluate, capsys, *run, "run.dir=/tmp", "--images", str(tmp_path))
    (tmp_path / "cut.zip").write_bytes(pack.read_bytes()[:-100])
    assert "cut.zip: not a complete zip file" in refused(evaluate, capsys, "--run", str(tmp_path / "cut.zip"))
    (tmp_path / "text.zip").write_text("hello" * 50)
    assert "not a complete zip file, or not a pack" in refused(evaluate, capsys, "--run", str(tmp_path / "text.zip"))
    export_again = ["--run", str(segmenter), "--export", str(pack)]
    assert "exists already, and packs are not overwritten" in refused(evaluate, capsys, *export_again)
    assert not (tmp_path / "model").exists()

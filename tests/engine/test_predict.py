"""Prediction from Python, which is what evaluate.py --images writes."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt

import evaluate
from data.files.volumes import read_image
from data.synthetic.moving_shapes import write_moving_shapes
from data.synthetic.phantoms import write_phantoms
from engine.predict import load
from tests.test_pack import export, write_run

FIGURES = ("segmentation_report.plot_case", "page.plot_curves", "uncertainty_report.plot_uncertainty")


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for plot in FIGURES:
        monkeypatch.setattr(f"engine.reports.{plot}", lambda *_, **__: "data:image/png;base64,")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two volumes: a phantom, and another one whose axes run otherwise."""
    folder = tmp_path_factory.mktemp("scans")
    root = write_phantoms(folder / "phantoms", cases=4, shape=(10, 14, 12)).parent
    for path in sorted((root / "imagesTr").iterdir())[2:]:
        path.rename(folder / path.name)
    image = nibabel.load(folder / "phantom_003.nii.gz")
    ornt = axcodes2ornt(("P", "I", "R"))
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), ornt))
    turned.to_filename(folder / "phantom_003.nii.gz")
    return folder


def make_run(folder: Path, scans: Path, name: str = "small") -> Path:
    split = {"kind": "lists", "train": ["phantom_000"], "val": ["phantom_001"]}
    data = {"source": "folders", "root": str(scans / "phantoms"), "images": "imagesTr", "labels": "labelsTr"}
    data |= {"class_names": ["background", "nucleus", "crescent", "vessel"], "patch_size_voxels": [8, 8, 8]}
    dropout = {"kind": "channel", "rate": 0.5}
    model = {"name": "unet3d", "args": {"widths": [2, 4], "norm": "batch", "dropout": dropout}}
    return write_run(folder, {**data, "spacing_mm": [7.0, 6.0, 6.0], "split": split}, name=name, model=model)


@pytest.fixture(scope="module")
def run(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), scans)


def written(scans: Path, folder: Path, *arguments: object) -> dict[str, dict[str, np.ndarray]]:
    """What evaluate.py writes of each file: {file: {kind: values in the file's axes}}."""
    folder.mkdir()
    images = folder / "images"
    images.mkdir()
    for path in scans.glob("*.nii.gz"):
        (images / path.name).symlink_to(path)
    command = ["--images", str(images), "--output", str(folder), "evaluate.save_probabilities=true"]
    assert evaluate.main(["--run", *map(str, arguments), *command]) == 0
    return {
        path.name: {
            kind: np.asarray(nibabel.load(folder / kind / path.name).dataobj)
            for kind in ("predictions", "probabilities")
        }
        for path in scans.glob("*.nii.gz")
    }


def check_equal(
    expected: dict[str, dict[str, np.ndarray]], scans: Path, runs: Path | Sequence[Path], **settings: Any
) -> None:
    predictor = load(runs, **settings)
    assert predictor.class_names == ("background", "nucleus", "crescent", "vessel")
    for name, values in expected.items():
        labels = predictor.predict(scans / name)
        assert labels.shape == nibabel.load(scans / name).shape
        np.testing.assert_array_equal(labels, values["predictions"])
        np.testing.assert_array_equal(predictor.predict(scans / name, probabilities=True), values["probabilities"])
    assert len(expected) == 2


def test_files_are_predicted_as_evaluation_does(run: Path, scans: Path, tmp_path: Path) -> None:
    expected = written(scans, tmp_path / "plain", run)
    check_equal(expected, scans, run)
    check_equal(expected, scans, export(run, tmp_path / "model.zip"))
    assert not (tmp_path / "model").exists()


def test_draws_and_ensembles_are_predicted_as_evaluation_does(run: Path, scans: Path, tmp_path: Path) -> None:
    check_equal(written(scans, tmp_path / "draws", run, "--mc-dropout", 2), scans, run, mc_dropout=2)
    runs = [run, make_run(tmp_path, scans, "other")]
    check_equal(written(scans, tmp_path / "both", *runs), scans, runs)


def test_an_array_is_predicted_as_a_file_that_holds_it(run: Path, scans: Path) -> None:
    predictor = load(run, overrides={"evaluate.overlap": 0.5})
    assert predictor.config.evaluate.overlap == 0.5
    for path in scans.glob("*.nii.gz"):
        volume, grid, source = read_image(path)
        expected = source.orientation.to_dhw(predictor.predict(path, probabilities=True))
        found = predictor.predict_array(volume, grid.spacing_mm, probabilities=True)
        assert found.shape == (*volume.shape[:3], 4)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_array_equal(predictor.predict_array(volume[..., 0], grid.spacing_mm), expected.argmax(-1))


def test_volumes_with_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            np.save(tmp_path / "data" / name / f"{name}_{i}.npy", rng.normal(size=(6, 6, 6)).astype(np.float32))
    data = {"source": "classes", "root": str(tmp_path / "data"), "patch_size_voxels": [6, 6, 6]}
    run = write_run(tmp_path, data, task="classification", model={"name": "cnn3d", "args": {"widths": [4, 8]}})
    check_classifier(run, tmp_path / "data" / "dark", ("bright", "dark"))
    predictor, path = load(run), tmp_path / "data" / "dark" / "dark_1.npy"
    np.testing.assert_array_equal(predictor.predict_array(np.load(path), (1, 1, 1)), predictor.predict(path))


def test_clips_with_classes(tmp_path: Path) -> None:
    clips = write_moving_shapes(tmp_path / "clips", clips=2, frames=5)
    clip = {"frames": 4, "short_side_pixels": 24, "crop_pixels": [24, 24], "clips": 2}
    data = {"source": "classes", "root": str(clips), "clip": clip}
    run = write_run(tmp_path, data, task="classification", model={"name": "cnn3d", "args": {"widths": [4, 8]}})
    check_classifier(run, clips / "left", ("down", "left", "right", "up"))
    with pytest.raises(ValueError, match="this run sees clips; predict the clip's file"):
        load(run).predict_array(np.zeros((5, 24, 24)), (1, 1, 1))
    with pytest.raises(ValueError, match=r"missing\.mp4: no such file or folder"):
        load(run).predict("missing.mp4")


def check_classifier(run: Path, images: Path, class_names: Sequence[str]) -> None:
    predictor, found = load(run), evaluate_images(run, images)
    assert predictor.class_names == tuple(class_names)
    assert len(found) == len(list(images.iterdir()))
    for path in images.iterdir():
        probabilities = predictor.predict(path)
        assert probabilities.shape == (len(class_names),)
        np.testing.assert_allclose(probabilities, [float(found[path.stem][f"p({n})"]) for n in class_names], atol=1e-5)


def evaluate_images(run: Path, images: Path) -> dict[str, dict[str, str]]:
    done = evaluate.main(["--run", str(run), "--images", str(images), "--output", str(run / "images")])
    assert done == 0
    with (run / "images" / "cases.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_mistakes_name_what_is_expected(run: Path, scans: Path) -> None:
    predictor = load(run)
    with pytest.raises(ValueError, match=r"missing\.nii\.gz: no such file or folder"):
        predictor.predict("missing.nii.gz")
    with pytest.raises(ValueError, match=r"holds 2 cases; predict one file at a time, or run evaluate\.py"):
        predictor.predict(scans)
    with pytest.raises(ValueError, match=r"expects a volume .*; got arrays of shapes \(4, 4\) and \(3,\)"):
        predictor.predict_array(np.zeros((4, 4)), (1, 1, 1))
    with pytest.raises(ValueError, match=r"1 NaN and 0 infinite voxels of 512"):
        predictor.predict_array(np.pad([[[np.nan]]], ((0, 7),) * 3), (1, 1, 1))
    with pytest.raises(ValueError, match=r"loss\.name: loss\.name was fixed when .* was trained"):
        load(run, overrides={"loss.name": "dice"})
    with pytest.raises(ValueError, match=r"needs 2 to .* draws and exactly one run"):
        load([run, run], mc_dropout=3)
    with pytest.raises(ValueError, match="needs 2 to 1,000 draws and exactly one run; several runs are an ensemble"):
        load(run, mc_dropout=10**9)

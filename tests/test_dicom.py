"""DICOM from end to end: inspected, planned, trained, evaluated and predicted from folders of slices."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from data.files.formats.dicom import series
from planning import inspect
from tests.data.dicom_files import moved, turned, voxels, write_series
from tests.planning.take import config_of
from tests.runs import Capture, evaluated, trained

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]
SHAPE = (12, 14, 16)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients with an oblique series of noise each, and a label on its grid: a box that is brighter."""
    root = tmp_path_factory.mktemp("dicom") / "patients"
    for number in range(4):
        label = np.zeros(SHAPE, np.uint8)  # (k, j, i)
        label[3:7, 4:9, 5:11] = 1
        volume = voxels(SHAPE, seed=number) // 8 + 500 * label.astype(np.int16)
        folder = write_series(root / f"p{number}" / "study" / "ct", volume, turned(10 * number))
        affine = series.read_header(folder).source.affine
        nibabel.save(nibabel.Nifti1Image(label.transpose(2, 1, 0), affine), root / f"p{number}" / "seg.nii.gz")
    return root


def test_from_inspection_to_predictions(root: Path, tmp_path: Path, capsys: Capture) -> None:
    assert inspect.main([str(root), "--threads", "1"]) in (0, 1)
    said = capsys.readouterr().out
    assert "4, 4 labelled, 0 that cannot be used" in said
    assert "channels     1: CT" in said
    planned = config_of(root, capsys)
    assert (planned.data.source, planned.data.root) == ("dicom", root)
    assert planned.data.normalisation == "ct"
    tree = {
        "name": "tiny",
        "ops": "mlx",
        "run": {"dir": str(tmp_path / "runs")},
        "data": {
            "source": "dicom",
            "root": str(root),
            "patch_size_voxels": [8, 8, 8],
            "split": {"folds": 4},
            "class_names": ["background", "box"],
            "cache": {"folder": str(tmp_path / "cache")},
        },
        "model": {"name": "unet3d", "args": {"widths": [2, 4], "convolutions": 1}},
        "train": {"steps": 2, "batch_size": 1},
        "evaluate": {"bootstrap_samples": 20},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    run = trained(tmp_path / "tiny.yaml")
    evaluated(run.path)
    evaluated(run.path, "--images", root / "p1" / "study" / "ct")
    for path in (run.evaluation("val") / "predictions", run.path / "eval" / "images_ct" / "predictions"):
        (file,) = path.iterdir()
        prediction = nibabel.load(file)
        case = "p1" if file.name == "ct.nii.gz" else file.name[:2]
        assert prediction.shape == SHAPE[::-1]
        np.testing.assert_allclose(prediction.affine, series.read_header(root / case).source.affine, atol=1e-5)


def test_a_broken_series_is_one_cases_problem(root: Path, tmp_path: Path, capsys: Capture) -> None:
    for number in range(3):
        write_series(tmp_path / f"p{number}", voxels(), change=moved(2, 0.9 * (number == 1)))
    assert inspect.main([str(tmp_path), "--threads", "1"]) == 1
    said = capsys.readouterr().out
    assert "3, 0 labelled, 1 that cannot be used" in said
    assert "slices 1.6 to 3.4 mm apart, expected one distance" in said

"""A folder of other formats than NIfTI, from inspection to predictions."""

import itertools
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

import evaluate
import plan
from data.files.volumes import read_header, read_label
from planning import inspect
from planning.layout.recognise import read_settings
from planning.survey.survey import take_survey
from tests.data.write_layouts import write_folders, write_layout
from tests.runs import Capture, evaluated, read_metrics, trained

sitk = pytest.importorskip("SimpleITK", reason='needs pip install -e ".[formats]"')
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]
ENDINGS = [
    (".mha", ".nrrd", ".mha"),
    (".nhdr", ".mhd", ".nrrd"),
    (".mgz", ".mha", ".mgz"),
    (".nii.gz", ".nrrd", ".nii.gz"),
]


def write_as(folder: Path, images: str, labels: str) -> Path:
    """images/ and labels/ of small volumes, oblique, with these endings."""
    turned = np.array([[0.9, -0.1, 0.05, 4], [0.1, 1.1, 0.02, -7], [-0.04, 0.03, 1.3, 9], [0, 0, 0, 1]])
    turned[:3, :3] = np.linalg.qr(turned[:3, :3])[0] * [-0.9, -1.1, 1.3]
    write_folders(folder, cases=4)
    for path in sorted(folder.glob("*/*.nii.gz")):
        values, ending = np.asarray(nibabel.load(path).dataobj), images if path.parent.name == "images" else labels
        target = path.with_name(path.name.replace(".nii.gz", ending))
        path.unlink()
        if ending in (".mgz", ".nii.gz"):
            nibabel.save((nibabel.MGHImage if ending == ".mgz" else nibabel.Nifti1Image)(values, turned), target)
            continue
        image = sitk.GetImageFromArray(values.T.astype(np.float32 if ending == labels else np.uint8))
        edges = np.diag([-1.0, -1.0, 1.0]) @ turned[:3]
        spacing = np.linalg.norm(edges[:, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((edges[:, :3] / spacing).ravel().tolist())
        image.SetOrigin(edges[:, 3].tolist())
        sitk.WriteImage(image, str(target), True)
    return folder


@pytest.mark.parametrize(("images", "labels", "written"), ENDINGS)
def test_from_inspection_to_predictions(
    tmp_path: Path, capsys: Capture, images: str, labels: str, written: str
) -> None:
    root = write_as(tmp_path / "data", images, labels)
    assert inspect.main([str(root)]) in (0, 1)
    assert "no problems found" in capsys.readouterr().out
    assert plan.main([str(root)]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    small = {"run": {"dir": str(tmp_path / "runs")}, "ops": "mlx", "model": {"args": {"widths": [2, 4]}}}
    tree = {**tree, **small, "train": {"steps": 2, "batch_size": 1}, "optim": {"warmup_steps": 0}}
    tree["data"] |= {"cache": {"folder": str(tmp_path / "cache")}, "patch_size_voxels": [8, 8, 8]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    run = trained(tmp_path / "mine.yaml")
    evaluated(run.path)
    assert read_metrics(run.evaluation("val"))["num_cases"] > 0
    predictions = sorted((run.evaluation("val") / "predictions").iterdir())
    assert {path.name.partition(".")[2] for path in predictions} == {written.lstrip(".")}
    for path in predictions:
        source = read_header(root / "images" / path.name.replace(written, images))
        assert np.allclose(read_header(path).source.affine, source.source.affine, atol=1e-5)
        assert read_label(path)[0].dtype == np.uint8
    shutil.rmtree(root / "labels")
    assert evaluate.main(["--run", str(run.path), "--images", str(root / "images")]) == 0
    assert len(list(run.path.glob(f"eval/*/predictions/*{written}"))) >= 4


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".MHA"])
@pytest.mark.parametrize("layout", ["msd", "nnunet", "folders", "csv"])
def test_every_layout(tmp_path: Path, layout: str, ending: str) -> None:
    path = write_layout(layout, tmp_path / "data")
    for file in sorted((tmp_path / "data").rglob("*.nii.gz")):
        written = tmp_path / f"a{ending.lower()}"
        sitk.WriteImage(sitk.ReadImage(str(file)), str(written), True)
        written.rename(file.with_name(file.name.replace(".nii.gz", ending)))
        file.unlink()
    for file in (path, path / "dataset.json"):
        if file.is_file():
            file.write_text(file.read_text().replace(".nii.gz", ending))
    survey = take_survey(read_settings(path), threads=1)
    assert survey.problems == []
    assert len(survey.cases) == 5
    assert all(facts.labels for facts in survey.cases)


def test_folders_of_classes(tmp_path: Path) -> None:
    for name, number in itertools.product(("left", "right"), range(3)):
        (tmp_path / name).mkdir(exist_ok=True)
        image = nibabel.MGHImage(np.random.default_rng(number).integers(0, 99, (6, 7, 8)).astype(np.int16), np.eye(4))
        nibabel.save(image, tmp_path / name / f"{name}{number}.mgz")
    survey = take_survey(read_settings(tmp_path), threads=1)
    assert len(survey.cases) == 6
    assert all(facts.shape == (8, 7, 6) for facts in survey.cases)

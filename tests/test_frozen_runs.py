"""Runs and packs written by an earlier version load, and predict what they predicted then.

tests/frozen holds a U-Net of two levels and a small CNN, trained for 100 and 60 steps on phantoms and moving shapes
by version 0.1.0, their packs, inputs, and the probabilities that evaluate.py wrote (`expected.npz`).
"""

import csv
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

import evaluate

pytestmark = pytest.mark.slow

FROZEN = Path(__file__).with_name("frozen")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FROZEN / "expected.npz") as file:
        return dict(file)


def predict(tmp_path: Path, run: str, images: str, *settings: str) -> Path:
    if (FROZEN / run).is_dir():
        shutil.copytree(FROZEN / run, tmp_path / run, symlinks=True)
    else:
        shutil.copy(FROZEN / run, tmp_path / run)
    output = tmp_path / "out"
    given = ["--run", str(tmp_path / run), "--checkpoint", "last", "--images", str(FROZEN / images)]
    if run.endswith(".zip"):
        del given[2:4]
    assert evaluate.main([*given, "--output", str(output), f"data.cache.folder={tmp_path / 'cache'}", *settings]) == 0
    return output


@pytest.mark.parametrize("run", ["segmentation", "segmentation.zip"])
def test_a_segmentation_run_predicts_as_it_did(run: str, tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    output = predict(tmp_path, run, "volumes", "evaluate.save_probabilities=true")
    for name in ("phantom_000", "phantom_003"):
        found = np.asarray(nibabel.load(output / "probabilities" / f"{name}.nii.gz").dataobj)
        np.testing.assert_allclose(found, expected[name].astype(np.float32), atol=2e-3)
        labels = np.asarray(nibabel.load(output / "predictions" / f"{name}.nii.gz").dataobj)
        assert (labels == expected[name].argmax(-1)).mean() > 0.99


@pytest.mark.parametrize("run", ["classification", "classification.zip"])
def test_a_classification_run_predicts_as_it_did(run: str, tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    output = predict(tmp_path, run, "clips")
    with open(output / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["down_000", "left_000", "right_000", "up_000"]
    for row in rows:
        found = [float(row[key]) for key in ("p(down)", "p(left)", "p(right)", "p(up)")]
        np.testing.assert_allclose(found, expected[row["case"]], atol=1e-3)

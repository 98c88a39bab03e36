"""One small data set in each layout that can be trained on."""

import shutil
from pathlib import Path

import nibabel
import numpy as np

from data.synthetic.phantoms import write_phantoms

SHAPE = (14, 20, 16)


def write_volume(path: Path, array: np.ndarray, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> Path:
    """A NIfTI file of array (D, H, W) in RAS+, at spacing_mm along (D, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([*spacing_mm[::-1], 1.0])), path)
    return path


def write_folders(root: Path, cases: int = 4, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> Path:
    """images/ and labels/ of noise (8, 8, 10) uint8 with one labelled box of 2 × 3 × 4 voxels."""
    for case in range(cases):
        rng = np.random.default_rng(case)
        label = np.zeros((8, 8, 10), np.uint8)
        label[2:4, 3:6, 4:8] = 1
        image = rng.integers(1, 50, label.shape).astype(np.uint8) + 100 * label
        write_volume(root / "images" / f"case{case}.nii.gz", image, spacing_mm)
        write_volume(root / "labels" / f"case{case}.nii.gz", label, spacing_mm)
    return root


def write_layout(kind: str, root: Path, cases: int = 5) -> Path:
    """Phantoms as msd, nnunet, folders or csv; returns the path to inspect."""
    write_phantoms(root, cases, seed=1, shape=SHAPE)
    if kind == "msd":
        return root
    (root / "dataset.json").unlink()
    names = [path.name.removesuffix(".nii.gz") for path in sorted((root / "imagesTr").iterdir())]
    if kind == "nnunet":
        for name in names:
            image = root / "imagesTr" / f"{name}.nii.gz"
            image.rename(image.with_name(f"{name}_0000.nii.gz"))
        labels = {"background": 0, "nucleus": 1, "crescent": 2, "vessel": 3}
        text = f'{{"channel_names": {{"0": "MRI"}}, "labels": {labels}, "file_ending": ".nii.gz"}}'
        (root / "dataset.json").write_text(text.replace("'", '"'))
        return root
    if kind == "folders":
        shutil.move(root / "imagesTr", root / "scans")
        shutil.move(root / "labelsTr", root / "masks")
        return root
    rows = [f"imagesTr/{name}.nii.gz,labelsTr/{name}.nii.gz,{number % 4}" for number, name in enumerate(names)]
    (root / "table.csv").write_text("\n".join(["image,label,subject", *rows]) + "\n")
    return root / "table.csv"

"""A small data set with label volumes, its config, and damage to it."""

import json

import nibabel
import numpy as np

from engine.config import config_class

AUGMENT = {
    "flip": {"probability": 0.5},
    "rotate": {"probability": 0.5},
    "noise": {"probability": 0.5},
    "gamma": {"probability": 0.5},
}


def write_boxes(folder, cases=11):
    """A small data set: noise, a bright box of class 1 and a dark one of class 2; sizes differ."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    rng = np.random.default_rng(0)
    listed = []
    for number in range(cases):
        shape = (14 + number % 3, 12, 10 + number % 2)
        label = np.zeros(shape, np.uint8)
        label[3:7, 2:6, 2:6] = 1
        label[8:11, 7:10, 4:8] = 2
        image = rng.normal(100, 5, shape).astype(np.float32) + 40 * (label == 1) - 30 * (label == 2)
        affine = np.diag([1.0, 1.0, 1.5, 1.0])
        name = f"case_{number:02d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / "imagesTr" / name)
        nibabel.save(nibabel.Nifti1Image(label, affine), folder / "labelsTr" / name)
        listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    facts = {
        "name": "boxes",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "bright", "2": "dark"},
        "training": listed,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def boxes_config(root, batch_size=2, seed=0, cache=None, **data):
    """A config of the data at `root`, its cache and its runs beside it."""
    cache = {"folder": root.parent / "cache", **(cache or {})}
    settings = {"root": root, "patch_size_voxels": (8, 8, 8), "augment": AUGMENT, "cache": cache, **data}
    return config_class().model_validate(
        {
            "name": "t",
            "seed": seed,
            "run": {"dir": root.parent / "runs"},
            "data": settings,
            "train": {"steps": 1, "batch_size": batch_size},
        }
    )


def put_nan(path):
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)

"""One small data set in each layout that people have, made of a Decathlon folder: phantoms or hippocampus.

python -m tests.make_layouts ../shared/datasets/hippocampus FOLDER [--cases 6]
"""

import argparse
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np

from data.layouts.cases import strip_suffix

NII = ".nii.gz"


class Source(NamedTuple):
    """An image and a label of the folder that layouts are made of, by the case's name; `facts` are its dataset.json."""

    files: dict[str, tuple[Path, Path]]
    facts: dict[str, object]


def make_layout(name: str, source: Path, folder: Path, cases: int = 6) -> Path:
    """Write the first cases of a Decathlon folder in a layout of MAKERS, and return the path that a user would give."""
    facts = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    images = sorted((source / "imagesTr").glob(f"*{NII}"))[:cases]
    files = {strip_suffix(path.name): (path, source / "labelsTr" / path.name) for path in images}
    root = folder / name
    root.mkdir(parents=True)
    return MAKERS[name](Source(files, facts), root) or root


def _copy(path: Path, *places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _patients(source: Source, root: Path) -> None:
    for name, (image, label) in source.files.items():
        _copy(image, root / name / f"t1{NII}", root / name / f"flair{NII}")
        _copy(label, root / name / f"seg{NII}")


def _patients_by_name(source: Source, root: Path) -> None:
    for name, (image, label) in source.files.items():
        _copy(image, root / name / f"{name}_t1{NII}")
        _copy(label, root / name / f"{name}_mask{NII}")


def _visits(source: Source, root: Path) -> None:
    for number, (image, label) in enumerate(source.files.values()):
        visit = root / f"case{number // 2}" / f"visit{number % 2}"
        _copy(image, visit / f"t1{NII}")
        _copy(label, visit / f"gt{NII}")


def _bids(source: Source, root: Path) -> None:
    for number, (image, label) in enumerate(source.files.values()):
        _copy(image, root / f"sub-{number:02}" / "anat" / f"sub-{number:02}_T1w{NII}")
        _copy(label, root / "derivatives" / "manual" / f"sub-{number:02}" / "anat" / f"sub-{number:02}_dseg{NII}")


def _bids_sessions(source: Source, root: Path) -> None:
    for number, (image, label) in enumerate(source.files.values()):
        subject, session = f"sub-{number // 2:02}", f"ses-{number % 2}"
        _copy(image, root / subject / session / "anat" / f"{subject}_{session}_T1w{NII}")
        name = f"{subject}_{session}_space-T1w_label-lesion_mask{NII}"
        _copy(label, root / "derivatives" / "lesions" / subject / session / "anat" / name)


def _flat(image_end: str, label_end: str) -> Callable[[Source, Path], None]:
    def make(source: Source, root: Path) -> None:
        for name, (image, label) in source.files.items():
            _copy(image, root / f"{name}{image_end}{NII}")
            _copy(label, root / f"{name}{label_end}{NII}")

    return make


def _flat_channels(source: Source, root: Path) -> None:
    _flat("_t1", "_label")(source, root)
    _flat("_t2", "_label")(source, root)


def _no_json(source: Source, root: Path) -> None:
    for name, (image, label) in source.files.items():
        _copy(image, root / "imagesTr" / f"{name}{NII}")
        _copy(label, root / "labelsTr" / f"{name}{NII}")


def _no_json_with_tests(source: Source, root: Path) -> None:
    _no_json(source, root)
    first = next(iter(source.files))
    (root / "imagesTs").mkdir()
    (root / "imagesTr" / f"{first}{NII}").rename(root / "imagesTs" / f"{first}{NII}")
    (root / "labelsTr" / f"{first}{NII}").unlink()


def _msd_with_tests(source: Source, root: Path) -> None:
    _no_json_with_tests(source, root)
    first, *others = (f"{name}{NII}" for name in source.files)
    training = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in others]
    facts = {**source.facts, "training": training, "test": [f"./imagesTs/{first}"]}
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")


def _archive(source: Source, root: Path) -> Path:
    path = root / "Task04.tar"
    with tarfile.open(path, "w") as archive:
        for image, _ in source.files.values():
            archive.add(image, f"Task04/imagesTr/{image.name}")
    return path


def _zip(source: Source, root: Path) -> None:
    _no_json(source, root / "data")
    shutil.make_archive(str(root / "scans"), "zip", root / "data")
    shutil.rmtree(root / "data")


def _with_values(values: dict[int, int]) -> Callable[[Source, Path], None]:
    def make(source: Source, root: Path) -> None:
        _flat("_image", "_gt")(source, root)
        for path in root.glob(f"*_gt{NII}"):
            label = nibabel.load(path)
            old = np.asarray(label.dataobj)
            new = np.zeros(old.shape, np.uint8)
            for before, after in values.items():
                new[old == before] = after
            nibabel.save(nibabel.Nifti1Image(new, label.affine), path)

    return make


def _slices(first: int, last: int) -> Callable[[Source, Path], None]:
    """Keep the axial slices from `first` to `last`, counted from the middle one."""

    def make(source: Source, root: Path) -> None:
        _flat("", "_seg")(source, root)
        for path in root.glob(f"*{NII}"):
            volume = nibabel.as_closest_canonical(nibabel.load(path))
            middle = volume.shape[2] // 2
            array = np.asarray(volume.dataobj)[:, :, middle + first : middle + last]
            nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), volume.affine), path)

    return make


MAKERS: dict[str, Callable[[Source, Path], Path | None]] = {
    "patients": _patients,
    "patients_by_name": _patients_by_name,
    "visits": _visits,
    "bids": _bids,
    "bids_sessions": _bids_sessions,
    "flat": _flat("_img", "_seg"),
    "flat_bare": _flat("", "_mask"),
    "flat_channels": _flat_channels,
    "no_json": _no_json,
    "no_json_tests": _no_json_with_tests,
    "msd_tests": _msd_with_tests,
    "archive": _archive,
    "zip": _zip,
    "values_255": _with_values({1: 255, 2: 255, 3: 255}),
    "values_4_7": _with_values({1: 4, 2: 7, 3: 7}),
    "few_slices": _slices(-1, 2),
    "one_slice": _slices(0, 1),
}


def main() -> None:
    """Write each layout into a folder, and print the paths."""
    parser = argparse.ArgumentParser(prog="python -m tests.make_layouts", description=__doc__)
    parser.add_argument("source", type=Path, help="a Decathlon folder, e.g. of python -m data.synthetic.phantoms")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=6)
    options = parser.parse_args()
    for name in MAKERS:
        print(make_layout(name, options.source, options.folder, options.cases))


if __name__ == "__main__":
    main()

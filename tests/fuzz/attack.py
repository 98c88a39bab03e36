"""Read damaged files as the scripts do, in a process that may be killed.

python -m tests.fuzz.attack KIND[,KIND ...] FIRST LAST

Prints two lines of JSON for each example: its kind and number, and then with them what came of it.

right       read, and as nibabel or NumPy read it where these do
refused     by a ValueError in one line, with the file's name
unforeseen  refused by the boundary of last resort, `data.files.errors.fault_of`
wrong       read, but otherwise than nibabel or NumPy do
traceback   anything else
"""

import json
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from configs import Config
from data.dataset import open_data
from data.files import clips
from data.files.volumes import read_header, read_image, read_label
from engine.config import config_class
from machine import disk
from planning.layout.recognise import read_settings
from planning.survey.survey import take_survey
from tests.data.clip_files import numbered, write_clip
from tests.data.write_layouts import write_folders
from tests.fuzz.mutations import (
    damage_bytes,
    damage_json,
    damage_nifti,
    damage_npz,
    damage_packed,
    damage_table,
    damage_text,
)

MEMORY_BYTES = 4 << 30  # of address space beyond what the process has when it begins


class Outcome(NamedTuple):
    """What came of an example."""

    result: str
    said: str = ""


class Kind(NamedTuple):
    """A kind of example: `write` a sound data set, `damage` one of the `files` in it, `check` how that is read.

    `check` returns whether the file by itself is read right; None where it is read with the data set alone.
    """

    write: Callable[[Path], Path]
    files: str
    damage: Callable[[np.random.Generator, bytes], bytes]
    check: Callable[[Path], bool] | None = None


def write_pairs(root: Path, kind: type | None, ending: str) -> Path:
    """images/ and labels/ of three cases, of another kind of file."""
    write_folders(root, 3)
    for path in sorted(root.glob("*/*.nii.gz")) if ending != ".nii.gz" else []:
        image = nibabel.load(path)
        target = path.with_name(path.name.replace(".nii.gz", ending))
        if ending in (".npy", ".npz"):
            values = np.asarray(image.dataobj).T
            arrays = {"v": values} if ending == ".npy" else {"v": values, "spacing_mm": np.ones(3)}
            np.save(target, values) if ending == ".npy" else np.savez_compressed(target, **arrays)
        elif kind is None:
            import SimpleITK

            SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(target), ending in (".nrrd", ".mha"))
        else:
            nibabel.save(kind(np.asarray(image.dataobj), image.affine), target)
        path.unlink()
    return root


def write_dicom(root: Path, syntax: str | None = None) -> Path:
    """images/ of three folders of DICOM slices, of multi-frame files where `syntax` is None, and labels/ in NIfTI."""
    from tests.data.dicom_files import pydicom, write_enhanced, write_series

    def change(k: int, slice_: Any) -> None:
        if syntax == "RLELossless":
            slice_.compress(pydicom.uid.RLELossless)
        slice_.file_meta.TransferSyntaxUID = getattr(pydicom.uid, str(syntax))

    (root / "labels").mkdir(parents=True)
    for case in range(3):
        values = np.random.default_rng(case).integers(0, 900, (8, 8, 10)).astype(np.int16)
        folder = root / "images" / f"case{case}"
        _ = write_enhanced(folder, values) if syntax is None else write_series(folder, values, change=change)
        label = np.zeros((10, 8, 8), np.uint8)
        label[4:8, 3:6, 2:4] = 1
        affine = read_header(folder).source.affine
        nibabel.save(nibabel.Nifti1Image(label, affine), root / "labels" / f"case{case}.nii.gz")
    return root


def write_table(root: Path) -> Path:
    """A table beside the volumes, of all the columns there are."""
    write_folders(root, 3)
    rows = [f"images/case{n}.nii.gz,labels/case{n}.nii.gz,c{n},train,g{n}" for n in range(3)]
    (root / "table.csv").write_text("\n".join(["image,label,id,split,group", *rows]) + "\n")
    return root / "table.csv"


def write_msd(root: Path) -> Path:
    """A Decathlon folder."""
    write_folders(root, 3)
    listed = [{"image": f"./images/case{n}.nii.gz", "label": f"./labels/case{n}.nii.gz"} for n in range(3)]
    names = {"labels": {"0": "background", "1": "box"}, "modality": {"0": "CT"}}
    (root / "dataset.json").write_text(json.dumps({**names, "training": listed, "test": []}))
    return root


def write_nnunet(root: Path) -> Path:
    """An nnU-Net folder."""
    write_folders(root, 3)
    (root / "images").rename(root / "imagesTr")
    (root / "labels").rename(root / "labelsTr")
    for path in list((root / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    labels = {"background": 0, "box": 1, "ignore": 2}
    facts = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 3}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def write_archive(root: Path) -> Path:
    """A MedMNIST archive."""
    root.mkdir()
    rng, arrays = np.random.default_rng(0), {}
    for split in ("train", "val"):
        arrays[f"{split}_images"] = rng.integers(0, 255, (6, 8, 8, 8)).astype(np.uint8)
        arrays[f"{split}_labels"] = (np.arange(6) % 2)[:, None].astype(np.uint8)
    np.savez_compressed(root / "set.npz", **arrays)
    return root / "set.npz"


def write_clips(root: Path, ending: str, codec: str) -> Path:
    """Two classes of two clips."""
    for number, name in enumerate(("up", "down")):
        (root / name).mkdir(parents=True)
        for length in (6, 7):
            frames = numbered(length)[:: 1 - 2 * number]
            write_clip(root / name / f"{name}{length}{ending}", frames, codec=codec)
    return root


def as_nibabel(path: Path) -> bool:
    """Whether the image, or the label, is read as nibabel reads it; True where nibabel does not."""
    read = read_label if "labels" in path.parent.name else read_image
    values, grid, _ = read(path)
    try:
        image = nibabel.load(path)
        if path.suffix != ".hdr" and image.dataobj.offset < image.header.sizeof_hdr:
            return True  # nibabel takes the header for voxels
        expected = np.asarray(nibabel.as_closest_canonical(image).dataobj, dtype=np.float64)
    except Exception:
        return True
    expected = expected.reshape(*expected.shape[:3], -1)
    if read is read_label:
        expected, values = np.rint(expected), values[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        alike = np.array_equal(values, expected.transpose(2, 1, 0, 3).astype(np.float32), equal_nan=True)
    return alike and grid.shape == expected.shape[2::-1]


def as_itk(path: Path) -> bool:
    """Whether the image, or the label, is read as SimpleITK reads it; True where SimpleITK does not."""
    import SimpleITK

    values, _, source = (read_label if "labels" in path.parent.name else read_image)(path)
    try:
        expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    except Exception:
        return True
    expected = (
        np.moveaxis(expected, 0, -1) if expected.ndim == 4 and expected.shape[0] == values.shape[-1] else expected
    )
    stored = source.orientation.from_dhw(values).swapaxes(0, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array_equal(stored.reshape(expected.shape), expected.astype(np.float32), equal_nan=True)


def as_numpy(path: Path) -> bool:
    """Whether the array is read as NumPy reads it; True where NumPy does not."""
    read = read_label if "labels" in path.parent.name else read_image
    values = read(path)[0]
    try:
        loaded = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            (name,) = (key for key in loaded.files if key not in ("spacing_mm", "affine"))
            if "affine" in loaded.files:
                return True  # turned to RAS+
            loaded = loaded[name]
    except Exception:
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array_equal(values.reshape(loaded.shape), loaded.astype(np.float32), equal_nan=True)


def as_video(path: Path) -> bool:
    """Whether header and frames agree."""
    header, footage = clips.read_header(path), clips.read_clip(path, 16)
    assert footage.frames is not None
    steps = np.diff(footage.times_s)
    return header.width > 0 and len(footage.frames) == len(footage.times_s) and bool((steps >= -1e-4).all())


def _pairs(kind: type | None, ending: str) -> Callable[[Path], Path]:
    return partial(write_pairs, kind=kind, ending=ending)


def _clips(ending: str, codec: str) -> Callable[[Path], Path]:
    return partial(write_clips, ending=ending, codec=codec)


KINDS = {
    "nifti1": Kind(_pairs(nibabel.Nifti1Image, ".nii"), "*/case0.nii", damage_nifti, as_nibabel),
    "nifti1_gz": Kind(_pairs(nibabel.Nifti1Image, ".nii.gz"), "*/case0.nii.gz", damage_nifti, as_nibabel),
    "nifti2": Kind(_pairs(nibabel.Nifti2Image, ".nii"), "*/case0.nii", damage_nifti, as_nibabel),
    "pair": Kind(_pairs(nibabel.Nifti1Pair, ".img"), "*/case0.hdr", damage_nifti, as_nibabel),
    "analyze": Kind(_pairs(nibabel.Spm2AnalyzeImage, ".img"), "*/case0.hdr", damage_nifti),
    "mgh": Kind(_pairs(nibabel.MGHImage, ".mgh"), "*/case0.mgh", partial(damage_bytes, head=90), as_nibabel),
    "mgz": Kind(_pairs(nibabel.MGHImage, ".mgz"), "*/case0.mgz", damage_packed, as_nibabel),
    "npy": Kind(_pairs(type(None), ".npy"), "*/case0.npy", damage_bytes, as_numpy),
    "npz": Kind(_pairs(type(None), ".npz"), "*/case0.npz", damage_npz, as_numpy),
    "medmnist": Kind(write_archive, "set.npz", damage_npz),
    "msd": Kind(write_msd, "dataset.json", damage_json),
    "nnunet": Kind(write_nnunet, "dataset.json", damage_json),
    "csv": Kind(write_table, "table.csv", damage_table),
    "mp4": Kind(_clips(".mp4", "libx264"), "up/up6.mp4", damage_bytes, as_video),
    "avi": Kind(_clips(".avi", "mpeg4"), "up/up6.avi", damage_bytes, as_video),
    "mkv": Kind(_clips(".mkv", "libx264"), "up/up6.mkv", damage_bytes, as_video),
}
if find_spec("pydicom") is not None:
    for _name, _syntax in (
        ("dicom", "ExplicitVRLittleEndian"),
        ("dicom_rle", "RLELossless"),
        ("dicom_deflated", "DeflatedExplicitVRLittleEndian"),
        ("dicom_frames", None),
    ):
        _write = partial(write_dicom, syntax=_syntax)
        KINDS[_name] = Kind(_write, "images/case0/*.dcm", partial(damage_bytes, head=1200))
if find_spec("SimpleITK") is not None:
    for _ending in (".nrrd", ".nhdr", ".mha", ".mhd"):
        KINDS[_ending[1:]] = Kind(_pairs(None, _ending), f"*/case0{_ending}", damage_text, as_itk)


def build(survey_config: Config, cache: Path) -> None:
    """Build the data set that a survey's config names, without the cases that are bad, and prepare it."""
    data = survey_config.data.model_dump()
    data |= {"on_error": "skip", "cache": {"folder": cache}, "split": {"folds": 2}}
    if survey_config.task == "segmentation" and survey_config.data.source in ("folders", "csv"):
        data["class_names"] = ["background", "box"]
    if survey_config.data.clip is not None:
        data["clip"] = {"frames": 2, "short_side_pixels": 16, "crop_pixels": (16, 16)}
    model = {"name": "cnn3d" if survey_config.task == "classification" else "unet3d"}
    loss = {"ignore_label": survey_config.loss.ignore_label} if survey_config.task == "segmentation" else {}
    tree = {"name": "t", "task": survey_config.task, "data": data, "model": model, "loss": loss}
    config = config_class().model_validate({**tree, "train": {"steps": 1, "batch_size": 1}})
    open_data(config).prepare_all()


def attack(kind: Kind, seed: int, folder: Path, root: Path) -> Outcome:
    """Damage a file below `folder` by a seed, and read it: by itself, in a survey, and in a data set that is built.

    root: the data set, as `write` returned it.
    """
    rng = np.random.default_rng(seed)
    files = sorted((folder / "data").glob(kind.files))
    path = files[int(rng.integers(len(files)))]
    path.write_bytes(kind.damage(rng, path.read_bytes()))
    check = kind.check
    outcomes = [] if check is None else [judge(lambda: check(path), path)]
    outcomes.append(judge(lambda: survey_of(root), path))
    outcomes.append(judge(lambda: build(read_settings(root), folder / "cache"), path))
    bad = [outcome for outcome in outcomes if outcome.result not in ("right", "refused")]
    return (bad or outcomes)[0]


def survey_of(root: Path) -> bool:
    """Take a survey; raises what its problems say of the damaged file."""
    survey = take_survey(read_settings(root), threads=1)
    for problem in survey.problems:
        raise ValueError(f"{problem.path}: {problem.reason}")
    return True


def judge(read: Callable[[], bool | None], path: Path) -> Outcome:
    """What came of reading."""
    try:
        return Outcome("wrong" if read() is False else "right")
    except ValueError as error:
        said = str(error)
        named = any(name in said for name in (path.name, path.stem, str(path.parent), "data.", "case", "/etc/passwd"))
        if "cannot be read (" in said and "Error" in said.partition("cannot be read (")[2].split(":")[0]:
            return Outcome("unforeseen", said)
        return Outcome("refused", said) if named else Outcome("traceback", f"without the file's name: {said}")
    except BaseException:
        return Outcome("traceback", traceback.format_exc()[-3000:])


def main(arguments: Sequence[str]) -> None:
    names, first, last = arguments[0].split(","), int(arguments[1]), int(arguments[2])
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    warnings.simplefilter("error")
    disk.flush = lambda descriptor: None  # nothing here need reach the disk
    for name in names:
        with tempfile.TemporaryDirectory() as sound, tempfile.TemporaryDirectory() as damaged:
            root = KINDS[name].write(Path(sound) / "data").relative_to(sound)
            for number in range(first, last):
                about = {"kind": name, "number": number}
                print(json.dumps(about), flush=True)
                folder = Path(damaged) / str(number)
                shutil.copytree(sound, folder)
                outcome = attack(KINDS[name], number, folder, folder / root)
                print(json.dumps(about | outcome._asdict()), flush=True)
                shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])

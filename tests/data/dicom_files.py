"""DICOM series written for tests: classic slices, and enhanced multi-frame files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom: pip install -e '.[formats]'")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

SPACING_MM = (2.5, 0.75, 0.5)  # between slices, rows, columns
ORIGIN = (-30.5, 12.25, 7.0)
AXIAL = np.eye(3)


def turned(degrees: float) -> np.ndarray:
    """Row and column directions and the normal (3, 3), turned about two axes."""
    a, b = np.deg2rad(degrees), np.deg2rad(degrees / 2)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turn: np.ndarray = (about_z @ about_x).T
    return turn


def voxels(shape: tuple[int, int, int] = (5, 6, 7), dtype: str = "int16", seed: int = 0) -> np.ndarray:
    """Random values of 12 bits (k, j, i)."""
    low = -2048 if dtype == "int16" else 0
    return np.random.default_rng(seed).integers(low, 2047, shape).astype(dtype)


def moved(number: int, mm: float, axis: int = 2) -> Callable[[int, Dataset], None]:
    """Move a slice, or, where number is negative, each by as much more than the one before."""

    def change(k: int, slice_: Dataset) -> None:
        place = [float(value) for value in slice_.ImagePositionPatient]
        place[axis] += mm * (k if number < 0 else k == number)
        slice_.ImagePositionPatient = place

    return change


def write_series(
    folder: Path,
    volume: np.ndarray,
    directions: np.ndarray = AXIAL,
    change: Callable[[int, Dataset], None] = lambda k, slice_: None,
    uid: str | None = None,
    description: str = "T1 ax",
    name: Callable[[int], str] = lambda k: f"IM{(k * 7) % 101:04d}.dcm",
) -> Path:
    """Write slices (k, j, i) as a file each, in shuffled names; `change` edits slice k before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or str(generate_uid())
    normal = np.cross(directions[0], directions[1])
    for k, plane in enumerate(volume):
        slice_ = _image(plane, CTImageStorage, uid, description)
        slice_.InstanceNumber = k + 1
        slice_.ImagePositionPatient = _texts(np.array(ORIGIN) + normal * SPACING_MM[0] * k)
        slice_.ImageOrientationPatient = _texts(directions[:2].ravel())
        slice_.PixelSpacing = list(SPACING_MM[1:])
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
        change(k, slice_)
        slice_.save_as(folder / name(k), enforce_file_format=True)
    return folder


def write_enhanced(folder: Path, volume: np.ndarray, directions: np.ndarray = AXIAL) -> Path:
    """Write slices (k, j, i) as one multi-frame file, its frames in reverse order."""
    folder.mkdir(parents=True, exist_ok=True)
    file = _image(volume[::-1], EnhancedCTImageStorage, str(generate_uid()), "enhanced")
    file.NumberOfFrames = len(volume)
    file.SharedFunctionalGroupsSequence = [
        _dataset(
            PlaneOrientationSequence=[_dataset(ImageOrientationPatient=_texts(directions[:2].ravel()))],
            PixelMeasuresSequence=[_dataset(PixelSpacing=list(SPACING_MM[1:]))],
            PixelValueTransformationSequence=[_dataset(RescaleSlope=2, RescaleIntercept=-10)],
        )
    ]
    normal = np.cross(directions[0], directions[1])
    places = [np.array(ORIGIN) + normal * SPACING_MM[0] * k for k in reversed(range(len(volume)))]
    file.PerFrameFunctionalGroupsSequence = [
        _dataset(PlanePositionSequence=[_dataset(ImagePositionPatient=_texts(place))]) for place in places
    ]
    file.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    return folder


def write_object(path: Path, modality: str) -> Path:
    """Write a DICOM file without an image, as RTSTRUCT is."""
    file = _file(CTImageStorage, str(generate_uid()))
    file.Modality = modality
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def _image(pixels: np.ndarray, kind: str, uid: str, description: str) -> FileDataset:
    file = _file(kind, uid)
    file.Modality, file.SeriesDescription = "CT", description
    file.Rows, file.Columns = pixels.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = pixels.dtype.itemsize * 8
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = np.ascontiguousarray(pixels).tobytes()
    return file


def _file(kind: str, uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID, file.SeriesInstanceUID = kind, meta.MediaStorageSOPInstanceUID, uid
    file.StudyInstanceUID, file.PatientID = "1.2.3", "nobody"
    return file


def _dataset(**elements: Any) -> Dataset:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def _texts(numbers: np.ndarray) -> list[str]:
    """Numbers as decimal strings, of 16 characters at most."""
    return [f"{number:.10f}"[:16] for number in numbers]

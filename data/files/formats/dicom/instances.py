"""What the files of a folder say of themselves: headers by pydicom, grouped into series; no voxel is read."""

import functools
import io
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from data.files.errors import INSTALL, RESTORE, FileProblem, damage_of, readable_size
from data.files.formats.dicom.folder import SUFFIXES, is_dicom, walk
from data.files.gzip import MAX_DEFLATE_RATIO, open_file, too_short

Value = TypeVar("Value")
NO_IMAGES = {  # by modality: what else lies beside images, and what makes a volume of it
    "SEG": "convert it with segimage2itkimage of dcmqi, and name the NIfTI file as the label",
    "RTSTRUCT": "convert it with dcmrtstruct2nii, and name the NIfTI file as the label",
    "RTDOSE": "convert it with SimpleITK or 3D Slicer",
}
_DEFLATED, _PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1"
_HEADER_BYTES = 16 << 20  # more than a deflated file's header ever takes
_SAID = 120  # letters of what pydicom says
_TAGS = (
    "SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesDescription", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slice:
    """A frame of a file: where its first voxel's centre lies, in mm in LPS, and what its stored values stand for."""

    path: Path
    frame: int
    position: tuple[float, ...]
    along: tuple[float, ...]  # unit vectors along a row, where columns count, and along a column
    spacing_mm: tuple[float, ...]  # between rows, between columns
    scale: tuple[float, ...]  # slope and intercept


@dataclass(frozen=True, slots=True)
class Instance:
    """A file with an image. `problem` is what keeps it from being a part of a volume; it has no slices then."""

    path: Path
    uid: str  # of its series
    description: str
    modality: str
    size: tuple[int, int]  # rows, columns
    dtype: np.dtype
    bits: tuple[int, int]  # stored, and the highest one's number
    syntax: str
    slices: tuple[Slice, ...]
    problem: FileProblem | None = None


@dataclass(frozen=True)
class Series:
    """Images of one SeriesInstanceUID that lie in one folder."""

    instances: tuple[Instance, ...]

    @property
    def uid(self) -> str:
        return self.instances[0].uid

    @property
    def description(self) -> str:
        return self.instances[0].description

    @property
    def num_slices(self) -> int:
        return sum(max(1, len(instance.slices)) for instance in self.instances)

    def __str__(self) -> str:
        return f"{self.description!r} (…{self.uid[-12:]}, {self.num_slices} slice{'s' * (self.num_slices != 1)})"


@dataclass(frozen=True)
class Contents:
    """What lies at a path. `others` counts what is no image: by modality, and files that are no DICOM."""

    series: tuple[Series, ...]
    others: Counter[str]


def read_contents(path: Path) -> Contents:
    """Return the series at or below a folder; of a file that which it belongs to. Raises FileProblem."""
    found: dict[tuple[Path, str], list[Instance]] = {}
    others: Counter[str] = Counter()
    for file in walk(path):
        instance = _read_instance(file) if is_dicom(file) else "no DICOM"
        if isinstance(instance, str):
            others[instance] += 1
        else:
            found.setdefault((file.parent, instance.uid), []).append(instance)
    series = [Series(tuple(instances)) for instances in found.values()]
    if not path.is_dir():
        series = [each for each in series if any(instance.path == path for instance in each.instances)]
        others = others if series else Counter([_modality(path)])
    return Contents(tuple(series), others)


@contextmanager
def open_plain(path: Path, most_bytes: int) -> Iterator[BinaryIO]:
    """Open a file, a deflated one inflated up to `most_bytes`: pydicom would inflate all that it holds."""
    with open_file(path) as file:
        head = file.read(144)
        meta = head + file.read(int.from_bytes(head[140:144], "little") if head[128:136] == b"DICM\2\0\0\0" else 0)
        if _DEFLATED not in meta:
            file.seek(0)
            yield file
            return
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), most_bytes)
    yield io.BytesIO(meta.replace(_DEFLATED, _PLAIN.ljust(len(_DEFLATED), b"\0")) + inflated)


def damaged(path: Path) -> AbstractContextManager[None]:
    """Say that the file is damaged, whatever pydicom, which parses as it goes, raises of it."""
    return damage_of(path, "damaged DICOM", _SAID)


def _read_dataset(path: Path) -> Any:
    try:
        import pydicom
    except ImportError:
        raise FileProblem(path, "DICOM, for which pydicom is missing", INSTALL) from None
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    with open_plain(path, _HEADER_BYTES) as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
        if isinstance(file, io.BytesIO):
            dataset.file_meta.TransferSyntaxUID = _DEFLATED.decode()
        return dataset


def _modality(path: Path) -> str:
    with damaged(path):
        return str(_read_dataset(path).get("Modality", ""))


def _read_instance(path: Path) -> Instance | str:
    """Return what a file holds; of one without an image its modality."""
    with damaged(path):
        dataset = _read_dataset(path)
        modality = str(dataset.get("Modality", ""))
        if "SOPClassUID" not in dataset and "Rows" not in dataset:
            raise FileProblem(path, f"not a DICOM file, though named {'/'.join(SUFFIXES)}", RESTORE)
        if modality in NO_IMAGES or "Rows" not in dataset:
            return modality or "other"
        return _as_instance(path, dataset, modality)


def _as_instance(path: Path, dataset: Any, modality: str) -> Instance:
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) or _guessed_syntax(dataset)
    bits, signed = int(dataset.get("BitsAllocated", 16)), int(dataset.get("PixelRepresentation", 0) or 0)
    stored = int(dataset.get("BitsStored", bits) or bits)
    problem: FileProblem | None = None
    slices: tuple[Slice, ...] = ()
    try:
        _check_image(path, dataset, bits, stored, syntax)
        slices = tuple(_slices(path, dataset))
    except FileProblem as found:
        problem = found
    return Instance(
        path,
        _shared(str(dataset.get("SeriesInstanceUID", ""))),
        _shared(str(dataset.get("SeriesDescription", ""))),
        _shared(modality),
        _shared((int(dataset.Rows), int(dataset.get("Columns", 0)))),
        np.dtype(f"{'i' if signed else 'u'}{bits // 8 if bits in (8, 16, 32) else 2}"),
        _shared((stored, int(dataset.get("HighBit", stored - 1) or 0))),
        _shared(syntax),
        slices,
        problem,
    )


def _check_image(path: Path, dataset: Any, bits: int, stored: int, syntax: str) -> None:
    """Raise FileProblem for colours, for what is no integer, and for a size that the file cannot hold."""
    photometric, samples = str(dataset.get("PhotometricInterpretation", "")), int(dataset.get("SamplesPerPixel", 1))
    if samples != 1 or photometric not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise FileProblem(path, f"a colour image ({photometric}), expected grey values", "leave the series out")
    if bits not in (8, 16, 32) or not 1 <= stored <= bits or dataset.get("PixelRepresentation") is None:
        reason = f"pixels of {bits} bits, {stored} of them used, expected whole numbers of 8, 16 or 32"
        raise FileProblem(path, reason, "convert it to NIfTI with dcm2niix")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    promised, size = int(dataset.Rows) * int(dataset.get("Columns", 0)) * frames * bits // 8, path.stat().st_size
    if promised <= 0:
        raise FileProblem(path, f"an image of {dataset.Rows} × {dataset.get('Columns', 0)} pixels", RESTORE)
    if is_packed(syntax) or syntax.encode() == _DEFLATED:
        if promised > MAX_DEFLATE_RATIO * size:
            reason = f"header promises {readable_size(promised)}, more than {readable_size(size)} can hold"
            raise FileProblem(path, reason, RESTORE)
    elif promised > size:
        raise too_short(path, promised, size)


def is_packed(syntax: str) -> bool:
    """Return whether a transfer syntax holds compressed pixels: RLE, JPEG and its kin."""
    return syntax.startswith("1.2.840.10008.1.2.") and syntax not in (
        _PLAIN.decode(), _DEFLATED.decode(), "1.2.840.10008.1.2.2",
    )  # fmt: skip


def _guessed_syntax(dataset: Any) -> str:
    """Return the transfer syntax of a file that does not name it."""
    is_implicit, is_little = dataset.original_encoding
    return "1.2.840.10008.1.2" if is_implicit else _PLAIN.decode() if is_little else "1.2.840.10008.1.2.2"


def _slices(path: Path, dataset: Any) -> Iterator[Slice]:
    """Yield a file's frames: itself, or those of an enhanced multi-frame one."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
            reason = "several frames in a file that says of none where it lies"
            raise FileProblem(path, reason, "convert it to NIfTI with dcm2niix, or leave the series out")
        yield _slice(path, 0, [dataset])
        return
    if len(frames) != (expected := int(dataset.get("NumberOfFrames", 1) or 1)):
        raise FileProblem(path, f"{len(frames)} frames described, {expected} promised", RESTORE)
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])
    for number, frame in enumerate(frames):
        groups = [frame, *shared]
        names = ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation")
        sequences = [group.get(f"{name}Sequence") for name in names for group in groups]
        yield _slice(path, number, [sequence[0] for sequence in sequences if sequence] + [dataset])


def _slice(path: Path, frame: int, groups: Sequence[Any]) -> Slice:
    def numbers(name: str, count: int, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        value = next((group.get(name) for group in groups if group.get(name) is not None), None)
        if value is None and default is not None:
            return default
        found = tuple(map(float, value if count > 1 else [value])) if value is not None and value != "" else ()
        if len(found) != count or not all(map(math.isfinite, found)):
            said = "no" if not found else f"an {list(found)} as"
            reason = f"{said} {name}, without which its place is unknown" if default is None else f"{said} {name}"
            raise FileProblem(path, reason, "leave the series out, or export it again with its geometry")
        return found

    scale = (*numbers("RescaleSlope", 1, (1.0,)), *numbers("RescaleIntercept", 1, (0.0,)))
    position, along = numbers("ImagePositionPatient", 3), numbers("ImageOrientationPatient", 6)
    return Slice(path, frame, position, _shared(along), _shared(numbers("PixelSpacing", 2)), _shared(scale))


@functools.lru_cache(4096)
def _shared(value: Value) -> Value:
    """Return an equal value that was seen before, if any: slices are many, and alike."""
    return value

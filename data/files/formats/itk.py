"""NRRD and MetaImage: geometry and voxels by SimpleITK, once the header's promises are checked against the file.

ITK's millimetres are in LPS+ and become RAS+ here. A header that names no space is taken for LPS+, as ITK does.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.files.errors import INSTALL, RESTORE, FileProblem, readable_size
from data.files.grid import Source
from data.files.gzip import MAX_DEFLATE_RATIO, PIECE_BYTES, inflated, open_file, size_problem, too_long, too_short
from data.files.header import CONVERT, Header, affine_problem, split_channels
from machine.disk import CannotWrite

NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
HEADER_BYTES = 1 << 18  # of text; the voxels begin before that
LPS = np.diag([-1.0, -1.0, 1.0])  # to RAS+, and back
MM_PER_UNIT = {
    "m": 1e3, "cm": 10.0, "um": 1e-3, "µm": 1e-3, "nm": 1e-6, "meters": 1e3, "centimeters": 10.0, "micrometers": 1e-3,
    "microns": 1e-3, "nanometers": 1e-6,
}  # fmt: skip  # all else is taken as mm
SCALARS = ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64", "Float32", "Float64")


@dataclass(frozen=True)
class Content:
    """Where a file's voxels lie: in which file, from which byte on, and whether they are packed by zlib or gzip there.

    `start` is -1 where they are the last bytes of the file. `packed_bytes` is what they take, where the header says.
    """

    path: Path
    start: int
    packed: bool
    packed_bytes: int = 0
    mm_per_unit: tuple[float, ...] = (1.0, 1.0, 1.0)  # along ITK's x, y and z


def read_itk_header(path: Path) -> Header:
    """Return the header of an NRRD or MetaImage file; raises FileProblem where there is none to be had."""
    content = _locate(path)
    reader = _reader(path)
    with _faults_of(path):
        reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    shape, channels = split_channels(path, (*size, components) if components > 1 else size)
    dtype = _dtypes().get(reader.GetPixelID())
    if dtype is None:
        raise FileProblem(path, "voxels that are no scalars", CONVERT)
    direction = np.array(reader.GetDirection()).reshape(len(size), len(size))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = LPS @ direction @ np.diag(reader.GetSpacing()[:3])
    affine[:3, 3] = LPS @ reader.GetOrigin()[:3]
    affine[:3] *= np.array(content.mm_per_unit)[:, None]
    if (problem := affine_problem(path, affine)) is not None:
        raise problem
    source = Source(path, "itk", shape, affine)
    header = Header(source, channels, dtype, 1.0, 0.0, content.path, 0, ())
    found = _size_problem(content, header.num_bytes)
    return replace(header, problems=() if found is None else (found,))


def read_voxels(header: Header) -> np.ndarray:
    """Return the voxels (i, j, k, C) in the file's axes. Raises FileProblem where they are damaged."""
    _check_packed(_locate(header.path), header.num_bytes)  # ITK takes some damaged files for sound
    reader = _reader(header.path)
    with _faults_of(header.path):
        image = reader.Execute()
    values = _library().GetArrayFromImage(image)  # (k, j, i), (k, j, i, C) of vectors, or (C, k, j, i)
    has_channels_first = image.GetDimension() == 4
    del image  # which is held twice otherwise
    if has_channels_first:
        values = np.moveaxis(values, 0, -1)
    return values.reshape(*header.source.shape[::-1], header.channels).transpose(2, 1, 0, 3)


def write(path: Path, source: Source, values: np.ndarray) -> None:
    """Write (i, j, k[, C]) values, in the source file's axes, to an .nrrd or .mha file, packed."""
    library, several = _library(), values.ndim == 4
    image = library.GetImageFromArray(values.transpose(2, 1, 0, *range(3, values.ndim)), isVector=several)
    edges = LPS @ source.affine[:3, :3]
    lengths = np.linalg.norm(edges, axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetDirection((edges / lengths).ravel().tolist())
    image.SetOrigin((LPS @ source.affine[:3, 3]).tolist())
    try:
        library.WriteImage(image, str(path), True)
    except RuntimeError as error:
        said = f"{path.parent}: a volume cannot be written ({_last_line(error)})"
        raise CannotWrite(f"{said}; free some space on its disk, or write elsewhere") from None


def list_parts(path: Path) -> list[Path]:
    """Return the header, and the file of its voxels where that is another one."""
    try:
        return list(dict.fromkeys([path, _locate(path).path]))
    except FileProblem:  # which reading the file tells of
        return [path]


def _locate(path: Path) -> Content:
    with open_file(path) as file:
        head = file.read(HEADER_BYTES)
    return (_locate_nrrd if path.name.lower().endswith(NRRD_SUFFIXES) else _locate_meta)(path, head)


def _locate_nrrd(path: Path, head: bytes) -> Content:
    """Where an NRRD's voxels lie: https://teem.sourceforge.net/nrrd/format.html."""
    if not head.startswith(b"NRRD000"):
        raise FileProblem(path, f"not an NRRD file (it starts with {head[:8]!r})", RESTORE)
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start() if end else len(head)].decode("utf-8", "replace")
    pairs = [line.partition(":") for line in text.splitlines()[1:] if not line.startswith("#")]
    fields = {key.lower().replace(" ", ""): value.strip() for key, _, value in pairs if not value.startswith("=")}
    kinds, encoding = fields.get("kinds", "").lower(), fields.get("encoding", "").lower()
    for kind, what in (("color", "RGB"), ("complex", "complex")):
        if kind in kinds:
            raise FileProblem(path, f"{what} data (kinds: {kinds}), expected scalars", CONVERT)
    if not kinds and "none" in fields.get("spacedirections", ""):
        fix = "name each axis, as in kinds: list domain domain domain"
        raise FileProblem(path, "an axis without direction (none), and no kinds that say what it is", fix)
    if encoding not in ("raw", "gzip", "gz"):
        raise FileProblem(path, f"NRRD encoding {encoding!r}", "save it with the encoding raw or gzip")
    packed, name = encoding != "raw", fields.get("datafile")
    if name is None and end is None:
        raise FileProblem(path, "truncated: its header has no end", RESTORE)
    voxels = path if name is None else _beside(path, name)
    if fields.get("lineskip", "0") != "0":
        raise FileProblem(path, f"NRRD with line skip {fields['lineskip']}", "save it without")
    skip = _whole(path, "byte skip", fields.get("byteskip", "0"))
    if packed and skip:
        raise FileProblem(path, f"NRRD with byte skip {skip} of packed voxels", "save it without")
    start = -1 if skip < 0 else skip + (end.end() if end and name is None else 0)
    units = tuple(MM_PER_UNIT.get(unit.lower(), 1.0) for unit in re.findall('"([^"]*)"', fields.get("spaceunits", "")))
    return Content(voxels, start, packed, mm_per_unit=(*units[:3], 1.0, 1.0, 1.0)[:3])


def _locate_meta(path: Path, head: bytes) -> Content:
    """Where a MetaImage's voxels lie: https://itk.org/Wiki/ITK/MetaIO/Documentation."""
    end = re.search(rb"(?m)^[ \t]*ElementDataFile[ \t]*[=:]([^\n]*)(\n|\Z)", head)
    if end is None:
        raise FileProblem(path, "not a MetaImage file (no ElementDataFile)", RESTORE)
    lines = head[: end.start()].decode("utf-8", "replace").splitlines()
    pairs = [re.split("[=:]", line, maxsplit=1) for line in lines if re.search("[=:]", line)]
    fields = {key.strip(): value.strip() for key, value in pairs}
    name = end[1].decode("utf-8", "replace").strip()
    _check_meta(path, fields)
    packed, is_local = _is_true(fields.get("CompressedData", "")), name.upper() == "LOCAL"
    skip = _whole(path, "HeaderSize", fields.get("HeaderSize", "0"))
    start = -1 if skip < 0 and not packed else end.end() if is_local else max(skip, 0)
    packed_bytes = _whole(path, "CompressedDataSize", fields.get("CompressedDataSize", "0"))
    unit = MM_PER_UNIT.get(fields.get("DistanceUnits", "").lower(), 1.0)
    return Content(path if is_local else _beside(path, name), start, packed, packed_bytes, (unit,) * 3)


def _check_meta(path: Path, fields: Mapping[str, str]) -> None:
    """Raise FileProblem for headers that ITK would read past, or as something else than an image."""
    axes = _whole(path, "NDims", fields.get("NDims", "0"))
    if fields.get("ObjectType", "Image").lower() != "image" or axes < 1:
        kind = f"{fields.get('ObjectType', 'Image')}, NDims {fields.get('NDims')}"
        raise FileProblem(path, f"not a MetaImage volume ({kind})", RESTORE)
    if axes > 4:
        raise FileProblem(path, f"{axes}-D data, expected 3-D or 4-D", CONVERT)
    if not _is_true(fields.get("BinaryData", "False")):
        raise FileProblem(path, "voxels as text (BinaryData)", "save it as binary data")


def _beside(path: Path, name: str) -> Path:
    """The file of a header's voxels. Raises FileProblem where it is several files, elsewhere, or missing."""
    if name.upper().startswith("LIST") or "%" in name:
        raise FileProblem(path, f"voxels in several files ({name})", "save it as one file")
    if Path(name).is_absolute() or len(Path(name).parts) != 1 or Path(name).name in ("", ".."):
        raise FileProblem(
            path, f"voxels in {name!r}, which is not beside it", "move them there, and name the file alone"
        )
    voxels = path.with_name(Path(name).name)
    if not voxels.exists():
        raise FileProblem(path, f"header without voxels: {voxels.name} beside it is missing", RESTORE)
    return voxels


def _size_problem(content: Content, num_bytes: int) -> FileProblem | None:
    """What the sizes alone tell about a promise of `num_bytes` of voxels."""
    with open_file(content.path):
        held = content.path.stat().st_size
    if not content.packed:
        start = max(held - num_bytes, 0) if content.start < 0 else content.start
        return size_problem(content.path, start + num_bytes)
    if held < content.start + content.packed_bytes:
        return too_short(content.path, content.start + content.packed_bytes, held)
    if num_bytes > MAX_DEFLATE_RATIO * (held - content.start):
        reason = f"header promises {readable_size(num_bytes)}, more than {readable_size(held)} of gzip can hold"
        return FileProblem(content.path, reason, RESTORE)
    return None


def _check_packed(content: Content, num_bytes: int) -> None:
    """Raise FileProblem unless what is packed is sound, and as long as promised.

    A file that ends in that length, as gzip's do, is left to ITK, which checks the rest.
    """
    with open_file(content.path) as file:
        file.seek(max(0, content.path.stat().st_size - 4))
        length = int.from_bytes(file.read(4), "little")
    if not content.packed or length == num_bytes % 2**32:
        return
    seen = 0
    for piece in inflated(content.path, PIECE_BYTES, start=content.start):
        seen += len(piece)
        if seen > num_bytes:
            raise too_long(content.path, num_bytes)
    if seen < num_bytes:
        raise too_short(content.path, num_bytes, seen)


def _whole(path: Path, key: str, text: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise FileProblem(path, f"{key} {text[:40]!r} in its header, expected a whole number", RESTORE)
    return int(text)


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")  # as MetaIO reads it


def _reader(path: Path) -> Any:
    try:
        reader = _library().ImageFileReader()
    except ImportError:
        raise FileProblem(path, "NRRD and MetaImage files need SimpleITK, which is not installed", INSTALL) from None
    reader.SetImageIO("NrrdImageIO" if path.name.lower().endswith(NRRD_SUFFIXES) else "MetaImageIO")
    reader.SetFileName(str(path))
    return reader


@functools.cache
def _library() -> Any:
    """SimpleITK, imported when the first file asks for it."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


@functools.cache
def _dtypes() -> dict[int, np.dtype]:
    """NumPy's types by SimpleITK's, of scalars and of vectors."""
    kinds = [(getattr(_library(), f"sitk{kind}{name}"), name) for kind in ("", "Vector") for name in SCALARS]
    return {number: np.dtype(name.lower()) for number, name in kinds}


class _faults_of:
    """Raise what SimpleITK says of a file as its FileProblem."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, RuntimeError):
            reason = f"SimpleITK cannot read it ({_last_line(error)})"
            raise FileProblem(self._path, reason, RESTORE) from None


def _last_line(error: BaseException) -> str:
    """The last line of SimpleITK's messages, which says most, without addresses."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Reason:")] or [type(error).__name__]
    return re.sub(r"^(ITK ERROR: |sitk::ERROR: |\[nrrd\] )?(\w+(\(0x[0-9a-f]+\))?: )?", "", said[-1])

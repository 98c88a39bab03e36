"""NIfTI-1, NIfTI-2 and Analyze: headers by nibabel, voxels straight from the bytes."""

import functools
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.quaternions import quat2mat
from nibabel.spatialimages import HeaderDataError
from nibabel.spm2analyze import Spm2AnalyzeHeader, Spm2AnalyzeImage
from nibabel.volumeutils import native_code
from nibabel.wrapstruct import WrapStructError

from data.files.errors import RESTORE, FileProblem
from data.files.grid import Source, affines_agree, distance_mm
from data.files.gzip import read_head
from data.files.header import Header, affine_problem, split_channels, voxel_problems
from data.files.stored import write_stored

LOG = logging.getLogger("mlx_volumes")
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metres and micrometres; all else is taken as mm
CIFTI_INTENTS = range(3000, 3100)
NIFTI2_BYTES = 540
KINDS = {  # by the header's size, then its magic
    348: {b"n+1\0": Nifti1Header, b"ni1\0": Nifti1PairHeader},
    NIFTI2_BYTES: {b"n+2\0": Nifti2Header, b"ni2\0": Nifti2PairHeader},
}
# A quaternion this much longer than 1 is no rounding.
QUATERNION_TOLERANCE = 1e-3


def read_nifti_header(path: Path) -> Header:
    """The header of a NIfTI or Analyze file; raises FileProblem where there is none to be had."""
    header_path, voxels_path = _pair(path)
    head = read_head(header_path, NIFTI2_BYTES)
    block = _parse(path, head)
    analyze = not isinstance(block, Nifti1Header)
    single = getattr(block, "is_single", False)
    if not single and header_path == voxels_path:
        raise FileProblem(path, "its header belongs to an .hdr/.img pair, not to a single file", RESTORE)
    if not single and not voxels_path.exists():
        where = f"{voxels_path.name} beside it is missing"
        raise FileProblem(path, f"header without image: {where}", "restore the .img file, or remove the header")
    try:
        dtype = block.get_data_dtype()
        slope, inter = block.get_slope_inter()
        shape, channels = split_channels(path, tuple(int(size) for size in block.get_data_shape()))
    except (HeaderDataError, OverflowError) as error:
        raise _unusable(path, error) from None
    offset = float(block["vox_offset"])
    if single and offset < block.single_vox_offset:
        _warn_once(f"{path}: vox_offset is {offset:g}; the voxels are taken from byte {block.single_vox_offset} on")
        offset = float(block.single_vox_offset)
    if analyze:
        affine = _spm_affine(header_path, np.array(block.get_best_affine(), dtype=np.float64))
    else:
        affine = _best_affine(path, block)
        affine[:3] *= MM_PER_UNIT.get(int(block["xyzt_units"]) & 7, 1.0)
    if (problem := affine_problem(path, affine)) is not None:
        raise problem
    kind = "analyze" if analyze else "nifti2" if isinstance(block, Nifti2Header) else "nifti1"
    source = Source(path, kind, shape, affine, block.as_byteswapped(native_code).binaryblock)
    slope, inter = (1.0, 0.0) if slope is None else (float(slope), float(inter or 0.0))
    header = Header(source, channels, dtype, slope, inter, header_path if single else voxels_path, int(offset), ())
    disagreement = () if analyze else _form_problem(path, block, shape)
    return replace(header, problems=(*voxel_problems(header), *disagreement))


def encode(source: Source, dtype: np.dtype, channels: int) -> bytes:
    """A single-file NIfTI header for `channels` volumes of `dtype` on the source file's own grid.

    sform and qform with their codes, voxel sizes and units are the source's, bit for bit; scale factors,
    display range and intent are cleared. Sources of other formats become NIfTI-1 with their affine.
    """
    header = (Nifti2Header if source.format == "nifti2" else Nifti1Header)()
    header.set_data_shape((*source.shape, channels) if channels > 1 else source.shape)
    if source.format in ("nifti1", "nifti2"):
        pair = Nifti2PairHeader if source.format == "nifti2" else Nifti1PairHeader
        block = pair(source.header, check=False)
        geometry = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units")
        offsets = ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
        for field in (*geometry, *offsets):
            header[field] = block[field]
        header["pixdim"][:4] = block["pixdim"][:4]
    else:
        header.set_sform(source.affine, code="aligned")
        header.set_zooms(np.linalg.norm(source.affine[:3, :3], axis=0).tolist() + [1.0] * (channels > 1))
        header.set_xyzt_units("mm")
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.single_vox_offset
    return header.binaryblock + b"\0" * (header.single_vox_offset - len(header.binaryblock))


def write_single(path: Path, source: Source, values: np.ndarray) -> None:
    """Write (i, j, k[, C]) values, in the source file's axes, to a .nii or .nii.gz file."""
    channels = values.shape[3] if values.ndim == 4 else 1
    write_stored(path, encode(source, values.dtype, channels), values)


def list_parts(path: Path) -> list[Path]:
    """Return the files of the .hdr/.img pair that the path is half of, SPM's .mat among them; else the path alone."""
    half = re.fullmatch(r"(.+)\.(hdr|img)(\.gz)?", path.name, re.IGNORECASE)
    endings = (".hdr", ".hdr.gz", ".img", ".img.gz", ".mat")
    parts = _spellings(path, half[1], endings) if half else []
    return [part for part in parts if part.exists()] or [path]


def _pair(path: Path) -> tuple[Path, Path]:
    """The files with the header and the voxels: one and the same, or an .hdr/.img pair."""
    for suffix, other in ((".hdr", ".img"), (".img", ".hdr")):
        for end in (suffix, suffix + ".gz"):
            if not path.name.lower().endswith(end):
                continue
            stem = path.name[: -len(end)]
            same, swapped = end.replace(suffix, other), other if end.endswith(".gz") else other + ".gz"
            partners = _spellings(path, stem, (same, swapped))
            partner = next((candidate for candidate in partners if candidate.exists()), partners[0])
            if suffix == ".hdr":
                return path, partner
            if path.exists() and not partner.exists():
                reason = f"image without header: {partner.name} beside it is missing"
                raise FileProblem(path, reason, "restore the .hdr file, or remove the image")
            return partner, path
    return path, path


def headers_of(image: Path) -> list[Path]:
    """The files that can be the header of an .img, or .img.gz: a pair's, MetaImage's or NRRD's."""
    stem = image.name[: image.name.lower().rindex(".img")]
    return _spellings(image, stem, (".hdr", ".hdr.gz", ".mhd", ".nhdr"))


def _spellings(path: Path, stem: str, endings: tuple[str, ...]) -> list[Path]:
    """Files beside a path, their endings in small letters or in capitals."""
    return [path.with_name(stem + spelt) for ending in endings for spelt in (ending, ending.upper())]


def _parse(path: Path, head: bytes) -> Any:
    """nibabel's header object for a header's bytes, whatever their byte order."""
    sizes = {order: int.from_bytes(head[:4], order) for order in ("little", "big")}
    size, order = next(((size, order) for order, size in sizes.items() if size in KINDS), (0, ""))
    if len(head) < max(size, 348) or not size:
        said = f"{len(head)} bytes" if size or len(head) < 348 else f"it starts with {head[:4]!r}"
        raise FileProblem(path, f"neither a NIfTI nor an Analyze header ({said})", RESTORE)
    magic = head[4:8] if size == NIFTI2_BYTES else head[344:348]
    kind = KINDS[size].get(magic)
    if kind is None and any(magic in kinds for kinds in KINDS.values()):
        reason = f"a header of {size} bytes with the magic {magic!r}, which is another version's"
        raise FileProblem(path, reason, RESTORE)
    if kind is None and size == 348 and not path.name.lower().endswith((".nii", ".nii.gz")):
        kind = Spm2AnalyzeHeader
    if kind is None:
        raise FileProblem(path, f"not a NIfTI file (magic {magic!r})", RESTORE)
    try:
        block = kind(head[: kind.template_dtype.itemsize], endianness=order, check=False)
        if not 1 <= (num_axes := int(block["dim"][0])) <= 7:
            raise FileProblem(path, f"dim[0]={num_axes} in its header, expected 1 to 7 axes", RESTORE)
        if not 0 <= (offset := float(block["vox_offset"])) < 2**63:
            raise FileProblem(path, f"the voxels' place in the file (vox_offset) is {offset:g}", RESTORE)
        block.check_fix(logger=_Named(LOG, {"path": path}))
    except (HeaderDataError, WrapStructError) as error:
        raise _unusable(path, error) from None
    if kind is not Spm2AnalyzeHeader and int(block["intent_code"]) in CIFTI_INTENTS:
        raise FileProblem(path, "CIFTI-2 data (brain models, no voxel grid)", "export a volume with wb_command")
    return block


class _Named(logging.LoggerAdapter):
    """Takes what nibabel says about a header that it puts right, and says it once, with the file's name."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if level >= logging.WARNING:
            _warn_once(f"{(self.extra or {})['path']}: {msg}")


@functools.cache
def _warn_once(message: str) -> None:
    LOG.warning(message)


def _unusable(path: Path, error: Exception) -> FileProblem:
    reason = " ".join(str(error).split()) or type(error).__name__
    return FileProblem(path, f"unusable header ({reason})", RESTORE)


def _spm_affine(header_path: Path, affine: np.ndarray) -> np.ndarray:
    """SPM kept the affine of an Analyze pair in a .mat file beside it."""
    mat_path = header_path.with_name(header_path.name.removesuffix(".gz").removesuffix(".hdr") + ".mat")
    if not mat_path.exists():
        return affine
    try:
        return np.array(Spm2AnalyzeImage.from_filename(str(header_path)).affine, dtype=np.float64)
    except Exception as error:  # whatever a stray .mat file makes scipy raise
        raise FileProblem(mat_path, f"not SPM's affine ({error})", "remove it, or restore it") from None


def _best_affine(path: Path, block: Any) -> np.ndarray:
    """sform where its code is set, else qform, else the voxel sizes alone, as nibabel chooses."""
    if int(block["sform_code"]) > 0:
        return np.array(block.get_sform(), dtype=np.float64)
    return _qform(path, block) if int(block["qform_code"]) > 0 else np.array(block.get_base_affine(), np.float64)


def _qform(path: Path, block: Any) -> np.ndarray:
    """The qform (4, 4), NaN where it says nothing. A quaternion longer than 1 is shortened, as nifti1_io does."""
    vector = np.array([block[f"quatern_{axis}"] for axis in "bcd"], dtype=np.float64)
    length = float(np.linalg.norm(vector))
    real_part = 1 - length**2
    if real_part < 1e-7:  # nifti1_io's limit: a turn of 180 degrees
        real_part, vector = 0.0, vector / length
    if length > 1 + QUATERNION_TOLERANCE:
        _warn_once(f"{path}: the qform's quaternion has the length {length:.4g}, at most 1 is a rotation; shortened")
    affine = np.eye(4)
    affine[:3, :3] = quat2mat([np.sqrt(real_part), *vector])
    affine[:3, :3] *= np.abs(block["pixdim"][1:4].astype(np.float64))
    if block["pixdim"][0] < 0:
        affine[:3, 2] *= -1
    affine[:3, 3] = [block[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _form_problem(path: Path, block: Any, shape: tuple[int, int, int]) -> tuple[FileProblem, ...]:
    """sform and qform, both in force, that place the voxels differently."""
    sform, sform_code = block.get_sform(coded=True)
    qform_code = int(block["qform_code"])
    if sform is None or qform_code == 0:
        return ()
    qform = _qform(path, block)
    if (problem := affine_problem(path, qform)) is not None:
        _warn_once(f"{path}: the qform is unusable ({problem.reason}); the sform is used")
        return ()
    if affines_agree(sform, qform, shape):
        return ()
    reason = (
        f"sform and qform (codes {sform_code} and {qform_code}) disagree by up to "
        f"{distance_mm(sform, qform, shape):.3g}, and programs differ in which they use"
    )
    fix = "the sform would be used here: copy it over the qform if it is right, or set its code to 0 if not"
    return (FileProblem(path, reason, fix),)

"""NIfTI-1, NIfTI-2 and Analyze: headers by nibabel, voxels straight from the bytes."""

import functools
import logging
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError
from nibabel.spm2analyze import Spm2AnalyzeHeader, Spm2AnalyzeImage
from nibabel.volumeutils import native_code
from nibabel.wrapstruct import WrapStructError

from data.files.errors import FileProblem
from data.files.grid import Format, Source, affines_agree, distance_mm
from data.files.gzip import RESTORE, read_content, read_head
from data.files.header import Header, affine_problem, split_channels, voxel_problems

LOG = logging.getLogger("mlx_volumes")
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metres and micrometres; all else is taken as mm
CIFTI_INTENTS = range(3000, 3100)
NIFTI2_BYTES = 540


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
        affine = np.array(block.get_best_affine(), dtype=np.float64)
        shape, channels = split_channels(path, tuple(int(size) for size in block.get_data_shape()))
        offset = int(block.get_data_offset())
    except (HeaderDataError, OverflowError) as error:
        raise _unusable(path, error) from None
    if analyze:
        affine = _spm_affine(header_path, affine)
    else:
        affine[:3] *= MM_PER_UNIT.get(int(block["xyzt_units"]) & 7, 1.0)
    if (problem := affine_problem(path, affine)) is not None:
        raise problem
    kind: Format = "analyze" if analyze else "nifti2" if isinstance(block, Nifti2Header) else "nifti1"
    source = Source(path, kind, shape, affine, block.as_byteswapped(native_code).binaryblock)
    slope, inter = (1.0, 0.0) if slope is None else (float(slope), float(inter or 0.0))
    header = Header(source, channels, dtype, slope, inter, header_path if single else voxels_path, offset, ())
    disagreement = () if analyze else _form_problem(path, block, shape)
    return replace(header, problems=(*voxel_problems(header), *disagreement))


def read_stored(header: Header) -> np.ndarray:
    """Voxels as stored, (i, j, k, C) in the file's axes and byte order, a view of the file's bytes."""
    content = read_content(header.voxels_path, header.num_bytes)
    values = content[header.voxels_offset :].view(header.dtype)
    return values.reshape(header.channels, *header.source.shape[::-1]).T


def encode(source: Source, dtype: np.dtype, channels: int) -> bytes:
    """A single-file NIfTI header for `channels` volumes of `dtype` on the source file's own grid.

    sform and qform with their codes, voxel sizes and units are the source's, bit for bit; scale factors,
    display range and intent are cleared. Analyze and NumPy sources become NIfTI-1 with their affine.
    """
    header = (Nifti2Header if source.format == "nifti2" else Nifti1Header)()
    if source.format in ("nifti1", "nifti2"):
        pair = Nifti2PairHeader if source.format == "nifti2" else Nifti1PairHeader
        block = pair(source.header, check=False)
        geometry = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units")
        offsets = ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
        for field in (*geometry, *offsets):
            header[field] = block[field]
        header["pixdim"][:4] = block["pixdim"][:4]
    header.set_data_shape((*source.shape, channels) if channels > 1 else source.shape)
    if source.format in ("analyze", "numpy"):
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
    packer = zlib.compressobj(level=3, wbits=31) if path.name.endswith(".gz") else None  # no time stamp
    volumes = values if values.ndim == 4 else values[..., None]
    with path.open("wb") as file:
        head = encode(source, values.dtype, channels)
        file.write(packer.compress(head) if packer else head)
        for channel in range(channels):
            for k in range(values.shape[2]):
                plane = volumes[:, :, k, channel].tobytes(order="F")
                file.write(packer.compress(plane) if packer else plane)
        if packer:
            file.write(packer.flush())


def _pair(path: Path) -> tuple[Path, Path]:
    """The files with the header and the voxels: one and the same, or an .hdr/.img pair."""
    for suffix, other in ((".hdr", ".img"), (".img", ".hdr")):
        for end in (suffix, suffix + ".gz"):
            if not path.name.endswith(end):
                continue
            stem = path.name.removesuffix(end)
            same, swapped = end.replace(suffix, other), other if end.endswith(".gz") else other + ".gz"
            partner = path.with_name(stem + same)
            if not partner.exists() and path.with_name(stem + swapped).exists():
                partner = path.with_name(stem + swapped)
            if suffix == ".hdr":
                return path, partner
            if path.exists() and not partner.exists():
                reason = f"image without header: {partner.name} beside it is missing"
                raise FileProblem(path, reason, "restore the .hdr file, or remove the image")
            return partner, path
    return path, path


def _parse(path: Path, head: bytes) -> Any:
    """nibabel's header object for a header's bytes, whatever their byte order."""
    size = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    magic = head[4:8] if 540 in size else head[344:348]
    kinds = {
        b"n+1\0": Nifti1Header,
        b"ni1\0": Nifti1PairHeader,
        b"n+2\0": Nifti2Header,
        b"ni2\0": Nifti2PairHeader,
    }
    if len(head) < 348 or not size & {348, 540}:
        said = f"{len(head)} bytes" if len(head) < 348 else f"it starts with {head[:4]!r}"
        raise FileProblem(path, f"neither a NIfTI nor an Analyze header ({said})", RESTORE)
    kind = kinds.get(magic)
    if kind is None and not path.name.endswith((".nii", ".nii.gz")):
        kind = Spm2AnalyzeHeader
    if kind is None:
        raise FileProblem(path, f"not a NIfTI file (magic {magic!r})", RESTORE)
    try:
        block = kind(head[: kind.template_dtype.itemsize], check=False)
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


def _form_problem(path: Path, block: Any, shape: tuple[int, int, int]) -> tuple[FileProblem, ...]:
    """sform and qform, both in force, that place the voxels differently."""
    sform, sform_code = block.get_sform(coded=True)
    qform, qform_code = block.get_qform(coded=True)
    if sform is None or qform is None or affines_agree(sform, qform, shape):
        return ()
    reason = (
        f"sform and qform (codes {sform_code} and {qform_code}) disagree by up to "
        f"{distance_mm(sform, qform, shape):.3g}, and programs differ in which they use"
    )
    mend = "the sform would be used here: copy it over the qform if it is right, or set its code to 0 if not"
    return (FileProblem(path, reason, mend),)

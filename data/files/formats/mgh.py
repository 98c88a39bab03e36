"""FreeSurfer's MGH and MGZ: headers by nibabel, voxels straight from the bytes."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from nibabel.freesurfer.mghformat import MGHError, MGHHeader, MGHImage
from nibabel.spatialimages import HeaderDataError

from data.files.errors import RESTORE, FileProblem
from data.files.grid import Source
from data.files.gzip import read_head
from data.files.header import Header, affine_problem, split_channels, voxel_problems
from data.files.stored import write_stored

SUFFIXES = (".mgh", ".mgz", ".mgh.gz")
HEADER_BYTES = 284
TAIL_BYTES = 16 << 20  # of commands and colour tables, which FreeSurfer writes behind the voxels


def read_mgh_header(path: Path) -> Header:
    """Return the header of an MGH file; raises FileProblem where there is none to be had."""
    head = read_head(path, HEADER_BYTES)
    if len(head) < HEADER_BYTES or int.from_bytes(head[:4], "big") != 1:
        raise FileProblem(path, f"not an MGH file (it starts with {head[:4]!r})", RESTORE)
    block = MGHHeader(head, check=False)
    try:
        dtype = block.get_data_dtype().newbyteorder(">")
        affine = np.array(block.get_affine(), dtype=np.float64)
    except KeyError:
        reason = f"voxels of MGH's type {int(block['type'])}, which nibabel does not know"
        raise FileProblem(path, reason, "save it as uint8, int16, int32 or float32") from None
    except (HeaderDataError, MGHError, ValueError) as error:
        raise FileProblem(path, f"unusable header ({' '.join(str(error).split())})", RESTORE) from None
    shape, channels = split_channels(path, tuple(int(size) for size in block["dims"]))
    if (problem := affine_problem(path, affine)) is not None:
        raise problem
    source = Source(path, "mgh", shape, affine)
    header = Header(source, channels, dtype, 1.0, 0.0, path, HEADER_BYTES, (), TAIL_BYTES)
    return replace(header, problems=voxel_problems(header))


def write(path: Path, source: Source, values: np.ndarray) -> None:
    """Write (i, j, k[, C]) values, in the source file's axes, to an .mgh or .mgz file. uint16 becomes int32."""
    if values.dtype == np.uint16:
        values = values.astype(np.int32)
    shown = np.broadcast_to(np.zeros((), values.dtype), values.shape)  # the header asks for shape and type alone
    block, head = MGHImage(shown, source.affine).header, io.BytesIO()
    block.set_data_dtype(values.dtype)
    block.writehdr_to(head)
    write_stored(
        path, head.getvalue().ljust(HEADER_BYTES, b"\0"), values.astype(values.dtype.newbyteorder(">"), copy=False)
    )

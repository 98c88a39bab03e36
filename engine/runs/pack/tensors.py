"""The weights of a pack: safetensors in memory, in the one form that `encode_tensors` writes.

Layout: eight bytes with the header's length (little endian), the header (JSON: name -> dtype, shape and
data_offsets into what follows), the tensors. https://huggingface.co/docs/safetensors
"""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from engine.runs.pack.archive import MiB, PackError

HEADER_LIMIT = 4 * MiB
MAX_DIMENSIONS = 8

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z")


def encode_tensors(tensors: Mapping[str, mx.array]) -> bytes:
    """One safetensors file of the float32 tensors, in the order of their names."""
    for name, tensor in tensors.items():
        assert tensor.dtype == mx.float32, f"{name}: {tensor.dtype}"
    return b"".join([_head(tensors), *(np.array(tensors[name]).astype("<f4").tobytes() for name in sorted(tensors))])


def decode_tensors(content: bytes, where: Path | str) -> dict[str, mx.array]:
    """Return the tensors, all float32, by name.

    MLX reads them, and allocates nothing yet: then the header must be, byte for byte, the one that `encode_tensors`
    writes for what was read. So the tensors follow each other without gap or overlap to the file's end, and nothing
    else is in the file. Raises PackError, opened by `where`.
    """
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= size <= min(HEADER_LIMIT, len(content) - 8):
        raise PackError(where, f"not safetensors: a header of {size:,} bytes in a file of {len(content):,}")
    try:
        tensors: Any = mx.load(io.BytesIO(content), format="safetensors")
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise PackError(where, f"not safetensors ({str(error)[:200]})") from None
    for name, tensor in tensors.items():
        if len(name) > 200 or not _NAME.match(name):
            raise PackError(where, f"tensor {name[:80]!r}: not a parameter's name")
        if tensor.ndim > MAX_DIMENSIONS or min(tensor.shape, default=1) < 1:
            raise PackError(where, f"tensor {name}: its shape is not one of up to {MAX_DIMENSIONS} sizes above 0")
    held = sum(4 * tensor.size for tensor in tensors.values())
    if not tensors or 8 + size + held != len(content) or not content.startswith(_head(tensors)):
        raise PackError(
            where, "not the weights of a pack: the header differs from the one that evaluate.py --export writes"
        )
    mx.eval(tensors)
    found: dict[str, mx.array] = tensors
    return found


def _head(tensors: Mapping[str, mx.array]) -> bytes:
    """Return the header of these tensors as float32, its length before it, padded to a multiple of eight bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        begin, end = end, end + 4 * tensor.size
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

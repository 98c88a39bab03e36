"""safetensors in memory, every number of the header checked before it is believed.

Layout: eight bytes with the header's length (little endian), the header (JSON: name -> dtype, shape and
data_offsets into what follows), the tensors. https://huggingface.co/docs/safetensors
"""

import json
import math
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
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items()):
        assert tensor.dtype == mx.float32, f"{name}: {tensor.dtype}"
        parts.append(np.array(tensor).astype("<f4").tobytes())
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + len(parts[-1])]}
        end += len(parts[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def decode_tensors(content: bytes, where: Path | str) -> dict[str, mx.array]:
    """The tensors, all float32, by name.

    Raises PackError, opened by `where`, unless the header is sound: names of letters and dots, each once, shapes
    of as many values as their bytes hold, which follow each other without gap or overlap to the file's end.
    """
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= size <= min(HEADER_LIMIT, len(content) - 8):
        raise PackError(where, f"not safetensors: a header of {size:,} bytes in a file of {len(content):,}")
    try:
        header = json.loads(content[8 : 8 + size].decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise PackError(where, f"not safetensors: the header is not JSON ({str(error)[:200]})") from None
    if not isinstance(header, dict):
        raise PackError(where, "not safetensors: the header is not a mapping")
    header.pop("__metadata__", None)
    body = memoryview(content)[8 + size :]
    spans = {name: _span(name, entry, len(body), where) for name, entry in header.items()}
    tensors, expected = {}, 0
    for name, (begin, end, shape) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if begin != expected:
            raise PackError(where, f"tensor {name} begins at byte {begin}, expected {expected}: a gap or an overlap")
        tensors[name] = mx.array(np.frombuffer(body[begin:end], "<f4").reshape(shape))
        expected = end
    if not tensors or expected != len(body):
        raise PackError(where, f"tensors take {expected:,} bytes of {len(body):,}; the file is cut short or padded")
    return tensors


def _span(name: str, entry: Any, room: int, where: Path | str) -> tuple[int, int, tuple[int, ...]]:
    """Begin, end and shape of one tensor."""
    if len(name) > 200 or not _NAME.match(name):
        raise PackError(where, f"tensor {name[:80]!r}: not a parameter's name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise PackError(where, f"tensor {name}: expected dtype, shape and data_offsets alone")
    if entry["dtype"] != "F32":
        raise PackError(where, f"tensor {name}: dtype {str(entry['dtype'])[:20]!r}; packs hold F32 alone")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS or not all(n <= room for n in shape):
        raise PackError(where, f"tensor {name}: shape {str(shape)[:80]} is not one of up to {MAX_DIMENSIONS} sizes")
    if not _are_counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= room:
        raise PackError(where, f"tensor {name}: data_offsets {str(offsets)[:80]} lie outside of {room:,} bytes")
    begin, end = offsets
    if math.prod(shape) * 4 != end - begin or begin == end:
        raise PackError(where, f"tensor {name}: shape {shape} does not fit {end - begin:,} bytes of float32")
    return begin, end, tuple(shape)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"two entries are named {name!r}")
        entries[name] = value
    return entries

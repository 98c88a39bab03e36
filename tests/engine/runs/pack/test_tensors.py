import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from engine.runs.pack.archive import PackError
from engine.runs.pack.tensors import HEADER_LIMIT, decode_tensors, encode_tensors

TENSORS: dict[str, np.ndarray] = {
    "stem.conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "head.bias": np.array([7, -1], np.float32),
}


def encoded(header: Any, body: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(shape: Any = (4,), offsets: Any = (0, 16), dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def test_tensors_come_back_as_mlx_reads_them(tmp_path: Path) -> None:
    content = encode_tensors({name: mx.array(value) for name, value in TENSORS.items()})
    (tmp_path / "a.safetensors").write_bytes(content)
    read = mx.load(str(tmp_path / "a.safetensors"))
    assert isinstance(read, dict)
    found = decode_tensors(content, "a")
    assert set(read) == set(found) == set(TENSORS)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(np.array(found[name]), value)
        np.testing.assert_array_equal(np.array(read[name]), value)


def test_what_mlx_writes_is_read(tmp_path: Path) -> None:
    mx.save_safetensors(str(tmp_path / "a.safetensors"), {name: mx.array(value) for name, value in TENSORS.items()})
    found = decode_tensors((tmp_path / "a.safetensors").read_bytes(), "a")
    np.testing.assert_array_equal(np.array(found["stem.conv.weight"]), TENSORS["stem.conv.weight"])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"\xff" * 8 + b"{}", "a header of 18,446,744,073,709,551,615 bytes"),
        ((HEADER_LIMIT + 1).to_bytes(8, "little") + b" " * (HEADER_LIMIT + 9), "a header of 4,194,305 bytes"),
        (encoded(b"\x80\x04\x95not json"), "the header is not JSON"),
        (encoded(b"[" * 100_000), "the header is not JSON"),
        (encoded(b'{"a": ' + b"9" * 5000 + b"}"), "the header is not JSON"),
        (encoded([]), "the header is not a mapping"),
        (encoded({}), "tensors take 0 bytes of 16"),
        (encoded({"a": 3}), "expected dtype, shape and data_offsets alone"),
        (encoded({"a": entry(code="import os")}), "expected dtype, shape and data_offsets alone"),
        (encoded({"../a": entry()}), "not a parameter's name"),
        (encoded({"__class__.": entry()}), "not a parameter's name"),
        (encoded({"a" * 201: entry()}), "not a parameter's name"),
        (encoded({"a": entry(dtype="I64", shape=[2])}), "dtype 'I64'; packs hold F32 alone"),
        (encoded({"a": entry(dtype="\x1b[2J")}), "dtype"),
        (encoded({"a": entry(shape="4")}), "shape 4 is not one of up to 8 sizes"),
        (encoded({"a": entry(shape=[-4])}), "is not one of up to 8 sizes"),
        (encoded({"a": entry(shape=[4.0])}), "is not one of up to 8 sizes"),
        (encoded({"a": entry(shape=[True, 4])}), "is not one of up to 8 sizes"),
        (encoded({"a": entry(shape=[1] * 9)}), "is not one of up to 8 sizes"),
        (encoded({"a": entry(shape=[2**62, 4])}), "is not one of up to 8 sizes"),
        (encoded({"a": entry(shape=[16] * 8)}), "does not fit 16 bytes of float32"),
        (encoded({"a": entry(shape=[5])}), "does not fit 16 bytes of float32"),
        (encoded({"a": entry(shape=[0], offsets=[0, 0]), "b": entry()}), "does not fit 0 bytes of float32"),
        (encoded({"a": entry(offsets=[0, 2**40])}), "lie outside of 16 bytes"),
        (encoded({"a": entry(offsets=[16, 0])}), "lie outside of 16 bytes"),
        (encoded({"a": entry(offsets=[-16, 0])}), "lie outside of 16 bytes"),
        (encoded({"a": entry(offsets=[0, 8, 16])}), "lie outside of 16 bytes"),
        (encoded({"a": entry(), "b": entry()}), "begins at byte 0, expected 16: a gap or an overlap"),
        (encoded({"a": entry([2], [0, 8]), "b": entry([1], [12, 16])}), "begins at byte 12, expected 8"),
        (encoded({"a": entry([2], [0, 8])}), "tensors take 8 bytes of 16"),
        (encoded({"a": entry([3], [4, 16])}), "begins at byte 4, expected 0"),
        (
            encoded(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"),
            "are named",
        ),
    ],
)
def test_an_unsound_header_is_refused(content: bytes, match: str) -> None:
    with pytest.raises(PackError, match=match) as caught:
        decode_tensors(content, "model.zip/model.safetensors")
    assert str(caught.value).startswith("model.zip/model.safetensors: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500

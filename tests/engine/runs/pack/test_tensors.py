import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from engine.runs.pack.archive import PackError
from engine.runs.pack.tensors import HEADER_LIMIT, decode_tensors, encode_tensors

OTHER = "not the weights of a pack: the header "
TENSORS: dict[str, np.ndarray] = {
    "stem.conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "head.bias": np.array([7, -1], np.float32),
}


def encoded(header: Any, body: bytes = b"\0" * 16) -> bytes:
    """A file of the header and the body, written as `encode_tensors` writes; a header in bytes is left as it is."""
    if isinstance(header, dict):
        header = {"__metadata__": {"format": "mlx"}, **header}
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
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


def test_the_files_of_these_tests_are_sound_but_for_what_they_change() -> None:
    assert decode_tensors(encoded({"a": entry()}), "a")["a"].tolist() == [0, 0, 0, 0]
    assert encoded({"a": entry()}) == encode_tensors({"a": mx.zeros(4)})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"\xff" * 8 + b"{}", "a header of 18,446,744,073,709,551,615 bytes"),
        ((HEADER_LIMIT + 1).to_bytes(8, "little") + b" " * (HEADER_LIMIT + 9), "a header of 4,194,305 bytes"),
        (encoded(b"\x80\x04\x95not json"), r"not safetensors \("),
        (encoded(b"[" * 100_000), r"not safetensors \(.*parse error"),
        (encoded(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), r"not safetensors \("),
        (encoded(b'{"a": ' + b"9" * 5000 + b"}"), r"not safetensors \("),
        (encoded([]), r"not safetensors \("),
        (encoded({}), OTHER),
        (encoded({"a": 3}), r"not safetensors \("),
        (encoded({"a": entry(code="import os")}), OTHER),
        (encoded({"../a": entry()}), "not a parameter's name"),
        (encoded({"__class__.": entry()}), "not a parameter's name"),
        (encoded({"a" * 201: entry()}), "not a parameter's name"),
        (encoded({"a": entry(dtype="I64", shape=[2])}), OTHER),
        (encoded({"a": entry(dtype="I32")}), OTHER),
        (encoded({"a": entry(dtype="\x1b[2J")}), r"not safetensors \("),
        (encoded({"a": entry(shape="4")}), r"not safetensors \("),
        (encoded({"a": entry(shape=[-4])}), r"not safetensors \("),
        (encoded({"a": entry(shape=[-1, -4])}), "not one of up to 8 sizes above 0"),
        (encoded({"a": entry(shape=[4.0])}), OTHER),
        (encoded({"a": entry(shape=[True, 4])}), OTHER),
        (encoded({"a": entry(shape=[2**32 + 4])}), r"not safetensors \(|not the weights"),  # 4 in 32 bits
        (encoded({"a": entry(shape=[1] * 8 + [4])}), "not one of up to 8 sizes"),
        (encoded({"a": entry(shape=[2**62, 4])}), r"not safetensors \("),
        (encoded({"a": entry(shape=[16] * 8)}), r"not safetensors \("),
        (encoded({"a": entry(shape=[5])}), r"not safetensors \("),
        (encoded({"a": entry(shape=[0], offsets=[0, 0]), "b": entry()}), "not one of up to 8 sizes above 0"),
        (encoded({"a": entry(offsets=[0, 2**40])}), r"not safetensors \("),
        (encoded({"a": entry(offsets=[16, 0])}), r"not safetensors \("),
        (encoded({"a": entry(offsets=[-16, 0])}), r"not safetensors \("),
        (encoded({"a": entry(offsets=[0, 8, 16])}), r"not safetensors \("),
        (encoded({"a": entry(), "b": entry()}), OTHER),  # one beyond the other's bytes
        (encoded({"a": entry([2], [0, 8]), "b": entry([1], [12, 16])}), OTHER),  # a gap
        (encoded({"a": entry([3], [0, 12]), "b": entry([1], [0, 4])}), OTHER),  # a gap as long as the overlap
        (encoded({"a": entry([2], [0, 8])}), OTHER),  # eight bytes of something else
        (encoded({"a": entry([3], [4, 16])}), OTHER),
        (encoded({"b": entry([2], [0, 8]), "a": entry([2], [8, 16])}), OTHER),  # in another order
        (encoded(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"), OTHER),
    ],
)
def test_an_unsound_header_is_refused(content: bytes, match: str) -> None:
    with pytest.raises(PackError, match=match) as caught:
        decode_tensors(content, "model.zip/model.safetensors")
    assert str(caught.value).startswith("model.zip/model.safetensors: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500

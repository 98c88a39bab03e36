"""The one YAML loader: plain values within limits, each refusal in one line with its place."""

import re
from pathlib import Path

import pytest
import yaml

from configs import ConfigError
from configs.plain_yaml import MAX_BYTES, read_yaml
from engine.config import load_config
from engine.runs.run_folder import RunFolder

# Three levels of ten aliases each stand for 10^3 values, seven for ten million.
BOMB = "k0: &k0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]" for i in range(1, 8)
)

REFUSED = {
    "bomb": (BOMB, "more than 200,000 values, aliases (*name) written out"),
    "recursive list": ("a: &a [1, *a]", "line 1, column 11: the alias *a lies within what it stands for"),
    "recursive mapping": ("a: &a\n  b: *a\n", "line 2, column 6: the alias *a lies within"),
    "undefined alias": ("a: *b", "undefined alias"),
    "flow depth": ("a: " + "[" * 5_000, "deep|maximum nesting depth"),
    "shallower": ("a: " + "[" * 70 + "]" * 70, "more than 64 deep in each other"),
    "block depth": ("\n".join(" " * i + "a:" for i in range(500)), "more than 64 deep"),
    "many values": ("[" + "0," * 200_000 + "]", "more than 200,000 values"),
    "many bytes": ("# " + "x" * MAX_BYTES, "it has 4,194,306 bytes; a config has at most 4,194,304"),
    "decimal digits": ("a: " + "9" * 10_000, "line 1, column 4: 99999999999999999999... is no whole number"),
    "hexadecimal digits": ("a: 0x" + "f" * 10_000, "is beyond the largest whole number, 2^63 - 1"),
    "2^200": (f"a: {2**200}", "16069380442589902755... is beyond the largest whole number"),
    "two documents": ("a: 1\n---\nb: 1\n", "line 2, column 1: a second document begins (---)"),
    "duplicate": ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4, column 3: the key 'c' is given twice; keep one"),
    "python tag": (
        "a: !!python/object/apply:os.system [ls]",
        "line 1, column 4: the tag .*python/object.* is not read",
    ),
    "binary tag": ("a: !!binary aGVsbG8=", "the tag .*binary.* is not read"),
    "own tag": ("a: !mine 1", "the tag '!mine' is not read"),
    "list as key": ("? [1, 2]\n: 1", "line 1, column 3: .*unhashable key"),
    "no date": ("a: 2001-99-99", "month"),
    "control character": ("a: \x00", "control characters are not allowed|special characters are not allowed"),
    "tab": ("a:\n\tb: 1", "line 2, column 1: .*cannot start any token"),
    "UTF-16": ("a: 1".encode("utf-16"), "byte 0 is not UTF-8; save the file as UTF-8"),
    "Latin-1": ("a: Müller".encode("latin-1"), "byte 4 is not UTF-8"),
    "image": (b"\x89PNG\r\n\x1a\n\x00\x00", "byte 0 is not UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, tmp_path: Path) -> None:
    content, match = REFUSED[name]
    pattern = (
        match
        if name in ("flow depth", "python tag", "binary tag", "list as key", "control character", "tab")
        else re.escape(match)
    )
    with pytest.raises(yaml.YAMLError, match=pattern) as caught:
        read_yaml(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    file = tmp_path / "config.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as told:
        load_config(file)
    assert str(told.value).startswith(f"{file}: not valid YAML (")
    with pytest.raises(ConfigError) as told:
        RunFolder(tmp_path).read_config_tree()
    assert str(told.value).startswith(f"{file}: not valid YAML (")


def test_what_is_read_as_before() -> None:
    assert read_yaml(b"\xef\xbb\xbfa: 1") == {"a": 1}  # with a byte order mark, as Windows' editors write it
    assert read_yaml("a: &w [1, 2]\nb: *w\nc: *w\n") == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}
    assert read_yaml("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n")["y"] == {"a": 1, "b": 3}  # a merge is no duplicate
    assert read_yaml(f"a: {2**63 - 1}\nb: !!str 1\nc: 1.5\nd: null\n") == {
        "a": 2**63 - 1,
        "b": "1",
        "c": 1.5,
        "d": None,
    }
    assert read_yaml("") is None


def test_a_value_in_a_message_is_short(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("name: a\ndata: {root: x}\ntrain: {steps: 1}\n")
    with pytest.raises(ConfigError, match=r"train\.steps: .*; got a whole number of 40001 bits"):
        load_config(file, {"train.steps": -(1 << 40_000)})
    with pytest.raises(ConfigError, match=r"train\.steps: .*; got 'xxx") as caught:
        load_config(file, {"train.steps": "x" * 10**6})
    assert len(str(caught.value)) < 500
    with pytest.raises(ConfigError, match=r"10000 problem\(s\)\n(.*\n){20}  and 9,980 more$"):
        load_config(file, {f"k{i}": 1 for i in range(10_000)})
    with pytest.raises(ConfigError, match=r"override a\.a\.a.*: no config key has so many parts"):
        load_config(file, {".".join("a" * 9_999): 1})

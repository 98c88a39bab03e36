"""Seeded damage to files: bytes, fields of NIfTI headers, nodes of JSON, cells of tables."""

import copy
import csv
import gzip
import io
import json
import zipfile
from typing import Any

import nibabel
import numpy as np

INTEGERS = (0, 1, -1, 2, 3, 7, 8, 127, 128, 255, 256, 348, 352, 540, 32767, -32768, 2**31 - 1, -(2**31), 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1.0000005, 0.5, 2.0, 1e-20, 1e-40, 1e20, 3e38, -3e38, np.nan, np.inf, -np.inf, 352.5)
TEXTS = ("", "=1+1", "\x1b[31m", "\0", "../../a", "/etc/passwd", "\ud800", "a" * 5000, "train", "0", "-1", "nan", "é")
VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 1.5, 10**30, [], {}, [[]], {"0": "a"}, *TEXTS)


def damage_bytes(rng: np.random.Generator, content: bytes, head: int = 400) -> bytes:
    """The bytes with 1 to 3 changes; half of them among the first `head`."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            return bytes(rng.integers(0, 256, 8, dtype=np.uint8))
        place = int(rng.integers(min(head, len(data)) if rng.random() < 0.5 else len(data)))
        length = int(2 ** rng.integers(0, 10))
        change = rng.integers(7)
        if change == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif change == 1:
            data[place] = int(rng.integers(256))
        elif change == 2:
            number = int(rng.choice(INTEGERS[:-3]))
            width = int(rng.choice((2, 4, 8)))
            data[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big")))
        elif change == 3:
            del data[place:]
        elif change == 4:
            del data[place : place + length]
        elif change == 5:
            data[place : place + length] = bytes(min(length, len(data) - place))
        else:
            data[place:place] = data[place : place + length]
    return bytes(data)


def damage_nifti(rng: np.random.Generator, content: bytes) -> bytes:
    """A .nii, .hdr or .nii.gz file with fields of its header set to odd values, or its bytes damaged."""
    packed = content[:2] == b"\x1f\x8b"
    if packed and rng.random() < 0.2:
        return damage_bytes(rng, content)
    plain = gzip.decompress(content) if packed else content
    if rng.random() < 0.3 or len(plain) < 348:
        plain = damage_bytes(rng, plain)
    else:
        kind = nibabel.Nifti2Header if plain[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Header
        size = kind.template_dtype.itemsize
        header = kind(plain[:size], check=False)
        for _ in range(rng.integers(1, 4)):
            field = str(rng.choice(header.template_dtype.names))
            values = np.atleast_1d(header[field].copy())
            place = int(rng.integers(values.size))
            if values.dtype.kind == "f":
                with np.errstate(over="ignore"):
                    values[place] = rng.choice(FLOATS)
            elif values.dtype.kind in "iu":
                limits = np.iinfo(values.dtype)
                values[place] = int(np.clip(int(rng.choice(INTEGERS[:-1])), limits.min, limits.max))
            else:
                values[place] = bytes(rng.integers(0, 256, 4, dtype=np.uint8))
            header[field] = values.reshape(header[field].shape)
        plain = header.binaryblock + plain[size:]
    return gzip.compress(plain, compresslevel=1) if packed else plain


def damage_packed(rng: np.random.Generator, content: bytes) -> bytes:
    """A gzip file with what it holds damaged, or its bytes."""
    if rng.random() < 0.2:
        return damage_bytes(rng, content)
    return gzip.compress(damage_bytes(rng, gzip.decompress(content), head=90), compresslevel=1)


def damage_text(rng: np.random.Generator, content: bytes) -> bytes:
    """A file that begins with lines `key: value` or `key = value`, with values set oddly, or its bytes damaged."""
    if rng.random() < 0.4:
        return damage_bytes(rng, content)
    lines = content.split(b"\n")
    for _ in range(rng.integers(1, 3)):
        place = int(rng.integers(min(len(lines), 14)))
        key, separator, value = lines[place].partition(b" = " if b" = " in lines[place] else b": ")
        words = value.split(b" ")
        odd = str(rng.choice(INTEGERS[:-1]) if rng.random() < 0.5 else rng.choice((*FLOATS[:10], "nan", "inf")))
        new = (
            odd
            if rng.random() < 0.6
            else str(rng.choice((*TEXTS[:6], *TEXTS[8:], "LIST", "a%03d.raw 1 9 1", "MET_DOUBLE")))
        )
        words[int(rng.integers(len(words)))] = new.encode("utf-8", "replace")
        lines[place] = key + separator + b" ".join(words)
        if rng.random() < 0.1:
            lines.insert(place, lines[int(rng.integers(len(lines)))])
    return b"\n".join(lines)


def damage_npz(rng: np.random.Generator, content: bytes) -> bytes:
    """An .npz with one of its arrays damaged inside a sound archive, or its bytes damaged."""
    if rng.random() < 0.3:
        return damage_bytes(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[int(rng.integers(len(members)))]
    members[name] = damage_bytes(rng, members[name], head=128)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def damage_json(rng: np.random.Generator, content: bytes) -> bytes:
    """JSON with some of its nodes replaced, removed, renamed or nested, or its bytes damaged."""
    if rng.random() < 0.2:
        return damage_bytes(rng, content)
    tree = json.loads(content)
    for _ in range(rng.integers(1, 4)):
        tree = _damage_node(rng, tree, deeper=0.97)
    return json.dumps(tree).encode()


def _damage_node(rng: np.random.Generator, node: Any, deeper: float = 0.8) -> Any:
    node = copy.copy(node)
    if isinstance(node, dict | list) and node and rng.random() < deeper:
        key = list(node)[int(rng.integers(len(node)))] if isinstance(node, dict) else int(rng.integers(len(node)))
        change = rng.random()
        if change < 0.15:
            del node[key]
        elif change < 0.25 and isinstance(node, dict):
            node[TEXTS[int(rng.integers(len(TEXTS)))]] = node.pop(key)
        elif change < 0.3:
            for _ in range(int(rng.choice((1, 50, 5000)))):
                if len(json.dumps(node[key])) > 200:
                    break
                node[key] = [node[key]]
        else:
            node[key] = _damage_node(rng, node[key])
        return node
    return copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])


def damage_table(rng: np.random.Generator, content: bytes) -> bytes:
    """A CSV with cells, columns or rows changed, or its bytes damaged."""
    if rng.random() < 0.4:
        return damage_bytes(rng, content)
    rows = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(rng.integers(1, 4)):
        row = rows[int(rng.integers(len(rows)))]
        place, change = int(rng.integers(max(len(row), 1))), rng.random()
        if change < 0.6:
            row[place : place + 1] = [str(rng.choice(TEXTS[:6] + TEXTS[7:]))]
        elif change < 0.8:
            del row[place:]
        else:
            rows.append(list(row))
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=str(rng.choice((",", ";", "\t")))).writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogatepass")

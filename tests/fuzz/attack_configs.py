"""Read mutated configs and packs as the scripts do, in a process that may be killed.

python -m tests.fuzz.attack_configs KIND[,KIND ...] FIRST LAST

Prints two lines of JSON for each example: its kind and number, and then with them what came of it: accepted, refused
(by the project's own error, with the file's name), wrong (refused without it), traceback, or memory.
"""

import json
import os
import re
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.config import load_config
from engine.predict import load
from engine.runs.pack.archive import write_archive
from engine.train import require_network_fits
from machine.resources import peak_resident_bytes
from ops import memory
from tests.engine.pack.packs import read_members, with_members, write_pack

ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 4 << 30  # of address space, beyond what the process has when it begins
ALLOWED_BYTES = 1 << 30  # that the estimates may let pass
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 64, 4096, 10**5, 10**9, 2**31, 2**63 - 1, -(2**63), 2**200, 10**4000),
    *(0.5, 1.5, -0.1, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "auto", "mean", "\0", "\x1b[31m", "é", "../../a", "1e9", "nan", "x" * 5000),
    *(
        [],
        {},
        [[]],
        [1, 2],
        [64, 64, 64],
        [4096, 4096, 4096],
        [10**5, 10**5],
        [0, 0, 0],
        [8] * 300,
        {"name": "x"},
        {1: 2},
    ),
)
SNIPPETS = (
    *(b"\n", b": ", b"- ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!binary ", b"---\n", b"\t", b"\xff", b"\0", b"|"),
    b"9" * 99,
)


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """(list or mapping, key) of every value in the tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [node for key, value in items for node in ((tree, key), *nodes(value))]


def mutate(rng: np.random.Generator, tree: Any) -> None:
    """Drop, rename, repeat, multiply or replace 1 to 3 values of the tree, in place."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not (there := nodes(tree)):
            return
        place, key = there[rng.integers(len(there))]
        change = rng.integers(10)
        if change == 0:
            del place[key]
        elif change == 1 and isinstance(place, dict):
            place[str(key)[:-1]] = place.pop(key)
        elif change == 2:
            place[key] = [place[key]] * int(rng.integers(1, 4))
        elif change < 6 and isinstance(place[key], int | float) and not isinstance(place[key], bool):
            place[key] *= int(rng.choice([-1, 0, 2, 4, 10, 100, 10**6]))
        else:
            place[key] = VALUES[rng.integers(len(VALUES))]


def mutate_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """The bytes with 1 to 3 of them changed, cut out, repeated or put in."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(data) + 1)), int(2 ** rng.integers(0, 8))
        change = rng.integers(5)
        if change == 0:
            data[at : at + 1] = bytes([rng.integers(256)])
        elif change == 1:
            del data[at : at + length]
        elif change == 2:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 50))
        elif change == 3:
            data[at:at] = SNIPPETS[rng.integers(len(SNIPPETS))]
        else:
            data[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1])).to_bytes(4, "little")
    return bytes(data)


def shipped(rng: np.random.Generator) -> str:
    """One of the shipped configs, its parent by the full path."""
    path = CONFIGS[rng.integers(len(CONFIGS))]
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^base: (.*)$", lambda found: f"base: {(path.parent / found[1]).resolve()}", text, flags=re.M)


def read_as_config(path: Path) -> None:
    require_network_fits(load_config(path))


def attack_config(rng: np.random.Generator, folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    tree = yaml.safe_load(shipped(rng))
    mutate(rng, tree)
    path = folder / "config.yaml"
    sys.set_int_max_str_digits(0)
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    sys.set_int_max_str_digits(4300)
    return path, read_as_config


def attack_yaml(rng: np.random.Generator, folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    path = folder / "config.yaml"
    path.write_bytes(mutate_bytes(rng, shipped(rng).encode()))
    return path, read_as_config


@lru_cache(maxsize=1)
def sound_pack() -> Path:
    return write_pack(Path(tempfile.mkdtemp())).path


def read_as_pack(path: Path) -> None:
    load(path).predict_array(np.zeros((8, 8, 8), np.float32), (1, 1, 1))


def attack_pack(rng: np.random.Generator, folder: Path, member: str | None) -> tuple[Path, Callable[[Path], Any]]:
    """A pack whose bytes, or whose member's values, are others; its hashes fit them."""
    pack, path = sound_pack(), folder / "model.zip"
    if member is None:
        path.write_bytes(mutate_bytes(rng, pack.read_bytes()))
        return path, read_as_pack
    content = read_members(pack)[member]
    sys.set_int_max_str_digits(0)
    if member == "model.safetensors":
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        mutate(rng, header)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        content = len(text).to_bytes(8, "little") + text + content[8 + size :]
    elif member == "config.yaml":
        tree = yaml.safe_load(content)
        mutate(rng, tree)
        content = yaml.safe_dump(tree, allow_unicode=True).encode()
    else:
        tree = json.loads(content)
        mutate(rng, tree)
        content = json.dumps(tree).encode()
    if member == "pack.json":  # its hashes are part of what is mutated
        members = {**read_members(pack), member: content}
        write_archive(path, members)
    else:
        with_members(pack, {member: content}).rename(path)
    sys.set_int_max_str_digits(4300)
    return path, read_as_pack


KINDS: dict[str, Callable[[np.random.Generator, Path], tuple[Path, Callable[[Path], Any]]]] = {
    "config": attack_config,
    "yaml": attack_yaml,
    "zip": lambda rng, folder: attack_pack(rng, folder, None),
    "manifest": lambda rng, folder: attack_pack(rng, folder, "pack.json"),
    "pack_config": lambda rng, folder: attack_pack(rng, folder, "config.yaml"),
    "tensors": lambda rng, folder: attack_pack(rng, folder, "model.safetensors"),
}


def attempt(kind: str, number: int) -> tuple[str, str]:
    """(what came of the example, what was said of it)."""
    rng = np.random.default_rng([list(KINDS).index(kind), number])
    with tempfile.TemporaryDirectory() as name:
        path, read = KINDS[kind](rng, Path(name))
        try:
            read(path)
        except MemoryError as error:
            return "memory", str(error)
        except ValueError as error:
            text = str(error)
            is_named = str(path) in text or text.startswith(("training takes", "prediction takes"))
            return ("refused" if is_named and type(error) is not UnicodeDecodeError else "wrong"), text[:300]
        except Exception:
            return "traceback", traceback.format_exc(limit=-3)
    return "accepted", ""


def main(kinds: list[str], first: int, last: int) -> None:
    warnings.simplefilter("ignore")
    os.chdir(tempfile.mkdtemp())
    memory.default_limit = lambda: (ALLOWED_BYTES, "of this attack")
    sound_pack()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES,) * 2)
    for kind in kinds:
        for number in range(first, last):
            about = {"kind": kind, "number": number}
            print(json.dumps(about), flush=True)
            before = peak_resident_bytes()
            result, said = attempt(kind, number)
            if (taken := peak_resident_bytes() - before) > 2 * ALLOWED_BYTES:
                result, said = "memory", f"{taken:,} bytes; {said}"
            print(json.dumps({**about, "result": result, "said": said}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]))

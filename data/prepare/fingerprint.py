"""Whether a run's data are those that it was trained on: what is prepared and how, and what the files hold."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.files.formats.registry import parts_of
from data.files.gzip import GZIP_MAGIC
from data.layouts.cases import Case

Files = Mapping[str, Mapping[str, Any]]
"""{case/number/name: {"path", "bytes", "modified_ns", "hash"}}; bytes and the rest are None of a file that is not
there, or cannot be read."""

BLOCK_BYTES = 4096
WHOLE_BYTES = 4 << 20  # a file up to this size is read whole
_BLOCKS = 64
_THREADS = 8  # they wait for the disk


def fingerprint(cases: Sequence[Case], class_names: Sequence[str], preparation: Mapping[str, Any]) -> str:
    """Return a hash of the cases' ids, files' names and sizes, labels, the classes, and how cases are prepared.

    Where the files lie and when they were copied does not matter.
    """
    facts = [_facts(case) for case in cases]
    text = json.dumps([facts, list(class_names), dict(preparation)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _facts(case: Case) -> list[Any]:
    scored = replace(case, train_label=None)  # `sample_files` has the volumes to train on
    sizes = [[path.name, path.stat().st_size if path.exists() else None] for path in parts_of(scored.files)]
    label = None if case.label_files else case.label
    classes = [found for found in (label, case.train_label) if not isinstance(found, Path | None)]
    return [case.id, sizes, *classes, *([] if case.interval_s is None else [list(case.interval_s)])]


def sample_files(cases: Sequence[Case], known: Files | None = None) -> dict[str, dict[str, Any]]:
    """Return what the cases' files hold: `Files`, each of them once, under the first case that has it.

    The hash is of `sampled_blocks`. A file that has the size and time of its entry in `known` keeps its hash, unread.
    """
    names: dict[Path, str] = {}
    for case in cases:
        for number, path in enumerate(parts_of(case.files)):
            names.setdefault(path, f"{case.id}/{number}/{path.name}")
    known = known or {}
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda path: _sample(path, known.get(names[path], {})), names)
        return dict(zip(names.values(), found, strict=True))


def _sample(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    try:
        status = path.stat()
        facts = {"path": str(path), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        is_known = all(known.get(key) == facts[key] for key in ("bytes", "modified_ns"))
        return {**facts, "hash": known["hash"] if is_known else _hash(path, status.st_size)}
    except OSError:  # the roster says what is wrong with it
        return {"path": str(path), "bytes": None, "modified_ns": None, "hash": None}


def _hash(path: Path, size: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
        for offset, length in sampled_blocks(size, is_gzip):
            file.seek(offset)
            digest.update(file.read(length))
    return digest.hexdigest()


def sampled_blocks(size: int, is_gzip: bool) -> list[tuple[int, int]]:
    """Return (offset, length) of what is read of a file: all of it up to 4 MiB, else its first and its last block.

    gzip ends in the checksum of its content. Of other files, blocks evenly spread lie between these two: a change in
    a large file may pass between them.
    """
    if size <= WHOLE_BYTES:
        return [(0, size)]
    between = 1 if is_gzip else _BLOCKS - 1
    last = size - BLOCK_BYTES
    return [(last * number // between, BLOCK_BYTES) for number in range(between + 1)]

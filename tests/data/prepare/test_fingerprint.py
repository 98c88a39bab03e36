"""What files hold, told from samples of them."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.layouts.cases import Case
from data.prepare import fingerprint
from data.prepare.fingerprint import BLOCK_BYTES, WHOLE_BYTES, sample_files, sampled_blocks

SIZE = WHOLE_BYTES + 12345


def _case(folder: Path, content: bytes, name: str = "scan.nii") -> Case:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return Case("a", (folder / name,))


def _hash(case: Case, **known) -> str:
    (facts,) = sample_files([case], **known).values()
    return facts["hash"]


def test_blocks_are_the_whole_of_a_small_file_and_reach_from_end_to_end_of_a_large_one() -> None:
    assert sampled_blocks(0, False) == [(0, 0)]
    assert sampled_blocks(WHOLE_BYTES, True) == [(0, WHOLE_BYTES)]
    assert sampled_blocks(SIZE, True) == [(0, BLOCK_BYTES), (SIZE - BLOCK_BYTES, BLOCK_BYTES)]
    blocks = sampled_blocks(SIZE, False)
    assert len(blocks) == 64
    assert (blocks[0], blocks[-1]) == ((0, BLOCK_BYTES), (SIZE - BLOCK_BYTES, BLOCK_BYTES))
    gaps = np.diff([offset for offset, _ in blocks])
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("offset", [0, 348, SIZE // 2, SIZE - 1])
def test_a_changed_byte_of_a_gzip_file_shows_in_its_checksum(tmp_path, offset: int) -> None:
    content = bytearray(np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes())
    before = gzip.compress(bytes(content), 0, mtime=0)  # stored, so that the size stays the same
    content[offset] ^= 1
    after = gzip.compress(bytes(content), 0, mtime=0)
    assert len(before) == len(after) > WHOLE_BYTES
    assert _hash(_case(tmp_path / "before", before)) != _hash(_case(tmp_path / "after", after))


def test_changes_of_plain_files(tmp_path) -> None:
    small, large = bytes(1000), bytes(SIZE)
    first = _hash(_case(tmp_path, large))
    for offset in (0, SIZE - 1, (SIZE - BLOCK_BYTES) * 7 // 63):
        changed = bytearray(large)
        changed[offset] = 1
        assert _hash(_case(tmp_path, bytes(changed))) != first
    assert _hash(_case(tmp_path, small)) != _hash(_case(tmp_path, small[:-1] + b"1"))


def test_a_copy_with_other_times_is_the_same(tmp_path) -> None:
    case = _case(tmp_path / "first", b"voxels")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    os.utime(tmp_path / "second" / "scan.nii", (1, 1))
    copy = Case("a", (tmp_path / "second" / "scan.nii",))
    known = sample_files([case])
    found = sample_files([copy], known)
    assert [(name, facts["hash"]) for name, facts in found.items()] == [
        (name, facts["hash"]) for name, facts in known.items()
    ]
    assert found["a/0/scan.nii"]["modified_ns"] == 10**9


def test_what_has_the_same_size_and_time_is_not_read_again(tmp_path, monkeypatch) -> None:
    case = _case(tmp_path, b"voxels")
    known = sample_files([case])
    read = []
    monkeypatch.setattr(fingerprint, "_hash", lambda path, size: read.append(path.name) or "read")
    assert sample_files([case], known) == known
    os.utime(case.images[0], (1, 1))
    assert sample_files([case], known)["a/0/scan.nii"]["hash"] == "read"
    assert read == ["scan.nii"]


def test_both_files_of_a_pair_and_each_file_once(tmp_path) -> None:
    for name in ("scan.hdr", "scan.img", "rows.npz"):
        (tmp_path / name).write_bytes(name.encode())
    cases = [Case("pair", (tmp_path / "scan.hdr",), tmp_path / "gone.nii")]
    cases += [Case(f"row{row}", (tmp_path / "rows.npz",), row) for row in range(3)]
    found = sample_files(cases)
    assert list(found) == ["pair/0/scan.hdr", "pair/1/scan.img", "pair/2/gone.nii", "row0/0/rows.npz"]
    gone = {"path": str(tmp_path / "gone.nii"), "bytes": None, "modified_ns": None, "hash": None}
    assert found["pair/2/gone.nii"] == gone

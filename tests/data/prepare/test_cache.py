"""The cache of prepared cases: whole entries, limits, several processes."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from data.prepare.cache import Cache, cache_key

ARRAYS = {"volume": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "foreground": np.zeros((0, 4), np.int32)}
ENTRY_BYTES = 1000  # about: two headers of 128 bytes, 96 bytes of voxels, the facts


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "cache", 1e9)
    yield cache
    cache.close()


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".users"))


def entry_of(kilobytes):
    return {"volume": np.zeros(kilobytes * 1000, np.uint8)}


def edit_facts(path):
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "facts": {"id": "another"}}))


def test_what_goes_in_comes_out(cache):
    assert cache.get("a") is None
    counts = {number: number for number in (9, 10)}  # which sort otherwise as texts
    cache.put("a", ARRAYS, {"id": "case", "numbers": [1, 2.5], "counts": counts})
    entry = cache.get("a")
    assert entry.facts == {"id": "case", "numbers": [1, 2.5], "counts": {"9": 9, "10": 10}}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(entry.arrays[name], array)
        assert entry.arrays[name].dtype == array.dtype
    assert isinstance(entry.arrays["volume"], np.memmap)
    assert not entry.arrays["volume"].flags.writeable
    assert not isinstance(cache.get("a", in_memory=True).arrays["volume"], np.memmap)
    assert names(cache.folder) == ["a"]


def test_key_follows_files_and_parameters(tmp_path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(b"12345")
    key = cache_key([path], {"spacing_mm": (1.0, 1.0, 1.0)})
    assert cache_key([path], {"spacing_mm": [1.0, 1.0, 1.0]}) == key
    assert cache_key([path], {"spacing_mm": [1.0, 1.0, 2.0]}) != key
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert cache_key([path], {"spacing_mm": [1.0, 1.0, 1.0]}) != key
    for suffix in (".hdr", ".img"):
        (tmp_path / f"a{suffix}").write_bytes(b"x")
    before = cache_key([tmp_path / "a.hdr"], {})
    (tmp_path / "a.img").write_bytes(b"xy")
    assert cache_key([tmp_path / "a.hdr"], {}) != before


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "volume.npy", 150),
        lambda folder: (folder / "volume.npy").write_bytes(b"nonsense"),
        lambda folder: (folder / "volume.npy").unlink(),
        lambda folder: (folder / "facts.json").write_text("{"),
        lambda folder: (folder / "facts.json").write_text('{"arrays": {}, "facts": {}}'),
        lambda folder: edit_facts(folder / "facts.json"),
        lambda folder: np.save(folder / "volume.npy", np.zeros((9, 9))),
    ],
)
def test_damaged_entry_is_removed_and_can_be_stored_again(cache, caplog, damage):
    cache.put("a", ARRAYS, {})
    damage(cache.folder / "a")
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        assert cache.get("a") is None
    assert "rebuilding the damaged entry" in caplog.text
    assert names(cache.folder) == []
    cache.put("a", ARRAYS, {})
    np.testing.assert_array_equal(cache.get("a").arrays["volume"], ARRAYS["volume"])


def test_a_folder_that_was_deleted_is_made_anew_and_its_lease_too(cache):
    cache.put("a", ARRAYS, {})
    shutil.rmtree(cache.folder)
    assert cache.get("a") is None
    cache.put("b", ARRAYS, {})
    assert names(cache.folder) == ["b"]
    (lease,) = (cache.folder / ".users").iterdir()
    assert set(lease.read_text().split()) == {"a", "b"}


def test_least_recently_used_goes_first(tmp_path):
    folder = tmp_path / "cache"
    for age, key in enumerate(["new", "mid", "old"]):
        with_one = Cache(folder, 1e9)
        with_one.put(key, entry_of(10), {})
        with_one.close()
        then = time.time() - 100 - age
        os.utime(folder / key / "facts.json", (then, then))
    reader = Cache(folder, 1e9)
    reader.get("old")  # used now
    reader.close()
    cache = Cache(folder, 35_000)
    cache.put("next", entry_of(10), {})
    cache.close()
    assert names(folder) == ["new", "next", "old"]


def test_nothing_in_use_is_evicted(tmp_path, caplog):
    folder = tmp_path / "cache"
    other = Cache(folder, 1e9)  # as another process would: a lease of its own
    other.put("theirs", entry_of(10), {})
    cache = Cache(folder, 15_000)
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        for key in ("a", "b", "c"):
            cache.put(key, entry_of(10), {})
    assert names(folder) == ["a", "b", "c", "theirs"]
    assert caplog.text.count("data.cache.limit_gb=1.5e-05 is passed") == 1
    other.close()
    cache.close()
    last = Cache(folder, 15_000)
    last.put("d", entry_of(10), {})
    assert names(folder) == ["d"]
    last.close()


def test_leftovers_of_a_killed_process_are_removed(tmp_path, request):
    folder = tmp_path / "cache"
    program = f"""
import numpy as np, os, signal
from pathlib import Path
from data.prepare import cache
c = cache.Cache(Path({str(folder)!r}), 1e9)
c.put("whole", {{"volume": np.zeros(1000)}}, {{}})
cache.disk.flush_folder = lambda _: os.kill(os.getpid(), signal.SIGKILL)
c.put("half", {{"volume": np.zeros(1000)}}, {{}})
"""
    child = subprocess.run([sys.executable, "-c", program], cwd=request.config.rootpath, check=False)
    assert child.returncode == -9
    assert len(names(folder)) == 2  # the whole one, and a temporary
    cache = Cache(folder, 1e9)
    assert cache.get("half") is None
    cache.put("mine", ARRAYS, {})
    assert names(folder) == ["mine", "whole"]
    assert len(list((folder / ".users").iterdir())) == 1
    cache.close()


def test_full_disk_leaves_nothing_and_names_the_mend(tmp_path) -> None:
    cache = Cache(tmp_path / "cache", 1e9)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"data\.cache\.folder=.*10 kB needed, .* free.*data\.cache\.limit_gb=1"):
            cache.put("a", entry_of(10), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(cache.folder) == []
    cache.put("a", entry_of(10), {})
    assert cache.get("a") is not None
    cache.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"set data\.cache\.folder to another disk"):
        Cache(tmp_path / "file" / "cache", 1e9).put("a", ARRAYS, {})


@pytest.mark.slow
def test_processes_that_race_for_one_entry(tmp_path, request):
    program = """
import sys
import numpy as np
from pathlib import Path
from data.prepare.cache import Cache
cache = Cache(Path(sys.argv[1]), 300_000)
for i in range(60):
    key = f"k{i % 7}"
    entry = cache.get(key)
    if entry is None:
        cache.put(key, {"volume": np.full(30_000, i % 7, np.uint8)}, {"i": i % 7})
        entry = cache.get(key)
    if entry is not None:
        assert (entry.arrays["volume"] == entry.facts["i"]).all()
    if i % 10 == 9:
        cache.close()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    children = [
        subprocess.Popen(command, cwd=request.config.rootpath, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert "damaged" not in errors
    for key in names(tmp_path):
        assert json.loads((tmp_path / key / "facts.json").read_text())["facts"]["i"] == int(key[1:])

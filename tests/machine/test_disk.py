"""What is flushed, and by which call."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from machine import disk


def test_files_and_folders_are_flushed(tmp_path, monkeypatch) -> None:
    flushed = []
    monkeypatch.setattr(disk, "flush", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    disk.write_flushed(tmp_path / "file", b"content")
    disk.flush_folder(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert flushed == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize("refused", [False, True])
def test_macos_flushes_the_drive_where_the_volume_lets_it(monkeypatch, refused: bool) -> None:
    calls: list[object] = []

    def full(descriptor: int, command: int) -> None:
        calls.append(("full", descriptor, command))
        if refused:
            raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(disk.sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(("fsync", descriptor)))
    disk.flush(7)
    assert calls == [("full", 7, 51)] + [("fsync", 7)] * refused


def test_elsewhere_it_is_fsync(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(disk.sys, "platform", "linux")
    monkeypatch.setattr(os, "fsync", calls.append)
    disk.flush(7)
    assert calls == [7]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"a\.csv: cannot be written \(No space left on device\); free some space on its disk"),
        (errno.EFBIG, r"a\.csv: cannot be written \(File too large\); raise the limit on file sizes \(ulimit -f\)"),
    ],
)
def test_a_full_disk_names_the_file(number: int, said: str) -> None:
    for kind in (ValueError, OSError):  # as either of the two that scripts print
        with pytest.raises(kind, match=said), disk.writing(Path("a.csv")):
            raise OSError(number, os.strerror(number))


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/a"), disk.writing(tmp_path / "nowhere" / "a"):
        (tmp_path / "nowhere" / "a").write_text("")


@pytest.mark.slow
def test_a_limit_on_file_sizes_names_the_file(tmp_path: Path) -> None:
    """Of volumes, tables and JSON alike, in a process of its own that may write 4 kB a file."""
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from data.files.volumes import read_image, write_volume
from engine.reports.tables import write_csv, write_metrics
folder = Path(sys.argv[1])
np.save(folder / "a.npy", np.zeros((20, 20, 20)))
_, _, source = read_image(folder / "a.npy")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
writes = {
    "p.nii.gz": lambda path: write_volume(path, noise, source),
    "cases.csv": lambda path: write_csv(path, ["case"], [["x" * 100]] * 100),
    "metrics.json": lambda path: write_metrics(path, {"x": list(range(5000))}),
}
for name, write in writes.items():
    try:
        write(folder / name)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    fix = (
        "cannot be written (File too large); raise the limit on file sizes (ulimit -f), or write to another file system"
    )
    assert done.stdout.splitlines() == [
        f"{tmp_path / name}: {fix}" for name in ("p.nii.gz", "cases.csv", "metrics.json")
    ]

"""What is flushed, and by which call."""

import errno
import fcntl
import os

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

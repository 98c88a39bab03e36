import gzip
import os
import re
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.files import videos
from data.files.errors import FileProblem
from data.files.gzip import gzip_problem, read_content, read_head
from data.files.volumes import read_header

CONTENT = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8).tobytes()


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "a.nii.gz"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(CONTENT),
        gzip.compress(CONTENT[:30_000]) + gzip.compress(b"") + gzip.compress(CONTENT[30_000:]),  # members
        gzip.compress(CONTENT) + bytes(1000),  # padded
        CONTENT,  # not compressed, whatever the name says
    ],
)
def test_content_is_whole(tmp_path: Path, data: bytes) -> None:
    path = saved(tmp_path, data)

    assert read_content(path, len(CONTENT)).tobytes() == CONTENT
    assert read_head(path, 348) == CONTENT[:348]
    assert gzip_problem(path, len(CONTENT)) is None


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    data = gzip.compress(CONTENT)
    path = saved(tmp_path, data[: int(len(data) * keep)])

    with pytest.raises(FileProblem, match="truncated gzip data"):
        read_content(path, len(CONTENT))
    problem = gzip_problem(path, len(CONTENT))
    assert problem is not None
    assert "truncated gzip data" in problem.reason


def test_a_file_cut_at_a_member_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, gzip.compress(CONTENT[:30_000]))

    with pytest.raises(FileProblem, match=r"header promises 100000 bytes .* holds 30000"):
        read_content(path, len(CONTENT))
    problem = gzip_problem(path, len(CONTENT))
    assert problem is not None
    assert "holds 30000" in problem.reason


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(CONTENT))
    data[-6] ^= 1  # in the checksum
    with pytest.raises(FileProblem, match="damaged gzip data"):
        read_content(saved(tmp_path, bytes(data)), len(CONTENT))


@pytest.mark.slow
def test_a_bomb_is_neither_inflated_nor_kept(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(100 << 20), compresslevel=1)  # half a MB that becomes 105
    path = saved(tmp_path, bomb)

    tracemalloc.start()
    with pytest.raises(FileProblem, match="holds more data than the 100 kB that its header promises"):
        read_content(path, 100_000)
    assert read_head(path, 348) == bytes(348)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


def test_a_promise_that_no_gzip_of_this_size_can_keep(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"header promises 4 TB, more than .* of gzip can hold"):
        read_content(saved(tmp_path, gzip.compress(CONTENT)), 4 * 10**12)


def test_plain_files_are_held_to_their_size(tmp_path: Path) -> None:
    path = saved(tmp_path, CONTENT)

    assert len(read_content(path, len(CONTENT) - 4096)) == len(CONTENT) - 4096
    with pytest.raises(FileProblem, match="holds more data than"):
        read_content(path, len(CONTENT) - 4097)
    with pytest.raises(FileProblem, match=r"truncated: header promises 100001 bytes .* holds 100000"):
        read_content(path, len(CONTENT) + 1)


def test_what_the_system_refuses_is_a_file_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileProblem, match="no such file"):
        read_head(tmp_path / "none.nii", 10)
    with pytest.raises(FileProblem, match="is a folder"):
        read_head(tmp_path, 10)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = saved(tmp_path, CONTENT)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FileProblem, match="permission denied"):
        read_head(path, 10)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_pipe, r"is a named pipe \(FIFO\), not a regular file; replace it by the file, or remove it"),
        (make_socket, "is a socket, not a regular file; replace it by the file, or remove it"),
        (Path.mkdir, "is a folder, not a file; name the file inside it"),
        (lambda path: path.symlink_to("nowhere"), "no such file; correct the path, or remove the case"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.npz", "a.npy", "a.mp4"])
def test_what_is_no_regular_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], said: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has at most about 100 letters
    make(Path(name))
    read = videos.read_header if name == "a.mp4" else read_header
    with pytest.raises(FileProblem, match=rf"^{re.escape(name)}: {said}"):
        read(Path(name))

"""Decoding by value: which frame, when, which way up."""

import socket
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from data.files import footage as footage_module
from data.files.clips import read_clip, read_frames, read_header
from data.files.errors import FileProblem
from data.files.footage import resized
from tests.data.clip_files import corners_of, numbered, numbers_of, quarters, write_clip

UNEVEN_MS = [0, 100, 150, 700, 710, 1000, 1500, 1510]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 numbered frames, 100 ms apart, a keyframe every 8."""
    return write_clip(tmp_path_factory.mktemp("clips") / "plain.mp4", numbered(24), options={"g": "8"})


def test_header(plain: Path) -> None:
    header = read_header(plain)
    assert (header.width, header.height) == (48, 32)
    assert header.duration_s == pytest.approx(2.4)
    assert header.frame_rate == pytest.approx(10)


def test_every_frame_with_its_time(plain: Path) -> None:
    footage = read_clip(plain, short_side=16)
    assert footage.frames.shape == (24, 16, 24, 3)
    assert footage.frames.dtype == np.uint8
    assert numbers_of(footage.frames) == list(range(24))
    np.testing.assert_allclose(footage.times_s, np.arange(24) / 10, atol=1e-6)
    assert footage.duration_s == pytest.approx(2.4)


def test_times_are_the_timestamps(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "uneven.mp4", numbered(8), UNEVEN_MS)
    footage = read_clip(path, short_side=32)
    np.testing.assert_allclose(footage.times_s, np.array(UNEVEN_MS) / 1000, atol=1e-6)
    thinned = read_clip(path, short_side=32, rate=5)  # wanted at 0, 0.2, 0.4, ... : what is on show then
    assert numbers_of(thinned.frames) == [0, 2, 4, 5, 7]
    np.testing.assert_allclose(thinned.times_s, [0, 0.15, 0.71, 1.0, 1.51], atol=1e-6)


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "late.mkv", numbered(4), [5000, 5100, 5200, 5300])
    footage = read_clip(path, short_side=32)
    np.testing.assert_allclose(footage.times_s, [0, 0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_array_equal(read_frames(path, footage, [2], 32)[0], footage.frames[2])


@pytest.mark.parametrize(
    ("rotation", "corners"),
    [
        ({"degrees": 0}, ["red", "green", "blue", "black"]),
        ({"degrees": 90}, ["green", "black", "red", "blue"]),  # counter-clockwise
        ({"degrees": -90}, ["blue", "red", "black", "green"]),
        ({"degrees": 180}, ["black", "blue", "green", "red"]),
        ({"degrees": 0, "hflip": True}, ["green", "red", "black", "blue"]),
        ({"degrees": 90, "hflip": True}, ["black", "green", "blue", "red"]),
    ],
)
def test_rotation_tags_are_honoured(tmp_path: Path, rotation: dict[str, object], corners: list[str]) -> None:
    path = write_clip(tmp_path / "turned.mp4", quarters(), **rotation)
    header, footage = read_header(path), read_clip(path, short_side=24)
    size = (48, 64) if abs(rotation["degrees"]) == 90 else (64, 48)
    assert (header.width, header.height) == size
    assert footage.frames.shape[1:3] == (size[1] // 2, size[0] // 2)
    assert corners_of(footage.frames[0]) == corners


def test_a_display_matrix_of_zeros_is_none(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", quarters(), degrees=90)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = bytes(36)
    path.write_bytes(bytes(data))
    header = read_header(path)
    assert (header.width, header.height, header.turned) == (64, 48, False)
    assert corners_of(read_clip(path, short_side=24).frames[0]) == ["red", "green", "blue", "black"]


def test_an_ending_in_capitals(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "A.MP4").write_bytes(plain.read_bytes())
    assert numbers_of(read_clip(tmp_path / "A.MP4", short_side=16).frames) == list(range(24))


def test_odd_sizes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "odd.mp4", quarters(size=(49, 65)), pixels="yuv444p")
    frames = read_clip(path, short_side=33).frames
    assert frames.shape == (3, 33, 44, 3)  # 65 × 33 / 49 = 43.8
    assert corners_of(frames[0]) == ["red", "green", "blue", "black"]


def test_size_keeps_the_shape() -> None:
    assert resized(256, 144, 128) == (228, 128)
    assert resized(144, 256, 128) == (128, 228)
    assert resized(20, 20, 128) == (128, 128)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mkv", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv420p"),
        ("a.avi", "libx264", "yuv420p"),  # with frames out of order, and decoding times alone
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.gif", "gif", "gray"),
        ("no suffix", "libx264", "yuv420p"),
        ("colon:.mp4", "libx264", "yuv420p"),
    ],
)
def test_containers(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    written = tmp_path / (name if "." in name else "a.mp4")
    path = write_clip(tmp_path / "a.mp4" if ":" in name else written, numbered(9), codec=codec, pixels=pixels)
    path = path.rename(tmp_path / name)
    footage = read_clip(path, short_side=32)
    assert numbers_of(footage.frames) == list(range(9))
    np.testing.assert_allclose(footage.times_s, np.arange(9) / 10, atol=1e-6)
    np.testing.assert_array_equal(read_frames(path, footage, [3, 8], 32), footage.frames[[3, 8]])


def test_grey(plain: Path) -> None:
    footage = read_clip(plain, short_side=16, grey=True)
    assert footage.frames.shape == (24, 16, 24, 1)
    assert numbers_of(footage.frames) == list(range(24))


@pytest.mark.parametrize("wanted", [[0], [7], [8, 9], [5, 15, 23], [23]])
def test_frames_read_alone_are_those_of_the_whole(plain: Path, wanted: list[int]) -> None:
    footage = read_clip(plain, short_side=20)
    np.testing.assert_array_equal(read_frames(plain, footage, wanted, 20), footage.frames[wanted])


def test_a_long_clip_keeps_its_times_alone(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage_module, "MAX_CLIP_BYTES", 10_000)
    footage = read_clip(plain, short_side=32)
    assert footage.frames is None
    assert len(footage.times_s) == 24


def damaged(path: Path, plain: Path, kind: str) -> None:
    content = plain.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a clip")
    elif kind == "overwritten":
        start = content.index(b"mdat") + len(content) // 4
        path.write_bytes(content[:start] + bytes(range(256)) * 2 + content[start + 512 :])
    elif kind == "sound":
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(1600))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "no video that ffmpeg can open"),
        ("empty", "empty file; restore the file from its origin"),
        ("text", "no video that ffmpeg can open"),
        ("sound", "holds no video; leave it out"),
        ("missing", "no such file; correct the path, or remove the case"),
        ("overwritten", r"damaged after 0\.\d+ seconds"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, plain: Path, kind: str, message: str) -> None:
    path = tmp_path / "bad.mp4"
    damaged(path, plain, kind)
    with pytest.raises(FileProblem, match=rf"bad\.mp4: {message}"):
        read_clip(path, short_side=32)


def test_a_clip_that_ends_early(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 48, 3)).astype(np.uint8)
    path = write_clip(tmp_path / "whole.mkv", noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileProblem, match=r"truncated: [01]\.\d+ of 2\.40 seconds can be decoded"):
        read_clip(path, short_side=32)


def test_playlists_do_not_reach_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = tmp_path / "list.m3u8"
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n")
        with pytest.raises(FileProblem, match=r"list\.m3u8"):
            read_header(path)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".mpg"])
def test_an_interval_is_the_same_as_a_part_of_the_whole(tmp_path: Path, ending: str) -> None:
    codec = {".avi": "mpeg4", ".mpg": "mpeg1video"}.get(ending, "libx264")
    path = tmp_path / f"clip{ending}"
    if ending == ".mpg":
        write_at_25(path, numbered(24))
    else:
        write_clip(path, numbered(24), codec=codec, options={"g": "8"})
    whole = read_clip(path, short_side=32)
    for start, stop in ((0.5, 0.9), (0.0, 0.4), (0.2, 0.3)):
        part = read_clip(path, short_side=32, interval_s=(start, stop))
        inside = np.flatnonzero((whole.times_s > start - 1e-3) & (whole.times_s < stop - 1e-3))
        np.testing.assert_array_equal(part.frames, whole.frames[inside])
        np.testing.assert_allclose(part.times_s, whole.times_s[inside] - whole.times_s[inside[0]], atol=1e-6)
        assert part.duration_s == pytest.approx(stop - whole.times_s[inside[0]], abs=1e-3)
        np.testing.assert_array_equal(read_frames(path, part, [0, 1][: len(inside)], 32), part.frames[:2])


def test_an_interval_outside_its_video(plain: Path) -> None:
    with pytest.raises(FileProblem, match=r"lasts 2\.40 seconds, the interval is from 2 to 5; correct the interval"):
        read_clip(plain, 16, interval_s=(2.0, 5.0))
    assert len(read_clip(plain, 16, interval_s=(2.0, 2.7)).times_s) == 4  # an end that was rounded up
    with pytest.raises(FileProblem, match=r"no frame comes on show from 0\.01 to 0\.02 seconds"):
        read_clip(plain, 16, interval_s=(0.01, 0.02))


def write_at_25(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg1video", rate=25, options={"g": "8"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())

"""Clips stored as images: which frame, when, and what is wrong with them."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from data.files.clips import read_clip, read_frames, read_header
from data.files.errors import FileProblem
from data.files.images import find_gaps, is_frame_folder, is_stack, list_frames
from tests.data.clip_files import corners_of, numbered, numbers_of, quarters, write_frames


def write_stack(path: Path, frames: np.ndarray) -> Path:
    first, *more = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=more)
    return path


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp"])
def test_frames_in_natural_order_with_their_times(tmp_path: Path, ending: str) -> None:
    folder = write_frames(tmp_path / "clip", numbered(12), ending)  # frame_1 … frame_12
    (folder / "notes.txt").touch()
    (folder / ".hidden.png").touch()
    header, footage = read_header(folder, 4.0), read_clip(folder, 16, image_rate=4.0)
    assert (header.width, header.height, header.duration_s, header.frame_rate) == (48, 32, 3.0, 4.0)
    assert not header.timed
    assert footage.frames is not None
    assert footage.frames.shape == (12, 16, 24, 3)
    assert numbers_of(footage.frames) == list(range(12))
    np.testing.assert_allclose(footage.times_s, np.arange(12) / 4)
    assert footage.duration_s == 3.0
    np.testing.assert_array_equal(read_frames(folder, footage, [3, 9], 16, image_rate=4.0), footage.frames[[3, 9]])


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "clip.tiff", numbered(6))
    footage = read_clip(path, 32, rate=1.0, image_rate=2.0)  # on show at 0, 1, 2 seconds
    assert footage.frames is not None
    assert numbers_of(footage.frames) == [0, 2, 4]
    np.testing.assert_array_equal(read_frames(path, footage, [1], 32, image_rate=2.0), footage.frames[1:2])
    assert is_stack(path)


def test_grey_frames_and_colours(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", quarters(), ".png")
    frames = read_clip(folder, 24).frames
    assert frames is not None
    assert corners_of(frames[0]) == ["red", "green", "blue", "black"]
    assert read_clip(write_frames(tmp_path / "grey", numbered(3)[..., 0], ".png"), 16).frames.shape == (3, 16, 24, 3)
    assert numbers_of(read_clip(tmp_path / "grey", 16, grey=True).frames) == [0, 1, 2]


def test_an_interval(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", numbered(12), ".png")
    footage = read_clip(folder, 16, interval_s=(1.0, 2.0), image_rate=4.0)
    assert numbers_of(footage.frames) == [4, 5, 6, 7]
    np.testing.assert_allclose(footage.times_s, np.arange(4) / 4)
    assert (footage.duration_s, footage.start_s) == (1.0, 1.0)
    np.testing.assert_array_equal(read_frames(folder, footage, [2], 16, image_rate=4.0)[0], footage.frames[2])
    with pytest.raises(FileProblem, match=r"clip: lasts 3\.00 seconds, the interval is from 2 to 9; correct the inter"):
        read_clip(folder, 16, interval_s=(2.0, 9.0), image_rate=4.0)


def test_what_is_wrong_is_told_by_frame(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "sizes", numbered(3), ".png")
    iio.imwrite(folder / "frame_2.png", numbered(1, (32, 64))[0])
    with pytest.raises(FileProblem, match=r"frame_2\.png: 64×32 pixels, others of its clip 48×32; bring all"):
        read_clip(folder, 16)
    folder = write_frames(tmp_path / "damaged", numbered(3), ".png")
    (folder / "frame_3.png").write_bytes((folder / "frame_3.png").read_bytes()[:60])
    with pytest.raises(FileProblem, match=r"frame_3\.png: cannot be read"):
        read_clip(folder, 16)
    (folder / "frame_3.png").write_bytes(b"no image")
    with pytest.raises(FileProblem, match=r"frame_3\.png: no image that can be read; restore the file"):
        read_clip(folder, 16)
    (folder / "frame_1.png").write_bytes(b"")
    with pytest.raises(FileProblem, match=r"frame_1\.png: empty file; restore the file"):
        read_header(folder)
    folder = write_frames(tmp_path / "deep", np.full((2, 32, 48), 1000, np.uint16), ".png")
    with pytest.raises(FileProblem, match=r"frame_1\.png: its pixels are uint16, and frames are of 8 bits; convert"):
        read_header(folder)
    folder = write_frames(tmp_path / "pages", numbered(3), ".tif")
    write_stack(folder / "frame_2.tif", numbered(4))
    with pytest.raises(FileProblem, match=r"frame_2\.tif: holds 4 pages, in a folder of frames of one; move it out"):
        read_clip(folder, 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileProblem, match=r"empty: a folder without frames \(\.png, "):
        read_clip(tmp_path / "empty", 16)


def test_folders_of_frames_are_told_from_content(tmp_path: Path) -> None:
    assert is_frame_folder(write_frames(tmp_path / "frames", numbered(2), ".tif"))
    (tmp_path / "stacks").mkdir()
    write_stack(tmp_path / "stacks" / "a.tif", numbered(2))
    assert not is_frame_folder(tmp_path / "stacks")  # each file is a clip
    assert not is_frame_folder(tmp_path)
    assert [path.name for path in list_frames(tmp_path / "frames")] == ["frame_1.tif", "frame_2.tif"]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["f1", "f2", "f4", "f7"], []),  # steps of any kind
        (["f1", "f2", "f3", "f5", "f8", "f9"], [4, 6, 7]),
        (["0", "5", "10", "20", "25"], [15]),
        (["a", "b", "c"], []),
        (["t_0001_x", "t_0002_x", "t_0003_x"], []),
    ],
)
def test_missing_frames(tmp_path: Path, names: list[str], missing: list[int]) -> None:
    for name in names:
        (tmp_path / f"{name}.png").touch()
    assert find_gaps(tmp_path) == missing
    assert find_gaps(tmp_path / "clip.tif") == []

"""Clips stored as images: a folder of frames, or the pages of a TIFF. They have no times, only a rate that is said.

Read with imageio (Pillow); frames pass through PyAV's scaler, so that they look as those of a video do.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np

from data.files.errors import RESTORE, FileProblem, fault_of, names_its_file
from data.files.footage import SAME_TIME_S, ClipHeader, Footage, Interval, Shown
from data.files.gzip import open_file
from data.files.videos import BEYOND_S, ENDINGS, past_the_end, picture_of

TIFF = (".tif", ".tiff")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF)
RATE = 25.0  # frames a second, where none is said


def is_image(path: Path) -> bool:
    """Return whether the name is that of an image."""
    return path.suffix.lower() in IMAGES and not path.name.startswith(".")


def is_stack(path: Path) -> bool:
    """Return whether a file is a TIFF of several pages; one that cannot be read is none."""
    if path.suffix.lower() not in TIFF or not path.is_file():
        return False
    try:
        with _opened(path) as frames:
            return frames.count > 1
    except Exception:  # whatever the library raises: reading the file says what is wrong
        return False


def is_frame_folder(path: Path) -> bool:
    """Return whether a folder is one clip: images lie right in it, the first of one page, and no other clip does."""
    if not path.is_dir() or path.name.startswith("."):
        return False
    images = list_frames(path)
    if not images or is_stack(images[0]):
        return False
    others = (inner for inner in path.iterdir() if not is_image(inner))  # of images, which may be many, names suffice
    return not any(inner.suffix.lower() in ENDINGS or is_frame_folder(inner) for inner in others)


def is_image_clip(path: Path) -> bool:
    """Return whether a path is a clip stored as images: a folder of frames, or a TIFF."""
    return path.is_dir() or path.suffix.lower() in TIFF


def list_frames(folder: Path) -> list[Path]:
    """Return the images right in a folder, frame_2 before frame_10."""
    return sorted(filter(is_image, folder.iterdir()), key=lambda path: _natural(path.name))


def find_gaps(folder: Path) -> list[int]:
    """Return the numbers missing among those that end the frames' names: 3 of frame_1, frame_2, frame_4.

    Steps may be of any size, as long as all are multiples of the usual one; else, and of a TIFF, there are no gaps.
    """
    names = [path.stem for path in list_frames(folder)] if folder.is_dir() else []
    numbers = sorted({int(found[1]) for name in names if (found := re.search(r"(\d{1,6})\D*$", name))})
    steps = np.diff(numbers)
    usual = int(np.median(steps)) if len(steps) > 1 else 0
    if not usual or (steps % usual).any():
        return []
    return sorted(set(range(numbers[0], numbers[-1], usual)) - set(numbers))


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sorting key by which numbers in names count as numbers."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


@names_its_file
def read_header(path: Path, rate: float | None = None) -> ClipHeader:
    """Return the first frame's size, and the length at `rate` frames a second. Raises FileProblem."""
    with _opened(path) as frames:
        height, width = frames.read(0).shape[:2]
        kind, rate = frames.path_of(0).suffix.lower().lstrip("."), rate or RATE
        return ClipHeader(width, height, frames.count / rate, rate, "images", kind, "rgb24", timed=False)


def show(
    path: Path, short_side: int, grey: bool = False, interval_s: Interval | None = None, rate: float | None = None
) -> Iterator[Shown]:
    """Yield the frames in the natural order of their names, each on show for 1 / `rate` seconds; see `videos.show`.

    A frame is decoded before the next one is asked for, or not. Raises FileProblem, with the name of the frame, for one
    that cannot be read or has another size than the first.
    """
    rate = rate or RATE
    with _opened(path, grey) as frames:
        start, stop = interval_s or (0.0, frames.count / rate)
        if stop > frames.count / rate + BEYOND_S:
            raise past_the_end(path, (start, stop), frames.count / rate)
        for number in range(frames.count):
            if start - SAME_TIME_S <= number / rate < stop - SAME_TIME_S:
                picture = partial(_picture, frames, number, short_side, grey)
                yield Shown(picture, number / rate, (number + 1) / rate)


@names_its_file
def read_frames(
    path: Path,
    footage: Footage,
    wanted: Sequence[int],
    short_side: int,
    grey: bool = False,
    rate: float | None = None,
) -> np.ndarray:
    """Return the frames (n, h, w, C) uint8 with these indices in `footage`. Raises FileProblem."""
    numbers = np.rint((footage.times_s[list(wanted)] + footage.start_s) * (rate or RATE)).astype(int).tolist()
    with _opened(path, grey) as frames:
        return np.stack([_picture(frames, number, short_side, grey) for number in numbers])


class _Frames:
    """The frames of a clip by number; `read` returns one as stored, upright, (h, w, 3) or, grey, (h, w) uint8.

    They are `files`, or the pages of the `stack`: each page is found from the one before, so it stays open.
    """

    def __init__(self, files: Sequence[Path], stack: Any, grey: bool) -> None:
        self.count = len(files) if stack is None else _num_pages(stack)
        self._files, self._stack, self._mode = files, stack, "L" if grey else "RGB"
        self._shape: tuple[int, ...] = ()

    def path_of(self, number: int) -> Path:
        return self._files[0 if self._stack is not None else number]

    def read(self, number: int) -> np.ndarray:
        path = self.path_of(number)
        with fault_of(path):
            if self._stack is not None:
                picture = self._read(path, self._stack, number)
            else:
                with _open_image(path) as file:
                    if path.suffix.lower() in TIFF and (pages := _num_pages(file)) > 1:
                        reason = f"holds {pages} pages, in a folder of frames of one"
                        raise FileProblem(path, reason, "move it out of the folder, as a clip of its own")
                    picture = self._read(path, file, 0)
        self._shape = self._shape or picture.shape
        if picture.shape != self._shape:
            (height, width), (first_height, first_width) = picture.shape[:2], self._shape[:2]
            reason = f"{width}×{height} pixels, others of its clip {first_width}×{first_height}"
            raise FileProblem(path, reason, "bring all frames of a clip to one size")
        return picture

    def _read(self, path: Path, file: Any, page: int) -> np.ndarray:
        dtype = file.properties(index=page).dtype
        if dtype not in (np.uint8, bool):
            reason = f"its pixels are {dtype}, and frames are of 8 bits"
            raise FileProblem(path, reason, "convert it to 8 bits, all frames by the same factor")
        return np.ascontiguousarray(file.read(index=page, mode=self._mode, rotate=True))


@contextmanager
def _opened(path: Path, grey: bool = False) -> Iterator[_Frames]:
    if not path.is_dir():
        with _open_image(path) as stack:
            yield _Frames([path], stack, grey)
    elif files := list_frames(path):
        yield _Frames(files, None, grey)
    else:
        reason = f"a folder without frames ({', '.join(IMAGES)})"
        raise FileProblem(path, reason, "name the clip's file or its folder of frames")


def _open_image(path: Path) -> Any:
    with open_file(path):
        pass  # a file that the system lets be read
    try:
        return iio.imopen(path, "r", plugin="pillow")
    except OSError:  # which says no more than that
        reason = "no image that can be read" if path.stat().st_size else "empty file"
        raise FileProblem(path, reason, RESTORE) from None


def _num_pages(file: Any) -> int:
    return int(file.properties(index=...).shape[0])


def _picture(frames: _Frames, number: int, short_side: int, grey: bool) -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(frames.read(number), format="gray" if grey else "rgb24")
    return picture_of(frame, short_side, grey)

"""Clips stored as images: a folder of frames, or the pages of a TIFF. They have no times, only a rate that is said.

Read with imageio (Pillow); frames pass through PyAV's scaler, so that they look as those of a video do.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np

from data.files.errors import FileProblem, fault_of, names_its_file
from data.files.footage import SAME_TIME_S, ClipHeader, Footage, Interval, Shown
from data.files.gzip import open_file
from data.files.videos import ENDINGS, past_the_end, picture_of

TIFF = (".tif", ".tiff")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF)
RATE = 25.0  # frames a second, where none is said

Frame = tuple[Path, int]  # a file and its page


def is_image(path: Path) -> bool:
    """Return whether the name is that of an image."""
    return path.suffix.lower() in IMAGES and not path.name.startswith(".")


def is_stack(path: Path) -> bool:
    """Return whether a file is a TIFF of several pages; one that cannot be read is none."""
    if path.suffix.lower() not in TIFF or not path.is_file():
        return False
    try:
        with iio.imopen(path, "r", plugin="pillow") as file:
            return _num_pages(file) > 1
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
    frames = _list(path)
    (file, page), rate = frames[0], rate or RATE
    picture = _read(file, page, grey=False)
    kind = file.suffix.lower().lstrip(".")
    return ClipHeader(
        picture.shape[1], picture.shape[0], len(frames) / rate, rate, "images", kind, "rgb24", timed=False
    )


def show(
    path: Path, short_side: int, grey: bool = False, interval_s: Interval | None = None, rate: float | None = None
) -> Iterator[Shown]:
    """Yield the frames in the natural order of their names, each on show for 1 / `rate` seconds; see `videos.show`.

    Raises FileProblem, with the name of the frame, for one that cannot be read or has another size than the first.
    """
    frames, rate = _list(path), rate or RATE
    sizes: list[tuple[int, ...]] = []
    start, stop = interval_s or (0.0, len(frames) / rate)
    if stop > (len(frames) + 0.5 * rate) / rate:
        raise past_the_end(path, (start, stop), len(frames) / rate)
    for number, frame in enumerate(frames):
        if start - SAME_TIME_S <= number / rate < stop - SAME_TIME_S:
            yield Shown(_picture(frame, frames[0], short_side, grey, sizes), number / rate, (number + 1) / rate)


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
    frames, rate, sizes = _list(path), rate or RATE, list[tuple[int, ...]]()
    numbers = np.rint((footage.times_s[list(wanted)] + footage.start_s) * rate).astype(int).tolist()
    return np.stack([_picture(frames[number], frames[0], short_side, grey, sizes)() for number in numbers])


def _list(path: Path) -> list[Frame]:
    """Return the frames of a folder, or of a TIFF."""
    if path.is_dir():
        frames = [(file, 0) for file in list_frames(path)]
        if not frames:
            reason = f"a folder without frames ({', '.join(IMAGES)})"
            raise FileProblem(path, reason, "name the clip's file or its folder of frames")
        return frames
    with _opened(path) as file:
        return [(path, page) for page in range(_num_pages(file))]


def _opened(path: Path) -> Any:
    with open_file(path):
        pass  # a file that the system lets be read
    return iio.imopen(path, "r", plugin="pillow")


def _num_pages(file: Any) -> int:
    shape = file.properties(index=...).shape  # of all pages, (pages, h, w, ...)
    return int(shape[0])


def _picture(
    frame: Frame, first: Frame, short_side: int, grey: bool, sizes: list[tuple[int, ...]]
) -> Callable[[], np.ndarray]:
    """Return what decodes a frame; `sizes` holds that of the clip's first decoded frame, once there is one."""

    def decode() -> np.ndarray:
        picture = _read(*frame, grey)
        sizes.append(picture.shape[:2])
        if sizes[-1] != sizes[0]:
            (height, width), (first_height, first_width) = sizes[-1], sizes[0]
            reason = f"{width}×{height} pixels, others of its clip {first_width}×{first_height}"
            raise FileProblem(frame[0], reason, "bring all frames of a clip to one size")
        del sizes[1:]
        layout = "gray" if grey else "rgb24"
        return picture_of(av.VideoFrame.from_ndarray(picture, format=layout), short_side, grey)

    return decode


def _read(path: Path, page: int, grey: bool) -> np.ndarray:
    """Return a page as stored, upright, (h, w, 3) or, grey, (h, w) uint8."""
    with fault_of(path), _opened(path) as file:
        stored = file.properties(index=page)
        if stored.dtype != np.uint8 and stored.dtype != bool:
            reason = f"its pixels are {stored.dtype}, and frames are of 8 bits"
            raise FileProblem(path, reason, "convert it to 8 bits, all frames by the same factor")
        return np.ascontiguousarray(file.read(index=page, mode="L" if grey else "RGB", rotate=True))

"""Clips, however they are stored: videos, folders of frames, TIFFs of pages."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.files import images, videos
from data.files.errors import FileProblem, fault_of, names_its_file
from data.files.footage import ClipHeader, Footage, Interval, Shown, cut_windows, gather


def read_header(path: Path, image_rate: float | None = None) -> ClipHeader:
    """Return a clip's size and length; `image_rate` is the frames a second of one stored as images."""
    return images.read_header(path, image_rate) if images.is_image_clip(Path(path)) else videos.read_header(path)


@names_its_file
def read_clip(
    path: Path,
    short_side: int,
    grey: bool = False,
    rate: float | None = None,
    keep_frames: bool = True,
    interval_s: Interval | None = None,
    image_rate: float | None = None,
) -> Footage:
    """Return the whole clip, or an interval of it, its short side resized to `short_side`, in RGB or grey.

    With `rate`, only frames that are on show at a multiple of 1 / rate seconds are kept. Raises FileProblem,
    with the time that it happened at, for data that do not decode, timestamps that run backwards, and clips
    that end well before their header says.
    """
    footage = gather(_show(path, short_side, grey, interval_s, image_rate), rate, keep_frames)
    if footage is None:
        start, stop = interval_s or (0.0, 0.0)
        raise FileProblem(path, f"no frame comes on show from {start:g} to {stop:g} seconds", "correct the interval")
    return footage


def read_windows(
    path: Path,
    window_s: float,
    hop_s: float,
    short_side: int,
    grey: bool = False,
    rate: float | None = None,
    interval_s: Interval | None = None,
    image_rate: float | None = None,
) -> Iterator[Footage]:
    """Yield windows of a clip of any length, or of an interval of it, in the memory of one: see `cut_windows`."""
    with fault_of(path):
        yield from cut_windows(path, _show(path, short_side, grey, interval_s, image_rate), window_s, hop_s, rate)


def read_frames(
    path: Path,
    footage: Footage,
    wanted: Sequence[int],
    short_side: int,
    grey: bool = False,
    image_rate: float | None = None,
) -> np.ndarray:
    """Return the frames (n, h, w, C) uint8 that `read_clip` counted as `wanted`, ascending. Raises FileProblem."""
    if images.is_image_clip(Path(path)):
        return images.read_frames(path, footage, wanted, short_side, grey, image_rate)
    return videos.read_frames(path, footage, wanted, short_side, grey)


def _show(
    path: Path, short_side: int, grey: bool, interval_s: Interval | None, image_rate: float | None
) -> Iterator[Shown]:
    if images.is_image_clip(path):
        return images.show(path, short_side, grey, interval_s, image_rate)
    return videos.show(path, short_side, grey, interval_s)

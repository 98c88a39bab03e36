"""What is decoded of a clip, whatever it is stored as: frames with their times, whole clips and windows of them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files.errors import FileProblem

MAX_CLIP_BYTES = 1 << 30  # of one clip's resized frames held in memory; longer clips are read piece by piece
SAME_TIME_S = 1e-4

Interval = tuple[float, float]  # seconds after the first frame: from, up to


@dataclass(frozen=True, eq=False)
class Footage:
    """What was decoded of a clip.

    `times_s` (T,) float64 are the kept frames' times after the first frame; `frames` (T, h, w, C) uint8 are
    they, or None where they were not asked for or are too many. The clip lasts `duration_s`; its first frame
    has the timestamp `start_s` in the file.
    """

    times_s: np.ndarray
    frames: np.ndarray | None
    duration_s: float
    start_s: float


@dataclass(frozen=True)
class ClipHeader:
    """What the container says: size as shown, upright, and length, None where it does not say.

    `container` (`mov/mp4`), `codec` (`h264`) and `pixels`, the format of what is stored (`yuv420p`), are ffmpeg's
    names; `turned` tells whether a rotation tag sets the frames upright. `timed`: whether frames have times of their
    own; those of image files have none.
    """

    width: int
    height: int
    duration_s: float | None
    frame_rate: float | None
    container: str = ""
    codec: str = ""
    pixels: str = ""
    turned: bool = False
    timed: bool = True


class Shown(NamedTuple):
    """A frame on show: `picture()` decodes it, (h, w, C) uint8; timestamps in the file at which it comes and goes."""

    picture: Callable[[], np.ndarray]
    begin_s: float
    end_s: float


def gather(shown: Iterable[Shown], rate: float | None, keep_frames: bool) -> Footage | None:
    """Return all frames, or those on show at a multiple of 1 / `rate` seconds; None where there is none.

    The frames of more than MAX_CLIP_BYTES are not kept.
    """
    times: list[float] = []
    frames: list[np.ndarray] = []
    start, end, held_bytes = None, 0.0, 0
    for picture, begin, end in shown:
        start = begin if start is None else start
        if not _is_wanted(begin - start, end - start, rate):
            continue
        times.append(begin - start)
        if keep_frames:
            frames.append(picture())
            held_bytes += frames[-1].nbytes
            if held_bytes > MAX_CLIP_BYTES:
                keep_frames = False
                frames.clear()
    if start is None:
        return None
    return Footage(np.array(times), np.stack(frames) if keep_frames else None, end - start, start)


def cut_windows(
    path: Path, shown: Iterable[Shown], window_s: float, hop_s: float, rate: float | None
) -> Iterator[Footage]:
    """Yield the footage of windows that begin every `hop_s` seconds and lie in the clip; of a shorter clip, all of it.

    Of each window, `start_s` is its time after the clip's first frame. The frame on show at its beginning is its first,
    with a time of 0 or before. Frames are decoded once, those of one window are held. Raises FileProblem, of `path`,
    for a window of more than MAX_CLIP_BYTES.
    """
    held: deque[tuple[float, np.ndarray]] = deque()  # (time after the first frame, frame)
    first, number, end = None, 0, 0.0

    def cut(duration_s: float) -> Footage:
        start = number * hop_s
        while len(held) > 1 and held[1][0] <= start + SAME_TIME_S:  # another is on show when the window begins
            held.popleft()
        return Footage(np.array([time - start for time, _ in held]), np.stack([f for _, f in held]), duration_s, start)

    for picture, begin, end in shown:
        first = begin if first is None else first
        begin, end = begin - first, end - first
        while begin >= number * hop_s + window_s - SAME_TIME_S:
            yield cut(window_s)
            number += 1
        if _is_wanted(begin, end, rate):
            if begin <= number * hop_s + SAME_TIME_S:  # on show when the next window begins, in place of those before
                held.clear()
            held.append((begin, picture()))
            if held[0][1].nbytes * len(held) > MAX_CLIP_BYTES:
                raise FileProblem(path, f"a window of {window_s:g} seconds takes over 1 GB", "choose a shorter one")
    while held and (number == 0 or number * hop_s + window_s <= end + SAME_TIME_S):
        yield cut(min(window_s, end - number * hop_s))
        number += 1


def _is_wanted(begin: float, end: float, rate: float | None) -> bool:
    """Return whether begin <= n / rate < end for some whole n; without a rate each frame is wanted."""
    return rate is None or np.ceil((begin - SAME_TIME_S) * rate) / rate < end - SAME_TIME_S


def resized(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return width and height with the shorter one brought to `short_side`, the shape kept."""
    scale = short_side / min(width, height)
    return max(round(width * scale), short_side), max(round(height * scale), short_side)

"""Frames of a video with their times, upright and resized: the one place where clips are decoded.

Read with PyAV, the library under imageio's `pyav` plug-in (`python -m benchmarks.decoding` compares them). The
plug-in decodes about as fast, and imageio's `ffmpeg` plug-in slower, but it hands out pictures without their
timestamps, rotation tags unheeded, cannot seek by time, and collects garbage twice whenever it closes a file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from data.files.errors import RESTORE, FileProblem, names_its_file
from data.files.footage import SAME_TIME_S, ClipHeader, Footage, Interval, Shown, resized
from data.files.gzip import open_file

ENDINGS = (
    ".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".gif", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts",
    ".3gp", ".ogv", ".y4m",
)  # fmt: skip
BEYOND_S = 0.5  # that an interval may end after its video


@names_its_file
def read_header(path: Path) -> ClipHeader:
    """The container's facts and the first frame's rotation. Raises FileProblem where it holds no video."""
    with _opened(path) as (container, stream):
        frame = next(_decode(path, container, stream), None)
        if frame is None:
            raise FileProblem(path, "no frame can be decoded", RESTORE)
        turn = _turn(frame)
        width, height = (frame.height, frame.width) if turn[0] else (frame.width, frame.height)
        rate = stream.guessed_rate or stream.average_rate
        return ClipHeader(
            width,
            height,
            _promised_duration(stream),
            None if rate is None else float(rate),
            "/".join(container.format.name.split(",")[:2]),
            stream.codec_context.name,
            frame.format.name,
            any(turn),
        )


def show(path: Path, short_side: int, grey: bool = False, interval_s: Interval | None = None) -> Iterator[Shown]:
    """Yield the frames in their order, the short side resized to `short_side`, in RGB or grey.

    With `interval_s` only those that come on show in it, decoded from the keyframe before its beginning. Raises
    FileProblem, with the time that it happened at, for data that do not decode, timestamps that run backwards, and
    clips that end well before their header, or the interval, says.
    """
    return _show_all(path, short_side, grey) if interval_s is None else _show_part(path, short_side, grey, interval_s)


def _show_all(path: Path, short_side: int, grey: bool) -> Iterator[Shown]:
    end = None
    with _opened(path) as (container, stream):
        promised = _promised_duration(stream)
        for frame, begin, end in _on_show(path, container, stream):
            yield Shown(partial(picture_of, frame, short_side, grey), begin, end)
    if end is None:
        raise FileProblem(path, "no frame can be decoded", RESTORE)
    if promised is not None and end < promised - max(0.5, 0.1 * promised):  # some count from 0, some from the first
        raise FileProblem(path, f"truncated: {end:.2f} of {promised:.2f} seconds can be decoded", RESTORE)


def _show_part(path: Path, short_side: int, grey: bool, interval_s: Interval) -> Iterator[Shown]:
    with _opened(path) as (container, stream):
        first = next((stamp for _, stamp in _timed(path, container, stream)), None)
        if first is None:
            raise FileProblem(path, "no frame can be decoded", RESTORE)
        start, stop = (first + time for time in interval_s)
        _seek(container, stream, start)
        nearest = next((stamp for _, stamp in _timed(path, container, stream)), None)
    end = first
    with _opened(path) as (container, stream):
        if nearest is not None and nearest <= start + SAME_TIME_S:  # else an index that leads astray
            _seek(container, stream, start)
        for frame, begin, end in _on_show(path, container, stream):
            if begin >= stop - SAME_TIME_S:
                return
            if begin >= start - SAME_TIME_S:
                yield Shown(partial(picture_of, frame, short_side, grey), begin, min(end, stop))
    if end < stop - BEYOND_S:
        raise past_the_end(path, interval_s, end - first)


def _seek(container: Any, stream: Any, time_s: float) -> None:
    """Go to the keyframe before a timestamp; a raw stream cannot, and goes on from where it is."""
    with suppress(av.FFmpegError):
        container.seek(int(time_s / stream.time_base), stream=stream)


def past_the_end(path: Path, interval_s: Interval, length_s: float) -> FileProblem:
    """Return the problem of an interval that the clip does not hold."""
    start, stop = interval_s
    reason = f"lasts {length_s:.2f} seconds, the interval is from {start:g} to {stop:g}"
    return FileProblem(path, reason, "correct the interval")


@names_its_file
def read_frames(path: Path, footage: Footage, wanted: Sequence[int], short_side: int, grey: bool = False) -> np.ndarray:
    """The frames (n, h, w, C) uint8 that `read_clip` counted as `wanted`, ascending, decoded from the keyframe
    before the first of them. Raises FileProblem."""
    stamps = footage.times_s[list(wanted)] + footage.start_s
    with _opened(path) as (container, stream):
        _seek(container, stream, float(stamps[0]))
        found = _pick(_timed(path, container, stream), stamps, short_side, grey)
    if found is None:  # an index that leads astray
        with _opened(path) as (container, stream):
            found = _pick(_timed(path, container, stream), stamps, short_side, grey)
    if found is None:
        raise FileProblem(path, f"no frame at {footage.times_s[wanted[0]]:.3f} seconds, where one was before", RESTORE)
    return found


def _pick(frames: Iterator[tuple[Any, float]], stamps: np.ndarray, short_side: int, grey: bool) -> np.ndarray | None:
    """The frames at these timestamps; None where one does not come."""
    pictures: list[np.ndarray] = []
    for frame, stamp in frames:
        while len(pictures) < len(stamps) and abs(stamp - stamps[len(pictures)]) < SAME_TIME_S:
            pictures.append(picture_of(frame, short_side, grey))
        if len(pictures) == len(stamps):
            return np.stack(pictures)
        if stamp > stamps[len(pictures)]:
            return None
    return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream."""
    with open_file(path):
        pass  # a file that the system lets be read
    try:
        # No names are taken for network addresses, and no playlist leads there.
        container = av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = "empty file" if not path.stat().st_size else f"no video that ffmpeg can open ({_what(error)})"
        raise FileProblem(path, reason, RESTORE) from None
    with container:
        if not container.streams.video:
            raise FileProblem(path, "holds no video", "leave it out")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise FileProblem(path, "its video has a codec that ffmpeg does not know", RESTORE)
        stream.codec_context.thread_count = 1  # clips are decoded side by side instead
        yield container, stream


def _decode(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    time = 0.0
    try:
        for frame in container.decode(stream):
            time = frame.time if frame.time is not None else time
            yield frame
    except (av.FFmpegError, ValueError) as error:
        raise FileProblem(path, f"damaged after {time:.2f} seconds ({_what(error)})", RESTORE) from None


def _what(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _timed(path: Path, container: Any, stream: Any) -> Iterator[tuple[Any, float]]:
    """Frames with their timestamps in seconds; by the frame rate where a stream has none."""
    last: float | None = None
    step = 1 / float(stream.guessed_rate or 25)
    decoding_order = container.format.name == "avi"  # which has no other times; frames leave the decoder in order
    for frame in _decode(path, container, stream):
        ticks = frame.dts if decoding_order else frame.pts
        expected = 0.0 if last is None else last + step
        stamp = expected if ticks is None else float(ticks * frame.time_base)
        if last is not None and stamp < last - SAME_TIME_S:
            reason = f"timestamps run backwards, from {last:.3f} to {stamp:.3f} seconds"
            raise FileProblem(path, reason, "encode it again, with ffmpeg -i OLD -fps_mode vfr NEW")
        last = stamp
        yield frame, stamp


def _on_show(path: Path, container: Any, stream: Any) -> Iterator[tuple[Any, float, float]]:
    """Frames with the timestamps at which they come on show and go; the last one goes after its own duration, or,
    where it has none, that of the one before."""
    held: tuple[Any, float] | None = None
    length = 1 / float(stream.guessed_rate or 25)
    for frame, stamp in _timed(path, container, stream):
        if held is not None:
            length = stamp - held[1]
            yield *held, stamp
        held = frame, stamp
    if held is not None:
        frame, stamp = held
        yield frame, stamp, stamp + (float(frame.duration * frame.time_base) if frame.duration else length)


def picture_of(frame: Any, short_side: int, grey: bool) -> np.ndarray:
    """Return a PyAV frame upright and resized, (h, w, C) uint8."""
    swap, flip_rows, flip_columns = _turn(frame)
    width, height = resized(frame.width, frame.height, short_side)
    smaller = width * height < frame.width * frame.height
    resized_frame = frame.reformat(
        width=width,
        height=height,
        format="gray" if grey else "rgb24",
        interpolation="AREA" if smaller else "BILINEAR",  # averaged when made smaller, against aliasing
        threads=1,  # by default a pool, which costs a frame of this size more than it gives
    )
    picture = resized_frame.to_ndarray().reshape(height, width, -1)
    if swap:
        picture = picture.swapaxes(0, 1)
    return np.ascontiguousarray(picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _turn(frame: Any) -> tuple[bool, bool, bool]:
    """How a frame is set upright: swap its axes, then flip rows, flip columns; by its display matrix.

    The matrix's upper left 2×2 takes (x, y) as stored to (a x + c y, b x + d y) as shown. Turns by other
    than quarters are left out, and so is a matrix that shows nothing, as one of zeros does.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    (a, b), (c, d) = np.sign(np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2]).tolist()
    if a == d == 0 and b and c:
        return True, b < 0, c < 0
    return (False, d < 0, a < 0) if b == c == 0 and a and d else (False, False, False)


def _promised_duration(stream: Any) -> float | None:
    """Seconds, as the stream's header has it; None where it does not say."""
    if stream.duration is not None and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska's
    hours, _, rest = tag.partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None

"""Clips for tests: frames that tell which one they are by how bright they are."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np

CORNERS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "black": (0, 0, 0)}


def brightness(number: int) -> int:
    """The grey level of frame `number` of `numbered`."""
    return 20 + 8 * number


def numbered(frames: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """Frames (T, H, W, 3), each of one grey level."""
    levels = np.array([brightness(number) for number in range(frames)], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, *size, 3))


def numbers_of(frames: np.ndarray) -> list[int]:
    """Undoes `numbered`, up to what compression changes."""
    return np.rint((frames.reshape(len(frames), -1).mean(axis=1) - 20) / 8).astype(int).tolist()


def quarters(frames: int = 3, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Frames with red, green / blue, black quarters."""
    picture = np.zeros((*size, 3), np.uint8)
    h, w = size[0] // 2, size[1] // 2
    picture[:h, :w], picture[:h, w:] = CORNERS["red"], CORNERS["green"]
    picture[h:, :w] = CORNERS["blue"]
    return np.broadcast_to(picture, (frames, *picture.shape))


def corners_of(frame: np.ndarray) -> list[str]:
    """Colours of the upper left, upper right, lower left and lower right corner."""
    found = [frame[3, 3], frame[3, -4], frame[-4, 3], frame[-4, -4]]
    names = list(CORNERS)
    distances = [[np.abs(np.int64(pixel) - CORNERS[name]).sum() for name in names] for pixel in found]
    return [names[int(np.argmin(row))] for row in distances]


def write_clip(
    path: Path,
    frames: np.ndarray,
    stamps_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    **rotation: Any,
) -> Path:
    """Write frames (T, H, W, 3) uint8 with timestamps, 100 ms apart by default; `rotation` as PyAV's
    `set_display_rotation` takes it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(**rotation)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = 100 * number if stamps_ms is None else stamps_ms[number]
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, frames: np.ndarray, ending: str = ".png") -> Path:
    """Write frames (T, H, W, 3) or (T, H, W) as the images frame_1, frame_2 … of a folder."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(frames, 1):
        iio.imwrite(folder / f"frame_{number}{ending}", picture, plugin="pillow")
    return folder

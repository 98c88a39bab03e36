"""From decoded frames to the network's input: which frames, which part of them, in which colours.

Clips are (D, H, W, C), D being time.
"""

import numpy as np
from PIL import Image

from configs.schema.data import Clip, ClipAugment
from data.sampling.augment_intensity import draw_factor

Box = tuple[float, float, float, float]  # top, left, height, width in pixels

_SAME_TIME_S = 1e-4
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def num_needed(clip: Clip) -> int:
    """Return how many frames a segment takes: differences need one more than they give."""
    return clip.frames + (clip.input == "differences")


def span(clip: Clip, speed: float = 1.0) -> float:
    """Return the time from first to last frame of a segment: in seconds or, without `frame_rate`, in stored frames."""
    return (num_needed(clip) - 1) * speed * (clip.stride if clip.frame_rate is None else 1 / clip.frame_rate)


def draw_segment(times_s: np.ndarray, duration_s: float, clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """Return indices (n,) of a random segment's frames, its speed drawn from `augment.speed`.

    Each time takes the frame on show then. Beyond the end of a short clip the last frame is held, or the
    clip starts again (`short`). With `single_frame` all are one random frame of the segment.
    """
    speed = float(draw_factor(clip.augment.speed, rng)[0])
    room = _room(times_s, clip, speed)
    start = float(rng.integers(int(room) + 1)) if clip.frame_rate is None else rng.uniform(0, room)
    indices = _indices(start, times_s, duration_s, clip, speed)
    if clip.single_frame:
        indices[:] = indices[rng.integers(len(indices))]
    return indices


def place_segments(times_s: np.ndarray, duration_s: float, clip: Clip) -> np.ndarray:
    """Return indices (clips, n) of the frames of evenly spaced segments, the middle one where `clips` is 1."""
    room = _room(times_s, clip)
    starts = room * (np.linspace(0, 1, clip.clips) if clip.clips > 1 else np.array([0.5]))
    if clip.frame_rate is None:
        starts = np.floor(starts)
    indices = np.stack([_indices(float(start), times_s, duration_s, clip, 1.0) for start in starts])
    if clip.single_frame:
        indices[:] = indices[:, indices.shape[1] // 2, None]
    return indices


def _room(times_s: np.ndarray, clip: Clip, speed: float = 1.0) -> float:
    """Return how far a segment can start after the first frame; 0 in a clip that is too short."""
    last = len(times_s) - 1 if clip.frame_rate is None else float(times_s[-1])
    return max(last - span(clip, speed), 0.0)


def _indices(start: float, times_s: np.ndarray, duration_s: float, clip: Clip, speed: float) -> np.ndarray:
    wanted = start + np.linspace(0, span(clip, speed), num_needed(clip))
    stored = clip.frame_rate is None
    if clip.short == "loop":
        wanted = wanted % (len(times_s) if stored else duration_s)
    positions = np.arange(len(times_s)) if stored else times_s
    return np.maximum(np.searchsorted(positions, wanted + _SAME_TIME_S, side="right") - 1, 0)


def draw_box(shape: tuple[int, ...], clip: Clip, rng: np.random.Generator) -> Box:
    """Draw the crop's size, from `augment.zoom` and `aspect`, and its place inside frames of `shape` (n, h, w, C)."""
    height, width = shape[1:3]
    (zoom,), (aspect,) = draw_factor(clip.augment.zoom, rng), np.sqrt(draw_factor(clip.augment.aspect, rng))
    box_height, box_width = clip.crop_pixels[0] / zoom / aspect, clip.crop_pixels[1] / zoom * aspect
    fit = min(1.0, height / box_height, width / box_width)
    box_height, box_width = box_height * fit, box_width * fit
    if (box_height, box_width) == clip.crop_pixels:  # whole pixels, each place as often: cut, not interpolated
        top, left = rng.integers(height - clip.crop_pixels[0] + 1), rng.integers(width - clip.crop_pixels[1] + 1)
    else:
        top, left = rng.uniform(0, height - box_height), rng.uniform(0, width - box_width)
    return float(top), float(left), float(box_height), float(box_width)


def place_boxes(shape: tuple[int, ...], clip: Clip) -> list[Box]:
    """Return the centre crop of frames of `shape` (n, h, w, C), or three along the longer side; rounded down."""
    height, width = shape[1:3]
    crop_height, crop_width = clip.crop_pixels
    shares = (0.5,) if clip.crops == 1 else (0.0, 0.5, 1.0)
    down, across = (0.5 if width >= height else None), (0.5 if height > width else None)
    return [
        (
            int((height - crop_height) * (share if down is None else down)),
            int((width - crop_width) * (share if across is None else across)),
            crop_height,
            crop_width,
        )
        for share in shares
    ]


def cut(frames: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Return the box of frames (n, h, w, C) uint8, resized to `size` (H, W) where its own differs."""
    top, left, height, width = box
    if (height, width) == size:
        top, left = int(top), int(left)
        return frames[:, top : top + size[0], left : left + size[1]]
    corners = (left, top, left + width, top + height)
    cuts = [
        np.asarray(
            Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).resize(
                size[::-1], Image.Resampling.BILINEAR, box=corners
            )
        )
        for frame in frames
    ]
    return np.stack(cuts).reshape(len(frames), *size, frames.shape[-1])


def change_colours(clip: np.ndarray, augment: ClipAugment, rng: np.random.Generator) -> np.ndarray:
    """Return the clip (D, H, W, C) float32 of 0..1 with its brightness, contrast and saturation changed."""
    brightness = rng.uniform(*augment.brightness)
    contrast = rng.uniform(*augment.contrast)
    saturation = rng.uniform(*augment.saturation)
    if brightness == contrast == saturation == 1:
        return clip
    clip = clip * np.float32(brightness)
    if contrast != 1:
        mean = clip.mean(dtype=np.float64)
        clip = clip * np.float32(contrast) + np.float32((1 - contrast) * mean)
    if saturation != 1 and clip.shape[-1] == 3:
        grey = (clip @ _GREY)[..., None]
        clip = grey + (clip - grey) * np.float32(saturation)
    return np.clip(clip, 0, 1)


def normalise(clip: np.ndarray, settings: Clip) -> np.ndarray:
    """Return the network's input (D, H, W, C) float32 of a clip of 0..1: (v - mean) / std; or the differences of
    successive frames, one fewer, over std.
    """
    std = np.array(settings.std, np.float32)
    if settings.input == "differences":
        return np.diff(clip, axis=0) / std
    return (clip - np.array(settings.mean, np.float32)) / std

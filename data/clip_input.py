"""Clips as a network's input: decoded once into the cache, segments and crops cut from there."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.data import Clip
from data.files.clips import read_clip, read_frames, read_header, read_windows
from data.files.errors import FileProblem
from data.files.footage import MAX_CLIP_BYTES, ClipHeader, Footage, resized
from data.files.formats.registry import parts_of
from data.input import Input
from data.layouts.cases import Case
from data.metadata import Metadata, clip_metadata
from data.prepare.cache import Entry
from data.prepare.case_checks import Problem
from data.prepare.copies import content_digest, voxel_digest
from data.prepare.prepared_cases import Store
from data.prepare.statistics import Statistics
from data.sampling.clip_transforms import (
    Box,
    change_colours,
    cut,
    draw_box,
    draw_segment,
    normalise,
    num_needed,
    place_boxes,
    place_segments,
    span,
)
from data.usable_cases import Progress, Roster

_NO_TIMES = (
    "images have no times, which data.clip.frame_rate needs",
    "set data.clip.image_frame_rate to the frames a second that they were taken at",
)


class Clips(Input):
    """Clips with a class, as `data.clip` has them: x (D, H, W, C) float32, D being time.

    Frames beyond `limit_bytes`, all clips together, are not stored: theirs are decoded when they are needed,
    from the keyframe before. Which clips that are depends on the cases' order alone, and batches do not
    depend on it.
    """

    in_memory = False  # frames stay memory maps

    def __init__(self, clip: Clip, store: Store, limit_bytes: float) -> None:
        self.num_channels = self.file_channels = clip.num_channels
        self._clip = clip
        self._store = store
        self._limit_bytes = limit_bytes
        self._headers: dict[str, ClipHeader] = {}
        self._stored: set[str] = set()  # ids of the cases whose frames are kept
        # Slow motion takes frames nearer to each other.
        self._rate = None if clip.frame_rate is None else clip.frame_rate / min(clip.augment.speed[0], 1.0)

    def check(self, roster: Roster, statistics: Statistics | None) -> None:
        """Reject clips that do not open, and decide whose frames are stored."""
        problems = []
        headers: dict[Path, ClipHeader] = {}  # segments of a file have one
        for case in roster.cases.values():
            try:
                if (header := headers.get(_path(case))) is None:
                    header = headers[_path(case)] = read_header(_path(case), self._clip.image_frame_rate)
                self._headers[case.id] = header
                if not header.timed and self._rate is not None and self._clip.image_frame_rate is None:
                    raise FileProblem(_path(case), *_NO_TIMES)
            except FileProblem as problem:
                problems.append(Problem.of(case.id, problem))
        roster.reject(problems)
        total = 0.0
        for case in roster.cases.values():
            total += self._num_bytes(case)
            if total <= self._limit_bytes:
                self._stored.add(case.id)

    def parameters(self) -> dict[str, Any]:
        clip = self._clip
        known = {"short_side": clip.short_side_pixels, "colour": clip.colour, "rate": self._rate}
        return known if clip.image_frame_rate is None else {**known, "image_rate": clip.image_frame_rate}

    def fit(self, roster: Roster, statistics: Statistics | None, progress: Progress | None = None) -> None:
        pass  # nothing is measured on the training split

    def metadata(self, case: Case) -> Metadata:
        header, length_s = self._headers[case.id], self._length_s(case)
        num_bytes = sum(part.stat().st_size for part in parts_of(case.images))
        if case.interval_s is not None and header.duration_s:
            num_bytes = round(num_bytes * length_s / header.duration_s)
        made = header.codec, header.container, header.pixels
        size = header.width, header.height
        return clip_metadata(size, header.frame_rate or 0.0, length_s, num_bytes, *made)

    def bytes_each(self, cases: Iterable[Case]) -> int:
        sizes = (self._num_bytes(case) for case in cases)
        return 2 * int(min(max(sizes, default=0), MAX_CLIP_BYTES))  # frames, and their stack

    def prepare(self, case: Case) -> tuple[int, tuple[str, ...]]:
        entry = self._entry(case)
        footage = _footage_of(entry)
        needed = span(self._clip)
        has = footage.duration_s if self._clip.frame_rate is not None else len(footage.times_s) - 1
        if self._clip.short == "error" and has < needed:
            unit = "frame steps" if self._clip.frame_rate is None else "seconds"
            raise FileProblem(
                _path(case),
                f"lasts {has:.4g} {unit}, a segment of {num_needed(self._clip)} frames takes {needed:.4g}",
                "take fewer frames or nearer ones, or set data.clip.short to hold or loop",
            )
        size = footage.times_s.nbytes + (0 if footage.frames is None else footage.frames.nbytes)
        return size, tuple(entry.facts["digests"])

    def sample(self, case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a random segment and crop of the clip, augmented."""
        footage, augment = self._footage(case), self._clip.augment
        segment = draw_segment(footage.times_s, footage.duration_s, self._clip, rng)
        frames = self._frames(case, footage, segment)
        pixels = cut(frames, draw_box(frames.shape, self._clip, rng), self._clip.crop_pixels)
        if rng.random() < augment.flip:
            pixels = pixels[:, :, ::-1]
        return normalise(change_colours(pixels / np.float32(255), augment, rng), self._clip), None

    def load(self, case: Case) -> np.ndarray:
        """Return all segments times crops (V, D, H, W, C), crops of a segment side by side."""
        return self._views(case, self._footage(case))

    def windows(self, case: Case, window_s: float, hop_s: float) -> Iterator[tuple[float, float, np.ndarray]]:
        """Yield (from, up to, views) of windows of a clip, each seen as a clip of its own: see `cut_windows`.

        Times are seconds after the file's first frame. Nothing is kept of windows that are past. Raises FileProblem.
        """
        clip = self._clip
        how = clip.short_side_pixels, clip.colour == "grey", self._rate, case.interval_s, clip.image_frame_rate
        first, _ = case.interval_s or (0.0, 0.0)
        for window in read_windows(_path(case), window_s, hop_s, *how):
            start = first + window.start_s
            yield start, start + window.duration_s, self._views(case, window)

    def pictures(self, case: Case) -> np.ndarray:
        """Return the frames of each view as they look, (V, D, H, W, C) uint8; with differences, each later one."""
        later = num_needed(self._clip) - self._clip.frames
        return np.stack([pixels[later:] for pixels in self._pictures(case, self._footage(case))])

    def _views(self, case: Case, footage: Footage) -> np.ndarray:
        return np.stack([normalise(p / np.float32(255), self._clip) for p in self._pictures(case, footage)])

    def _pictures(self, case: Case, footage: Footage) -> list[np.ndarray]:
        pictures = []
        for segment in place_segments(footage.times_s, footage.duration_s, self._clip):
            frames = self._frames(case, footage, segment)
            boxes: list[Box] = place_boxes(frames.shape, self._clip)
            pictures += [cut(frames, box, self._clip.crop_pixels) for box in boxes]
        return pictures

    def _frames(self, case: Case, footage: Footage, segment: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the segment's frames (n, h, w, C) uint8."""
        wanted, places = np.unique(segment, return_inverse=True)
        if footage.frames is not None:
            return np.asarray(footage.frames[wanted])[places]
        clip = self._clip
        how = clip.short_side_pixels, clip.colour == "grey", clip.image_frame_rate
        return read_frames(_path(case), footage, wanted.tolist(), *how)[places]

    def _footage(self, case: Case) -> Footage:
        return _footage_of(self._entry(case))

    def _entry(self, case: Case) -> Entry:
        stored = case.id in self._stored
        make = partial(self._make, case, stored)
        parameters = {"clip": self.parameters(), "stored": stored}
        if case.interval_s is not None:
            parameters["interval_s"] = case.interval_s
        return self._store.entry(case.id, case.images, parameters, make)

    def _make(self, case: Case, stored: bool) -> Entry:
        clip = self._clip
        footage = read_clip(
            _path(case),
            clip.short_side_pixels,
            clip.colour == "grey",
            self._rate,
            stored,
            case.interval_s,
            clip.image_frame_rate,
        )
        arrays, digests = {"times_s": footage.times_s}, []
        if footage.frames is not None:
            arrays["frames"] = footage.frames
            digests.append(voxel_digest(footage.frames))
        if case.interval_s is None:  # of clips whose frames are not kept, all that there is to compare
            digests.append(content_digest(_path(case)))
        facts = {"duration_s": footage.duration_s, "start_s": footage.start_s, "digests": digests}
        return Entry(arrays, facts)

    def _length_s(self, case: Case) -> float:
        """Return the length of the clip, of one that is a segment that of its interval; 0 where it is not known."""
        first, last = case.interval_s or (0.0, self._headers[case.id].duration_s or 0.0)
        return last - first

    def _num_bytes(self, case: Case) -> float:
        """Return the bytes of the stored frames, by the header; those of a minute where the header has no length."""
        header = self._headers[case.id]
        width, height = resized(header.width, header.height, self._clip.short_side_pixels)
        rate = min(self._rate or np.inf, header.frame_rate or 30.0)
        return width * height * self.num_channels * rate * (self._length_s(case) or 60.0)


def _footage_of(entry: Entry) -> Footage:
    facts = entry.facts
    return Footage(entry.arrays["times_s"], entry.arrays.get("frames"), facts["duration_s"], facts["start_s"])


def _path(case: Case) -> Any:
    return case.images[0]

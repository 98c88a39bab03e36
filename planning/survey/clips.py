"""Cases that are clips: what their files hold, and what is wrong with them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from data.files.clips import read_clip, read_frames, read_header
from data.files.errors import FileProblem, fault_of
from data.files.footage import Footage
from data.files.formats.registry import parts_of
from data.files.images import RATE, find_gaps
from data.layouts.cases import Case, some
from data.metadata import Metadata, clip_metadata
from data.prepare.case_checks import Problem
from data.prepare.copies import content_digest, voxel_digest
from planning.survey.facts import Facts, Finding, Kind, Reading, ids_of
from planning.survey.format import counted, span
from planning.survey.thumbnails import LONG_SIDE, draw_frame

SHORT_SIDE = 48  # pixels of the frames that are looked at
_STEADY = 0.25  # a step between frames may differ by this share of the usual one
_NOISE = 4  # grey levels that compression adds
_SHORT = 0.5  # of the usual length
_CLIP_BYTES = 1 << 29  # that looking at one clip may take: the frames of longer ones are not kept


@dataclass(frozen=True, eq=False)
class ClipFacts(Facts):
    """What a clip holds. `codec` is empty where it does not open.

    `low` and `high` are the grey levels 0 … 255 of all its frames, made small; `change` is by how much the pixel
    that changes most ever differs from the first frame's.
    """

    num_bytes: int = 0
    container: str = ""
    codec: str = ""
    pixels: str = ""
    width: int = 0  # upright
    height: int = 0
    turned: bool = False
    num_frames: int = 0
    duration_s: float = 0.0
    variable: bool = False  # frames are not evenly spaced
    timed: bool = True  # false: stored as images
    gaps: tuple[int, ...] = ()  # numbers that are missing among the frames'
    assumed_rate: bool = False  # of images, whose frames a second nobody said
    low: float = 0.0
    high: float = 0.0
    change: float = 0.0

    @property
    def frame_rate(self) -> float:
        """Decoded frames a second."""
        return self.num_frames / self.duration_s if self.duration_s else 0.0

    def describe(self) -> str:
        """Return a line on the clip: size, length, frame rate, codec."""
        if not self.codec:
            return "no video that can be opened"
        size = f"{self.width}×{self.height}{', turned upright' if self.turned else ''}"
        if not self.num_frames:
            return f"{size}, {self.codec}"
        rate = f"{self.frame_rate:.3g} fps{' (variable)' if self.variable else ''}"
        return f"{size}, {self.num_frames} frames, {self.duration_s:.3g} s, {rate}, {self.codec}"

    def oddities(self) -> list[str]:
        missing = [f"frames are missing: {some(self.gaps)}; those after them come too early"] if self.gaps else []
        return missing + self._stillness()

    def _stillness(self) -> list[str]:
        if not self.digest or self.change > _NOISE:
            return []
        if self.high - self.low <= _NOISE:
            return ["every frame is of one colour; is it the right file?"]
        return ["a single frame" if self.num_frames == 1 else "nothing moves: frames differ by no more than noise"]

    def metadata(self) -> Metadata:
        if not self.digest:
            return {}
        made = self.codec, self.container, self.pixels
        return clip_metadata((self.width, self.height), self.frame_rate, self.duration_s, self.num_bytes, *made)


def read_clips(cases: Sequence[Case], how: Reading) -> list[ClipFacts]:
    """Decode each clip once; what is wrong with it is among its problems."""
    return how.each(partial(_read_clip, how=how), cases, _CLIP_BYTES)


def _read_clip(case: Case, how: Reading) -> ClipFacts:
    path = case.images[0]
    facts = ClipFacts(case, num_bytes=sum(part.stat().st_size for part in parts_of([path]) if part.is_file()))
    try:
        with fault_of(path):
            header = read_header(path, how.image_rate)
            known = ("container", "codec", "pixels", "width", "height", "turned", "timed")
            facts = replace(facts, **{key: getattr(header, key) for key in known})
            facts = replace(
                facts, gaps=tuple(find_gaps(path)), assumed_rate=not header.timed and how.image_rate is None
            )
            footage = read_clip(path, SHORT_SIDE, grey=True, interval_s=case.interval_s, image_rate=how.image_rate)
            if case.interval_s is not None and header.duration_s:  # its share of the file
                facts = replace(facts, num_bytes=round(facts.num_bytes * footage.duration_s / header.duration_s))
            if how.thumbnails:
                middle = [len(footage.times_s) // 2]
                side = round(LONG_SIDE * min(header.width, header.height) / max(header.width, header.height))
                (frame,) = read_frames(path, footage, middle, max(side, 1), image_rate=how.image_rate)
                facts = replace(facts, thumbnail=draw_frame(frame))
            return _measure(facts, footage)
    except FileProblem as problem:
        return replace(facts, problems=(Problem.of(case.id, problem),))


def _measure(facts: ClipFacts, footage: Footage) -> ClipFacts:
    """Return the facts with what the frames show; of a clip too long to be kept in memory, the times alone."""
    steps, frames = np.diff(footage.times_s), footage.frames
    usual = float(np.median(steps)) if len(steps) else 0.0
    facts = replace(
        facts,
        num_frames=len(footage.times_s),
        duration_s=footage.duration_s,
        variable=bool((np.abs(steps - usual) > _STEADY * usual).any()),
    )
    if frames is None:
        digest = f"{content_digest(facts.case.images[0])} {facts.case.interval_s or ''}"
        return replace(facts, low=0.0, high=255.0, change=255.0, digest=digest)
    change = max(float(np.abs(frame.astype(np.int16) - frames[0]).max()) for frame in frames)
    low, high = float(frames.min()), float(frames.max())
    return replace(facts, low=low, high=high, change=change, digest=voxel_digest(frames))


def tabulate(clips: Sequence[ClipFacts], _: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return (what, value) rows on the whole data set."""
    opened = [facts for facts in clips if facts.codec]
    read = [facts for facts in opened if facts.num_frames]
    if not read:
        return []
    sizes = Counter(f"{facts.width}×{facts.height}" for facts in opened)
    shown = Counter(dict(sizes.most_common(6)))
    more = f" and {len(sizes) - 6} other sizes" if len(sizes) > 6 else ""
    turned, variable = sum(facts.turned for facts in opened), sum(facts.variable for facts in read)
    lengths, frames, rates = (
        span([getattr(facts, key) for facts in read]) for key in ("duration_s", "num_frames", "frame_rate")
    )
    grey = [facts for facts in read if facts.digest]
    return [
        ("container", counted(Counter(facts.container for facts in opened))),
        ("codec", counted(Counter(f"{facts.codec}, {facts.pixels}" for facts in opened))),
        ("frame size", f"{counted(shown)}{more} (width×height, upright)"),
        ("frame rate", f"{rates} a second, {variable} variable"),
        ("length", f"{lengths} s, {frames} frames"),
        ("rotation", f"{turned} turned upright by their tag"),
        ("intensity", f"{min(f.low for f in grey):.0f} … {max(f.high for f in grey):.0f} grey levels" if grey else "-"),
    ]


def _find_differences(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Find short clips, and mixed frame rates and shapes."""
    read = [facts for facts in clips if facts.digest]
    usual = float(np.median([facts.duration_s for facts in read])) if read else 0.0
    advice = f"less than half of the usual {usual:.2g} s: data.clip.short decides how it is filled up"
    for facts in read:
        if facts.duration_s < _SHORT * usual:
            yield Finding(f"lasts {facts.duration_s:.2g} s, {advice}", (facts.case.id,))
    if untimed := ids_of(facts for facts in clips if facts.assumed_rate):
        text = f"images, which have no times: {RATE:g} frames a second are assumed"
        yield Finding(f"{text}; say how many there are with data.clip.image_frame_rate", untimed, "no times")
    rates = [facts.frame_rate for facts in clips if facts.frame_rate]
    if rates and max(rates) > 1.1 * min(rates):
        text = f"mixed frame rates ({min(rates):.3g}–{max(rates):.3g} a second, median {np.median(rates):.3g})"
        yield Finding(f"{text}: set data.clip.frame_rate, so that all are read at one")
    if variable := ids_of(facts for facts in clips if facts.variable):
        text = "variable frame rate: set data.clip.frame_rate, so that frames are taken by their times"
        yield Finding(text, variable, "variable frame rate")
    sizes = {(facts.width, facts.height) for facts in clips if facts.width}
    shapes = [width / height for width, height in sizes]
    if shapes and max(shapes) > 1.1 * min(shapes):
        text = f"mixed shapes of frames (width over height {min(shapes):.3g}–{max(shapes):.3g}, {len(sizes)} sizes)"
        advice = "a crop shows more of some than of others; data.clip.crops=3 sees all of the long side"
        yield Finding(f"{text}: {advice}")


ADVICE = (
    "Set data.clip.frame_rate, short_side_pixels and crop_pixels, so that all clips are read alike, and keep those of "
    "one source in one split (a table's column group); evaluate.py scores metadata alone beside the network"
)
CLIPS = Kind("clips", "frames", "frame", "The middle frame, upright.", read_clips, tabulate, _find_differences, ADVICE)

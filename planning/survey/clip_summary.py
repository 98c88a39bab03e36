"""What one clip holds, and what is wrong with it."""

from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from data.files.errors import FileProblem
from data.files.videos import Footage, read_clip, read_frames, read_header
from data.layouts.cases import Case, LabelledCase
from data.prepare.case_checks import Problem
from data.prepare.copies import voxel_digest
from planning.survey.case_summary import CaseFacts
from planning.survey.thumbnails import LONG_SIDE, draw_frame

SHORT_SIDE = 48  # pixels of the frames that are looked at
_STEADY = 0.25  # a step between frames may differ by this share of the usual one
_NOISE = 4  # grey levels that compression adds


@dataclass(frozen=True, eq=False)
class ClipFacts:
    """What a clip holds. `codec` is empty where it does not open, `digest` where it does not decode.

    `low` and `high` are the grey levels 0 … 255 of all its frames, made small; `change` is by how much the pixel
    that changes most ever differs from the first frame's.
    """

    case: LabelledCase
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
    low: float = 0.0
    high: float = 0.0
    change: float = 0.0
    digest: str = ""  # of the frames
    thumbnail: bytes | None = None  # JPEG
    problems: tuple[Problem, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether preparing the clip would succeed."""
        return bool(self.digest) and not self.problems

    @property
    def frame_rate(self) -> float:
        """Decoded frames a second."""
        return self.num_frames / self.duration_s if self.duration_s else 0.0

    @property
    def constant(self) -> bool:
        """Whether all pixels of all frames are alike."""
        return self.high - self.low <= _NOISE

    @property
    def still(self) -> bool:
        """Whether all frames are alike."""
        return self.change <= _NOISE


Facts = CaseFacts | ClipFacts


def classes_of(case: Case | LabelledCase) -> tuple[int, ...]:
    """The numbers of the classes that a case is of."""
    label = case.label
    if isinstance(label, tuple):
        return tuple(number for number, there in enumerate(label) if there)
    return (label,) if isinstance(label, int) else ()


def read_clip_facts(case: LabelledCase, thumbnail: bool = False) -> ClipFacts:
    """Decode the clip once; what keeps it from being decoded is among the problems."""
    path = case.images[0]
    facts = ClipFacts(case, path.stat().st_size if path.is_file() else 0)
    try:
        header = read_header(path)
        facts = replace(
            facts,
            container=header.container,
            codec=header.codec,
            pixels=header.pixels,
            width=header.width,
            height=header.height,
            turned=header.turned,
        )
        footage = read_clip(path, SHORT_SIDE, grey=True)
        if thumbnail:
            middle = [len(footage.times_s) // 2]
            side = round(LONG_SIDE * min(header.width, header.height) / max(header.width, header.height))
            facts = replace(facts, thumbnail=draw_frame(read_frames(path, footage, middle, max(side, 1))[0]))
    except FileProblem as problem:
        return replace(facts, problems=(Problem(case.id, problem.path, f"{problem.reason}; {problem.mend}"),))
    return _measure(facts, footage)


def _measure(facts: ClipFacts, footage: Footage) -> ClipFacts:
    """The facts with what the frames tell; of a clip too long to be held, the times alone."""
    steps, frames = np.diff(footage.times_s), footage.frames
    usual = float(np.median(steps)) if len(steps) else 0.0
    facts = replace(
        facts,
        num_frames=len(footage.times_s),
        duration_s=footage.duration_s,
        variable=bool((np.abs(steps - usual) > _STEADY * usual).any()),
    )
    if frames is None:
        whole = blake2b(facts.case.images[0].read_bytes(), digest_size=16)
        return replace(facts, low=0.0, high=255.0, change=255.0, digest=whole.hexdigest())
    change = max(float(np.abs(frame.astype(np.int16) - frames[0]).max()) for frame in frames)
    low, high = float(frames.min()), float(frames.max())
    return replace(facts, low=low, high=high, change=change, digest=voxel_digest(frames))

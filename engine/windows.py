"""Long videos classified window by window, in the memory of one window: scores over time."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from configs.schema.data import Clip
from data.sampling.clip_transforms import span
from engine.evaluation.cases import Failure, attempt
from engine.evaluation.classification import is_multi_label, predict_cases
from engine.evaluation.temperature import scale
from engine.metrics.classification import predict_indicators
from engine.reports.classification_report import write_windows_report
from engine.reports.tables import write_csv
from engine.scoring import Job

_log = logging.getLogger("mlx_volumes")

SHORTEST_S = 0.01  # hop: below a frame's duration, windows repeat


@dataclass(frozen=True)
class Windowed:
    """A video's windows: from and up to, in seconds after its first frame, and what is predicted of each."""

    id: str
    times_s: np.ndarray  # (N, 2)
    probabilities: np.ndarray  # (N, K) float64


class Windows(NamedTuple):
    """How long windows are, and how far apart they begin, in seconds."""

    length_s: float
    hop_s: float


def choose_windows(length_s: float | None, hop_s: float | None, clip: Clip | None) -> Windows | None:
    """Return the windows asked for, or None; `hop_s` is the length where it is None.

    `clip` is how the run sees clips, None where no windows can be looked at. Raises ValueError.
    """
    if length_s is None:
        if hop_s is not None:
            raise ValueError("--hop-seconds goes only with --window-seconds")
        return None
    if clip is None:
        raise ValueError("--window-seconds goes with --images and one run that classifies clips, without --mc-dropout")
    hop_s = length_s if hop_s is None else hop_s
    if not (0 < length_s < np.inf and SHORTEST_S <= hop_s < np.inf):
        raise ValueError(
            f"--window-seconds {length_s:g} must be above 0, --hop-seconds {hop_s:g} at least {SHORTEST_S:g}"
        )
    if clip.frame_rate is not None and length_s < span(clip):
        raise ValueError(
            f"--window-seconds {length_s:g}: the network sees {span(clip):.3g} seconds (data.clip.frames={clip.frames} "
            f"at data.clip.frame_rate={clip.frame_rate:g}); take at least as much"
        )
    return Windows(length_s, hop_s)


class Watching:
    """Classifies windows of clips without labels; a `Scoring` as those of `engine.scoring`."""

    takes_baseline: ClassVar[bool] = False
    types: ClassVar[tuple[type, ...]] = (Windowed,)

    def __init__(self, job: Job, baseline: None, windows: Windows) -> None:
        self._job, self._windows = job, windows

    def predict(self) -> tuple[list[Windowed], list[Failure]]:
        failures: list[Failure] = []
        return [found for _, found in attempt(self._job.share, self._watch, failures)], failures

    def _watch(self, case: Any) -> Windowed:
        job, times, log_due = self._job, list[tuple[float, float]](), time.monotonic() + 10
        multi_label, mirror_axes = is_multi_label(job.config), job.config.evaluate.mirror_axes

        def views() -> Iterator[np.ndarray]:
            nonlocal log_due
            for start, end, window in job.data.windows(case, self._windows.length_s, self._windows.hop_s):
                times.append((start, end))
                yield window
                if time.monotonic() > log_due:
                    _log.info("%s: %d windows, up to %.0f seconds", case.id, len(times), end)
                    log_due = time.monotonic() + 10

        found = predict_cases(job.members[0].predict, views(), job.config.train.batch_size, multi_label, mirror_axes)
        rows = [scale(probabilities, job.temperature, multi_label) for probabilities in found]
        return Windowed(case.id, np.array(times), np.array(rows))

    def summarise(self, results: Sequence[Windowed]) -> dict[str, Any]:
        return {"num_cases": 0, "windows": {video.id: len(video.times_s) for video in results}}

    def summarise_uncertainty(self, results: Sequence[Windowed]) -> dict[str, Any]:
        return {}

    def write_cases(self, results: Sequence[Windowed]) -> None:
        """Write windows.csv: from, up to, the predicted class and p(<class>) of each window."""
        names = self._job.data.class_names
        rows = [
            (video.id, start, end, self._name(chosen), *p)
            for video in results
            for (start, end), p, chosen in zip(video.times_s, video.probabilities, self._chosen(video), strict=True)
        ]
        head = ("case", "start_s", "end_s", "predicted", *(f"p({name})" for name in names))
        write_csv(self._job.output / "windows.csv", head, rows)

    def write_report(self, results: Sequence[Windowed], failures: Sequence[Failure]) -> Path:
        job = self._job
        videos = {video.id: (video.times_s, video.probabilities) for video in results}
        path = job.output / "report.html"
        return write_windows_report(path, job.run, job.metrics, videos, failures, job.data.class_names)

    def format_table(self, metrics: dict[str, Any]) -> str:
        return ""

    def format_predictions(self, results: Sequence[Windowed]) -> list[str]:
        lines = []
        for video in results:
            shares = self._chosen(video).mean(axis=0)
            named = zip(self._job.data.class_names, shares, strict=True)
            said = ", ".join(f"{name} in {share:.0%}" for name, share in named if share)
            lines.append(f"{video.id}: {len(video.times_s)} windows, {said or 'no class in any'}")
        return [*lines, f"table: {self._job.output / 'windows.csv'}"]

    def _chosen(self, video: Windowed) -> np.ndarray:
        return predict_indicators(video.probabilities, is_multi_label(self._job.config))

    def _name(self, chosen: np.ndarray) -> str:
        names = self._job.data.class_names
        return "|".join(names[k] for k in np.flatnonzero(chosen))

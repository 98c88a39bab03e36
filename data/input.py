"""What the data set needs of its input: volumes with label volumes, volumes with a class, or clips with a class."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from data.files.grid import Shape
from data.layouts.cases import Case
from data.metadata import Metadata
from data.prepare.statistics import Statistics
from data.usable_cases import Progress, Roster


class Input(Protocol):
    """What the network sees of a case; `data.volume_input` and `data.clip_input` have the three implementations."""

    num_channels: int  # of the network's input, once checked
    file_channels: int  # of the files
    in_memory: bool  # whether prepared training cases may be held in memory

    def check(self, roster: Roster, statistics: Statistics | None) -> None:
        """Reject the cases that headers rule out, and those that differ from a run's `statistics`."""

    def parameters(self) -> dict[str, Any]:
        """Return what decides how cases are prepared, JSON-able."""

    def fit(self, roster: Roster, statistics: Statistics | None, progress: Progress | None = None) -> None:
        """Settle what the splits decide: by a run's statistics, or measured on the training split."""

    def statistics(self) -> dict[str, Any]:
        """Return what was settled, JSON-able."""
        return {}

    def shapes(self, case: Case) -> tuple[Shape, Shape]:
        """Return the shapes (D, H, W) of a volume in its file, and once resampled, by its header."""
        return (0, 0, 0), (0, 0, 0)  # of a clip they show in its frames alone

    def metadata(self, case: Case) -> Metadata:
        """Return how a clip was made, by its header; nothing of volumes."""
        return {}

    def bytes_each(self, cases: Iterable[Case]) -> int:
        """Return the memory that preparing the largest of these cases takes, by estimate."""

    def prepare(self, case: Case) -> tuple[int, tuple[str, ...]]:
        """Prepare the case into the store; return what it takes, in bytes, and its digests. Raises FileProblem."""

    def sample(self, case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a random part of the case, augmented: x (D, H, W, C) float32, and its labels (D, H, W), if any."""

    def load(self, case: Case) -> Any:
        """Return the `Prepared` case, or all views (V, D, H, W, C) float32, for evaluation. Raises FileProblem."""

    def pictures(self, case: Case) -> np.ndarray:
        """Return the views as they look, (V, D, H, W, 1 or 3) uint8: for people, not for the network."""

    def windows(self, case: Case, window_s: float, hop_s: float) -> Iterator[tuple[float, float, np.ndarray]]:
        """Yield (from, up to, views) of windows of a clip, in seconds. Raises FileProblem."""
        raise ValueError(f"case {case.id} is no clip, and has no windows in time")

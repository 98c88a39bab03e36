"""What the data set asks of its input: volumes with label volumes, volumes with a class, or clips with a class."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from data.files.grid import Shape
from data.layouts.cases import Case
from data.prepare.statistics import Statistics
from data.usable_cases import Progress, Roster


class Input(Protocol):
    """What the network sees of a case: `data.volume_input` and `data.clip_input` have the three there are."""

    num_channels: int  # of the network's input, once checked
    file_channels: int  # of the files
    in_memory: bool  # whether prepared training cases may be held in memory

    def check(self, roster: Roster, statistics: Statistics | None) -> None:
        """Rejects the cases that headers rule out, and those that differ from a run's `statistics`."""

    def parameters(self) -> dict[str, Any]:
        """What decides how cases are prepared, JSON-able."""

    def fit(self, roster: Roster, statistics: Statistics | None, progress: Progress | None = None) -> None:
        """Settles what the splits decide: by a run's statistics, or measured on the training split."""

    def statistics(self) -> dict[str, Any]:
        """What was settled, JSON-able."""
        return {}

    def shapes(self, case: Case) -> tuple[Shape, Shape]:
        """Those of a volume (D, H, W) in its file, and once resampled, by its header."""
        return (0, 0, 0), (0, 0, 0)  # of a clip they show in its frames alone

    def bytes_each(self, cases: Iterable[Case]) -> int:
        """Memory that preparing the largest of these cases takes, by estimate."""

    def prepare(self, case: Case) -> tuple[int, tuple[str, ...]]:
        """Prepares the case into the store; returns what it takes, in bytes, and its digests. Raises FileProblem."""

    def sample(self, case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """A random part of the case, augmented: x (D, H, W, C) float32, and its labels (D, H, W), where it has any."""

    def load(self, case: Case) -> Any:
        """What evaluation sees: the `Prepared` case, or all views (V, D, H, W, C) float32. Raises FileProblem."""

    def pictures(self, case: Case) -> np.ndarray:
        """The views as they look, (V, D, H, W, 1 or 3) uint8: for people, not for the network."""

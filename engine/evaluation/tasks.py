"""What evaluation does of one task and of the other: the room of each, chosen by the config's `task`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import mlx.nn as nn
import numpy as np

from configs import Config
from engine.distributed.group import ALONE, Group
from engine.evaluation import classification, segmentation
from engine.evaluation.members import Member


class Room(Protocol):
    """The functions that `engine.evaluation.segmentation` and `classification` both have."""

    def predict_one(
        self,
        members: Sequence[Member],
        data: Any,
        case: Any,
        config: Config,
        temperature: float,
        probabilities: bool,
    ) -> np.ndarray:
        """Return the prediction of one case: labels on the grid of its file, or probabilities."""

    def make_validation(
        self, config: Config, class_names: Sequence[str], data: Any, cases: Sequence[Any], group: Group = ALONE
    ) -> Callable[[nn.Module], dict[str, float]]:
        """Return the validation of a training run: model -> scores by name."""

    def validation_metrics(self, config: Config, class_names: Sequence[str]) -> list[str]:
        """Return the names that the validation reports under."""

    def check_labels(self, config: Config, data: Any) -> None:
        """Raise ValueError unless the config fits the data's labels."""


ROOMS: Mapping[str, Room] = {"segmentation": segmentation, "classification": classification}


def room_of(config: Config) -> Room:
    """Return the functions for the config's task."""
    return ROOMS[config.task]

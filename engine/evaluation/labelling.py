"""How label values and a network's outputs go together: as classes that exclude each other, or as regions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx
import numpy as np

from configs import Config
from engine.evaluation.sliding_window import most_probable, softmax


@dataclass(frozen=True)
class Labelling:
    """Classes that exclude each other: output k is the probability of label value k, and 0 is the background.

    names         of the network's outputs
    ignore_label  label value of voxels that count nowhere
    """

    names: tuple[str, ...]
    ignore_label: int | None = None

    @property
    def are_regions(self) -> bool:
        """Whether outputs are independent of each other: their probabilities need not sum to 1."""
        return False

    @property
    def titles(self) -> tuple[str, ...]:
        """The names of the background and of what is scored, in this order."""
        return self.names

    @property
    def num_values(self) -> int:
        """Label values are 0 to one less than this."""
        return len(self.names)

    @property
    def classes_a_part(self) -> int:
        """Classes of each of `parts`, the background among them."""
        return len(self.names)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the label value of each voxel of probabilities (..., K)."""
        return most_probable(probabilities)

    def parts(self, labels: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the label volumes that are scored, each by itself, class by class."""
        yield labels

    def truth(self, labels: np.ndarray) -> np.ndarray:
        """Return what probabilities (..., K) are compared with: labels (...), or 0 and 1 of each output (..., K)."""
        return labels

    def masks(self, labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number in `titles`, where it is) of each class or region that has a voxel."""
        for number, part in enumerate(self.parts(labels)):
            for value in np.unique(part).tolist():
                if 0 < value < self.classes_a_part and value != self.ignore_label:
                    yield number * (self.classes_a_part - 1) + value, part == value


@dataclass(frozen=True)
class Regions(Labelling):
    """Regions: output r is the probability of region r, which holds the label values `values[r]`.

    written: the label value that each is written as, in order; None takes the value that lies in just the regions
    predicted, and for a combination without such a value, writes each region as its rarest: the one in fewest regions.
    """

    values: tuple[tuple[int, ...], ...] = ()
    written: tuple[int, ...] | None = None

    @property
    def are_regions(self) -> bool:
        return True

    @property
    def titles(self) -> tuple[str, ...]:
        return ("background", *self.names)

    @property
    def num_values(self) -> int:
        return 1 + max(map(max, self.values))

    @property
    def classes_a_part(self) -> int:
        return 2

    @cached_property
    def _label_of(self) -> np.ndarray:
        """The label value of each combination of regions (2 ** R,), region r counting 2 ** r."""
        combinations = np.arange(2 ** len(self.values))
        regions_of = {value: sum(1 << r for r, held in enumerate(self.values) if value in held) for value in self._held}
        rarest = [min(held, key=lambda value: (regions_of[value].bit_count(), value)) for held in self.values]
        labels = np.zeros(len(combinations), np.uint8 if self.num_values <= 256 else np.int16)
        for r, value in enumerate(self.written or rarest):
            labels[combinations >> r & 1 == 1] = value
        if self.written is None:
            for value in reversed(self._held):  # of two values in the same regions the lower one is written
                labels[regions_of[value]] = value
        return labels

    @cached_property
    def _held(self) -> list[int]:
        return sorted({value for held in self.values for value in held})

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the label value of each voxel: a region is where its probability is above 0.5."""
        combination = np.zeros(probabilities.shape[:-1], np.uint16)
        for r in range(len(self.values)):
            combination |= (probabilities[..., r] > 0.5).astype(np.uint16) << r
        return self._label_of[combination]

    def parts(self, labels: np.ndarray) -> Iterator[np.ndarray]:
        """Yield a volume (D, H, W) int16 of each region: 1 inside it, and the ignored label where it is ignored."""
        for held in self.values:
            part = np.isin(labels, held).astype(np.int16)
            if self.ignore_label is not None:
                part[labels == self.ignore_label] = self.ignore_label
            yield part

    def truth(self, labels: np.ndarray) -> np.ndarray:
        return np.stack([np.isin(labels, held) for held in self.values], axis=-1).astype(np.int64)


def labelling_of(config: Config, class_names: Sequence[str]) -> Labelling:
    """Return what the config says of label volumes: their regions, or the classes of these names."""
    regions, ignored = config.data.regions, config.loss.ignore_label
    if regions is None:
        return Labelling(tuple(class_names), ignored)
    return Regions(tuple(regions), ignored, tuple(regions.values()), config.data.region_values)


def activation(config: Config) -> Callable[[mx.array], mx.array]:
    """Return the function that turns the network's logits (..., K) into probabilities."""
    return softmax if config.data.regions is None else mx.sigmoid

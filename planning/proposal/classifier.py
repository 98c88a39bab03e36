"""A network for cases with classes, by how many there are of them, and the memory that training it takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.schema.model import NetworkArgs
from data.files.grid import Shape
from planning.proposal.network import BASE_GB, BYTES_A_WEIGHT
from planning.proposal.rules import Decision, choose_network

MAPS = 4.0  # of each convolution's output that a training step holds, by dry runs of four networks, within 10 %
BATCHES = (16, 8, 4, 2)


@dataclass(frozen=True)
class Classifier:
    """The network's name and arguments, what it holds of one case for the backward pass, and its weights."""

    name: str
    args: dict[str, Any]
    floats: int
    weights: int
    why: str

    def training_gb(self, batch_size: int) -> float:
        """Return the estimated peak memory of training with Adam in float32."""
        return BASE_GB + (4 * MAPS * batch_size * self.floats + BYTES_A_WEIGHT * self.weights) / 1e9

    def largest_batch(self, memory_gb: float, num_train: int) -> int:
        """Return the largest of BATCHES that fits, a quarter of the cases at most; the least if none does."""
        fits = [n for n in BATCHES if n <= max(num_train // 4, 4) and self.training_gb(n) <= memory_gb]
        return min(fits[0] if fits else BATCHES[-1], num_train)


@dataclass(frozen=True)
class ClassifierInput:
    """The decisions on what a network sees of volumes or clips, and the network for that."""

    network: Classifier
    batch_size: int
    num_channels: int
    flipped: bool  # in training
    decisions: tuple[Decision, ...]


def design_classifier(
    networks: Mapping[str, type[NetworkArgs]], kind: str, size: Shape, num_channels: int, num_train: int
) -> Classifier:
    """Return the network that NETWORKS has for `num_train` cases of this kind and size, as it proposes itself."""
    proposed = choose_network(kind, num_train)
    args = networks[proposed.name].propose(size, num_train)
    convolutions = list(networks[proposed.name].model_validate(args).list_convolutions(size, num_channels))
    floats = sum(conv.voxels * conv.outputs for conv in convolutions)
    weights = sum(math.prod(conv.kernel) * conv.inputs * conv.outputs for conv in convolutions)
    return Classifier(proposed.name, args, floats, weights, proposed.why.format(cases=num_train, **args))

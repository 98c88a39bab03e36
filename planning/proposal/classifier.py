"""A network for cases with classes, by how many there are of them, and the memory that training it takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.files.grid import Shape
from planning.proposal.network import BASE_GB, BYTES_A_WEIGHT
from planning.proposal.rules import Decision

MAPS = 4.0  # of each convolution's output that a training step holds, by dry runs of four networks, within 10 %
BATCHES = (16, 8, 4, 2)
SMALL = 40  # voxels along an axis: up to there the early strides are left out


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


def design_resnet(size: Shape, num_channels: int, num_train: int) -> Classifier:
    """Return a residual network for volumes: deeper and wider the more cases there are."""
    depth, width = 10, 16
    for cases, deeper in ((250, (10, 32)), (800, (18, 32)), (5000, (18, 64)), (20_000, (34, 64))):
        if num_train >= cases:
            depth, width = deeper
    stem = [1 if n <= SMALL else 2 for n in size]
    pool = min(size) > SMALL
    args: dict[str, Any] = {"depth": depth, "width": width}
    if not pool:
        args |= {"stem_kernel": [3 if n <= SMALL else 7 for n in size], "stem_stride": stem, "max_pool": False}
    stages = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    here = [-(-n // s) for n, s in zip(size, stem, strict=True)]
    floats, weights = math.prod(here) * width, num_channels * width * (343 if pool else 27)
    if pool:
        here = _halved(here)
    before = width
    for stage, blocks in enumerate(stages):
        here = _halved(here) if stage else here
        out = width * 2**stage
        floats += math.prod(here) * out * (2 * blocks + (stage > 0))
        weights += 27 * out * (before + out * (2 * blocks - 1)) + (before * out if stage else 0)
        before = out
    why = f"{depth} layers for {num_train} training cases: deeper ones need more"
    return Classifier("resnet3d", args, floats, weights, why)


def design_cnn(size: Shape, num_channels: int, num_train: int) -> Classifier:
    """Return a plain stack of convolutions, for few clips."""
    widths = [16, 32, 64, 64] if num_train < 500 else [16, 32, 64, 128]
    floats, weights, here, before = 0, 0, list(size), num_channels
    for level, width in enumerate(widths):
        here = [max(n // 2, 1) for n in here] if level else here
        floats += math.prod(here) * width
        weights += 27 * before * width
        before = width
    return Classifier("cnn3d", {"widths": widths}, floats, weights, f"{num_train} training clips: a small network")


def design_r3d(size: Shape, num_channels: int, num_train: int) -> Classifier:
    """Return torchvision's r3d_18, for many clips."""
    d, h, w = size
    here = [d, -(-h // 2), -(-w // 2)]
    floats = math.prod(here) * 64
    for stage in range(4):
        here = _halved(here) if stage else here
        floats += math.prod(here) * 64 * 2**stage * (5 if stage else 4)
    weights = 33_000_000 + 64 * 147 * num_channels
    return Classifier("r3d_18", {}, floats, weights, f"{num_train} training clips: enough for 18 layers")


def _halved(size: Sequence[int]) -> list[int]:
    return [-(-n // 2) for n in size]

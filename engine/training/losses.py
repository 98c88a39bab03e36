"""Losses of voxels or of whole cases, in float32: each is a sum of terms, functions of logits and target.

Most terms are formulas on the (N, K) sums over voxels that `Prediction.sums` returns; a whole case counts as one voxel.
The sums of several processes are joined before the division, so that the loss is that of the whole batch. A loss
consists of its arguments, its terms, and a line in LOSSES.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

import mlx.core as mx
import numpy as np
from pydantic import Field

from configs.schema.choices import Target
from configs.schema.train import LossArgs
from configs.schema.types import NonNegative
from ops import ClassSums, RegionSums, class_sums, region_sums

Gather = Callable[[mx.array], mx.array]
Sums = TypeVar("Sums", ClassSums, RegionSums)
Loss = Callable[[mx.array | Sequence[mx.array], mx.array], tuple[mx.array, dict[str, mx.array]]]


class StandardLossArgs(LossArgs):
    """Arguments of the losses below; their terms are summed with these weights, in float32."""

    name: str = "dice_ce"
    dice_weight: NonNegative = 1.0
    ce_weight: NonNegative = 1.0
    batch_dice: bool = False  # one Dice over the whole batch rather than the mean over samples
    include_background: bool = False  # in Dice
    smooth: NonNegative = 1e-5  # added to Dice's numerator and denominator
    focal_gamma: NonNegative = 2.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def term_weight(self, term: str) -> float:
        return {"dice": self.dice_weight, "cross_entropy": self.ce_weight}.get(term, 1.0)


@dataclass
class Prediction:
    """A batch's logits and target, joined over all processes; a term uses `sums()`, or `logits` and `y`.

    Between processes `sums()` costs one message of (N, K) numbers; `logits` and `y` each cost one of their whole size.
    Sums leave out voxels of `ignore_label`; a term of `logits` and `y` must do so itself.
    """

    own_logits: mx.array
    own_y: mx.array
    ignore_label: int | None
    gather: Gather | None
    regions: mx.array | None = None  # (V, R) bool, whether label value v lies in region r, of a target of regions
    _sums: dict[float | None, ClassSums] = field(default_factory=dict)
    _region_sums: dict[float, RegionSums] = field(default_factory=dict)

    @cached_property
    def logits(self) -> mx.array:
        """(N, ..., K), float32."""
        logits = self.own_logits if self.gather is None else self.gather(self.own_logits)
        return logits.astype(mx.float32)

    @cached_property
    def y(self) -> mx.array:
        """(N, ...), or (N, K) of classes that may coincide."""
        return self.own_y if self.gather is None else self.gather(self.own_y)

    def sums(self, focal_gamma: float | None = None) -> ClassSums:
        """Return the sums of each class, with `focal` under this gamma."""
        if focal_gamma not in self._sums:
            sums = class_sums(self.own_logits, self.own_y, self.ignore_label, focal_gamma)
            self._sums[focal_gamma] = sums if self.gather is None else gather_sums(sums, self.gather)
        return self._sums[focal_gamma]

    def sums_of_regions(self, label_smoothing: float) -> RegionSums:
        """Return the sums of each region, with `surprise` of smoothed targets."""
        assert self.regions is not None
        if label_smoothing not in self._region_sums:
            sums = region_sums(self.own_logits, self.own_y, self.regions, self.ignore_label, label_smoothing)
            self._region_sums[label_smoothing] = sums if self.gather is None else gather_sums(sums, self.gather)
        return self._region_sums[label_smoothing]


def dice(prediction: Prediction, config: StandardLossArgs) -> mx.array:
    """Return the soft Dice loss (Milletari et al. 2016, arXiv:1606.04797, without squares): 1 - mean Dice, in 0..1.

    The mean is over classes and samples; with `batch_dice` it is over classes, and the batch counts as one volume.
    """
    scores = _soft_dice(prediction.sums(), config)
    return 1 - mx.mean(scores if config.include_background else scores[:, 1:])


def dice_of_regions(prediction: Prediction, config: StandardLossArgs) -> mx.array:
    """Return what `dice` does, of regions: the mean is over all of them, for none is the background."""
    return 1 - mx.mean(_soft_dice(prediction.sums_of_regions(config.label_smoothing), config))


def _soft_dice(sums: ClassSums | RegionSums, config: StandardLossArgs) -> mx.array:
    """Return the soft Dice of each sample and class (N, K), or, with `batch_dice`, of the batch (1, K)."""
    overlap, total = sums.overlap, sums.predicted + sums.reference  # (N, K)
    if config.batch_dice:
        overlap, total = overlap.sum(axis=0, keepdims=True), total.sum(axis=0, keepdims=True)  # (1, K)
    return (2 * overlap + config.smooth) / mx.maximum(total + config.smooth, 1e-8)


def cross_entropy(prediction: Prediction, config: StandardLossArgs) -> mx.array:
    """Return cross-entropy: the mean over voxels, each weighted by its class; label smoothing as in PyTorch."""
    sums = prediction.sums()
    weights = _class_weights(sums.reference.shape[-1], config)
    numerator = (sums.surprise * weights).sum()
    if config.label_smoothing > 0:
        uniform = (sums.surprise_all * weights).sum() / weights.size
        numerator = (1 - config.label_smoothing) * numerator + config.label_smoothing * uniform
    return numerator / _weighted_voxels(sums, weights)


def cross_entropy_of_regions(prediction: Prediction, config: StandardLossArgs) -> mx.array:
    """Return binary cross-entropy: the mean over voxels and regions, weighted by region.

    Label smoothing pulls targets towards 0.5.
    """
    sums = prediction.sums_of_regions(config.label_smoothing)
    weights = _class_weights(sums.reference.shape[-1], config)
    return (sums.surprise * weights).sum() / mx.maximum((sums.voxels * weights).sum(), 1e-8)


def focal(prediction: Prediction, config: StandardLossArgs) -> mx.array:
    """Return focal loss (Lin et al. 2017, arXiv:1708.02002), the weighted mean over voxels; gamma 0: cross-entropy."""
    sums = prediction.sums(config.focal_gamma)
    weights = _class_weights(sums.reference.shape[-1], config)
    return (sums.focal * weights).sum() / _weighted_voxels(sums, weights)


def binary_cross_entropy(prediction: Prediction, config: StandardLossArgs) -> mx.array:
    """Return cross-entropy of classes that may coincide: the mean over cases and classes, weighted by class.

    logits: (N, K). y: (N, K), 0 or 1. Label smoothing pulls targets towards 0.5.
    """
    logits, y = prediction.logits, prediction.y.astype(mx.float32)
    y = y * (1 - config.label_smoothing) + config.label_smoothing / 2
    weights = _class_weights(logits.shape[-1], config)
    losses = mx.logaddexp(logits, 0.0) - y * logits  # -y log p - (1 - y) log(1 - p)
    return (losses * weights).sum() / (logits.shape[0] * weights.sum())


def balanced_weights(counts: Mapping[str, int]) -> tuple[float, ...]:
    """Return class weights that balance the classes: cases / (classes * cases of the class).

    counts: training cases of each class. Raises ValueError for a class without cases.
    """
    for name, count in counts.items():
        if count == 0:
            raise ValueError(f"loss.class_weights=balanced: class {name} has no training case; give the weights")
    return tuple(sum(counts.values()) / (len(counts) * count) for count in counts.values())


def _class_weights(num_classes: int, config: LossArgs) -> mx.array:
    assert config.class_weights != "balanced", "build_step replaces it by numbers"
    return mx.array(config.class_weights or [1.0] * num_classes, dtype=mx.float32)  # (K,)


def _weighted_voxels(sums: ClassSums, weights: mx.array) -> mx.array:
    voxels = (sums.reference * weights).sum()
    return mx.where(voxels > 0, voxels, 1.0)  # if every voxel is ignored, the numerator is 0 too


Terms = Mapping[str, Callable[[Prediction, Any], mx.array]]


class LossKind(NamedTuple):
    """A loss: the class of its arguments, the targets that it accepts, its terms (prediction, args) -> scalar.

    `of_regions` are the terms where the target is "regions".
    """

    args: type[LossArgs]
    targets: tuple[Target, ...]
    terms: Terms
    of_regions: Terms = MappingProxyType({})


LOSSES = {  # by `loss.name`; the first that accepts a task's target is its default
    "dice_ce": LossKind(
        StandardLossArgs,
        ("voxels", "regions"),
        {"dice": dice, "cross_entropy": cross_entropy},
        {"dice": dice_of_regions, "cross_entropy": cross_entropy_of_regions},
    ),
    "dice": LossKind(StandardLossArgs, ("voxels", "regions"), {"dice": dice}, {"dice": dice_of_regions}),
    "cross_entropy": LossKind(
        StandardLossArgs,
        ("voxels", "regions", "class"),
        {"cross_entropy": cross_entropy},
        {"cross_entropy": cross_entropy_of_regions},
    ),
    "focal": LossKind(StandardLossArgs, ("voxels", "class"), {"focal": focal}),
    "binary_cross_entropy": LossKind(StandardLossArgs, ("classes",), {"binary_cross_entropy": binary_cross_entropy}),
}


def build_loss(
    config: LossArgs,
    num_outputs: int,
    gather: Gather | None = None,
    regions: Sequence[Sequence[int]] | None = None,
) -> Loss:
    """Return loss(logits, y) -> (float32 scalar, {term: float32 scalar before its weight}).

    logits: (N, D, H, W, K), or a list of them, finest first (deep supervision, Lee et al. 2015, arXiv:1409.5185). Each
    has half the weight of the one before it. Without `supervise_coarsest` the coarsest has none, as in nnU-Net: 2/3,
    1/3 and 0 of three. The target is sampled down to each by nearest neighbour.
    y: (N, D, H, W) integers in 0..K-1, or the ignored label.
    For whole cases logits are (N, K) and y is (N,), or (N, K) for binary_cross_entropy.
    gather: joins (n, ...) of all processes to (N, ...), so that the loss is that of their batches together.
    regions: the label values of each of the K outputs, where they are regions; y are label values.

    Raises ValueError where the config doesn't fit the number of outputs.
    """
    if isinstance(config.class_weights, tuple) and len(config.class_weights) != num_outputs:
        raise ValueError(
            f"loss.class_weights has {len(config.class_weights)} entries, but the data has {num_outputs} classes"
        )
    kind = LOSSES[config.name]
    if num_outputs < 2 and "classes" not in kind.targets and regions is None:
        raise ValueError(f"loss.{config.name} needs at least 2 classes, background included; got {num_outputs}")

    table = None if regions is None else _membership(regions)
    terms = kind.terms if regions is None else kind.of_regions

    def loss(logits: mx.array | Sequence[mx.array], y: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        levels = [logits] if isinstance(logits, mx.array) else list(logits)
        if len(levels) > 1 and not config.supervise_coarsest:
            levels.pop()
        norm = sum(0.5**i for i in range(len(levels)))
        parts = {name: mx.array(0.0) for name in terms}
        for i, level in enumerate(levels):
            target = y if "classes" in kind.targets else sample_down(y, level.shape[1:-1])
            prediction = Prediction(level, target, config.ignore_label, gather, table)
            for name, term in terms.items():
                parts[name] = parts[name] + 0.5**i / norm * term(prediction, config)
        total = mx.array(0.0)
        for name, value in parts.items():
            total = total + config.term_weight(name) * value
        return total, parts

    return loss


def _membership(regions: Sequence[Sequence[int]]) -> mx.array:
    """Return (V, R) bool: whether label value v lies in region r."""
    table = np.zeros((1 + max(map(max, regions)), len(regions)), bool)
    for number, values in enumerate(regions):
        table[list(values), number] = True
    return mx.array(table)


def gather_sums(sums: Sums, gather: Gather) -> Sums:
    """Return the sums of all processes' samples, joined in one message."""
    names = [field.name for field in fields(sums)]
    joined = gather(mx.stack([getattr(sums, name) for name in names], axis=1))  # (N, sums, K)
    return type(sums)(*(joined[:, i] for i in range(len(names))))


def sample_down(y: mx.array, shape: Sequence[int]) -> mx.array:
    """Return every n-th voxel of the labels (N, D, H, W), so that their shape is (N, d, h, w)."""
    if tuple(y.shape[1:]) == tuple(shape):
        return y
    step = [-(-size // small) for size, small in zip(y.shape[1:], shape, strict=True)]
    small = y[:, :: step[0], :: step[1], :: step[2]]
    if tuple(small.shape[1:]) != tuple(shape):
        raise ValueError(f"logits of {tuple(shape)} voxels don't fit a target of {tuple(y.shape[1:])}")
    return small

"""Losses of voxels or of whole cases, in float32, as sums per sample and class that are divided once.

All but `binary_cross_entropy` are formulas on `ops.ClassSums`: (N, K) sums over voxels, a whole case being one voxel.
Those of several processes are joined before the division, so that the loss is that of the whole batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial

import mlx.core as mx

from configs.schema.train import LossConfig
from ops import ClassSums, class_sums

Gather = Callable[[mx.array], mx.array]
Loss = Callable[[mx.array | Sequence[mx.array], mx.array], tuple[mx.array, dict[str, mx.array]]]


def dice(sums: ClassSums, config: LossConfig) -> mx.array:
    """Soft Dice loss (Milletari et al. 2016, arXiv:1606.04797, without its squares): 1 - mean Dice, in 0..1.

    The mean is over classes and samples; with `batch_dice` over classes, of the batch as one volume.
    """
    overlap, total = sums.overlap, sums.predicted + sums.reference  # (N, K)
    if config.batch_dice:
        overlap, total = overlap.sum(axis=0, keepdims=True), total.sum(axis=0, keepdims=True)  # (1, K)
    first = 0 if config.include_background else 1
    scores = (2 * overlap + config.smooth) / mx.maximum(total + config.smooth, 1e-8)
    return 1 - mx.mean(scores[:, first:])


def cross_entropy(sums: ClassSums, config: LossConfig) -> mx.array:
    """Cross-entropy: the mean over voxels, each weighted by its class; smoothed labels as in PyTorch's."""
    weights = _class_weights(sums.reference.shape[-1], config)
    numerator = (sums.surprise * weights).sum()
    if config.label_smoothing > 0:
        uniform = (sums.surprise_all * weights).sum() / weights.size
        numerator = (1 - config.label_smoothing) * numerator + config.label_smoothing * uniform
    return numerator / _weighted_voxels(sums, weights)


def focal(sums: ClassSums, config: LossConfig) -> mx.array:
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): the weighted mean over voxels; gamma 0 is cross-entropy."""
    weights = _class_weights(sums.reference.shape[-1], config)
    return (sums.focal * weights).sum() / _weighted_voxels(sums, weights)


def binary_cross_entropy(logits: mx.array, y: mx.array, config: LossConfig) -> mx.array:
    """Cross-entropy of classes that may coincide: the mean over cases and classes, each weighted by its class.

    logits: (N, K). y: (N, K), 0 or 1. Label smoothing pulls targets towards 0.5.
    """
    logits, y = logits.astype(mx.float32), y.astype(mx.float32)
    y = y * (1 - config.label_smoothing) + config.label_smoothing / 2
    weights = _class_weights(logits.shape[-1], config)
    losses = mx.logaddexp(logits, 0.0) - y * logits  # -y log p - (1 - y) log(1 - p)
    return (losses * weights).sum() / (logits.shape[0] * weights.sum())


def balanced_weights(counts: Mapping[str, int]) -> tuple[float, ...]:
    """Class weights that make all classes count alike: cases / (classes * cases of the class).

    counts: training cases of each class. Raises ValueError for a class without any.
    """
    for name, count in counts.items():
        if count == 0:
            raise ValueError(f"loss.class_weights=balanced: class {name} has no training case; give the weights")
    return tuple(sum(counts.values()) / (len(counts) * count) for count in counts.values())


def _class_weights(num_classes: int, config: LossConfig) -> mx.array:
    assert config.class_weights != "balanced", "replaced by numbers where the training cases are known"
    return mx.array(config.class_weights or [1.0] * num_classes, dtype=mx.float32)  # (K,)


def _weighted_voxels(sums: ClassSums, weights: mx.array) -> mx.array:
    voxels = (sums.reference * weights).sum()
    return mx.where(voxels > 0, voxels, 1.0)  # where every voxel is ignored the numerator is 0 too


LOSSES: dict[str, dict[str, Callable[[ClassSums, LossConfig], mx.array]]] = {
    "dice_ce": {"dice": dice, "cross_entropy": cross_entropy},
    "dice": {"dice": dice},
    "cross_entropy": {"cross_entropy": cross_entropy},
    "focal": {"focal": focal},
}


def build_loss(config: LossConfig, num_outputs: int, gather: Gather | None = None) -> Loss:
    """Return loss(logits, y) -> (float32 scalar, {term: float32 scalar before its weight}).

    logits: (N, D, H, W, K), or a list of them, finest first, each weighted half of the one before (deep
    supervision, Lee et al. 2015, arXiv:1409.5185), and the coarsest of several 0 where `supervise_coarsest` is false,
    as in nnU-Net: 2/3, 1/3 and 0 of three. The target is sampled down to each by nearest neighbour.
    y: (N, D, H, W) integers in 0..K-1, and the ignored label.
    Of whole cases logits are (N, K) and y is (N,), or for binary_cross_entropy (N, K).
    gather: joins (n, ...) of all processes to (N, ...), which makes the loss that of their batches together.

    Raises ValueError where the config doesn't fit the number of outputs.
    """
    if isinstance(config.class_weights, tuple) and len(config.class_weights) != num_outputs:
        raise ValueError(
            f"loss.class_weights has {len(config.class_weights)} entries, but the data has {num_outputs} classes"
        )
    if config.name == "binary_cross_entropy":
        return partial(_binary_loss, config, gather)
    if num_outputs < 2:
        raise ValueError(f"loss.{config.name} needs at least 2 classes, background included; got {num_outputs}")
    terms = LOSSES[config.name]
    gamma = config.focal_gamma if config.name == "focal" else None
    term_weights = {"dice": config.dice_weight, "cross_entropy": config.ce_weight, "focal": 1.0}

    def loss(logits: mx.array | Sequence[mx.array], y: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        levels = [logits] if isinstance(logits, mx.array) else list(logits)
        if len(levels) > 1 and not config.supervise_coarsest:
            levels.pop()
        norm = sum(0.5**i for i in range(len(levels)))
        parts = {name: mx.array(0.0) for name in terms}
        for i, level in enumerate(levels):
            target = sample_down(y, level.shape[1:-1])
            sums = class_sums(level, target, config.ignore_label, gamma)
            if gather is not None:
                sums = gather_sums(sums, gather)
            for name, term in terms.items():
                parts[name] = parts[name] + 0.5**i / norm * term(sums, config)
        total = mx.array(0.0)
        for name, value in parts.items():
            total = total + term_weights[name] * value
        return total, parts

    return loss


def _binary_loss(
    config: LossConfig, gather: Gather | None, logits: mx.array | Sequence[mx.array], y: mx.array
) -> tuple[mx.array, dict[str, mx.array]]:
    assert isinstance(logits, mx.array)
    if gather is not None:
        logits, y = gather(logits), gather(y)
    loss = binary_cross_entropy(logits, y, config)
    return loss, {config.name: loss}


def gather_sums(sums: ClassSums, gather: Gather) -> ClassSums:
    """Return the sums of all processes' samples, brought together in one message."""
    names = [field.name for field in fields(sums)]
    joined = gather(mx.stack([getattr(sums, name) for name in names], axis=1))  # (N, sums, K)
    return ClassSums(*(joined[:, i] for i in range(len(names))))


def sample_down(y: mx.array, shape: Sequence[int]) -> mx.array:
    """Return the labels (N, D, H, W) at every n-th voxel, so that they have the given (d, h, w)."""
    if tuple(y.shape[1:]) == tuple(shape):
        return y
    step = [-(-size // small) for size, small in zip(y.shape[1:], shape, strict=True)]
    small = y[:, :: step[0], :: step[1], :: step[2]]
    if tuple(small.shape[1:]) != tuple(shape):
        raise ValueError(f"logits of {tuple(shape)} voxels don't fit a target of {tuple(y.shape[1:])}")
    return small

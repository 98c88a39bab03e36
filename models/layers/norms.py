"""Normalisation layers: batch norm for volumes, and the choice from the config."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

import ops


class BatchNorm3d(nn.BatchNorm):
    """Batch norm over all axes but the last of (N, D, H, W, C); `mlx.nn.BatchNorm` does not accept five axes.

    Parameters, statistics and their names are those of `mlx.nn.BatchNorm` and of PyTorch's BatchNorm3d:
    the biased variance normalises, the unbiased one goes into `running_var`. Ioffe and Szegedy 2015,
    arXiv:1502.03167.

    gather: joins (n, ...) of all processes that train together to (N, ...), its gradient taken through all of them;
    where it is set, training normalises by the statistics of all their samples.
    """

    gather: Callable[[mx.array], mx.array] | None = None

    def __call__(self, x: mx.array) -> mx.array:
        return self.normalise(x)

    def normalise(
        self, x: mx.array, mask: mx.array | None = None, slope: float = 1.0, residual: mx.array | None = None
    ) -> mx.array:
        """Return the normalised x, followed by what `ops.norm_act_dropout` can add; updates the statistics."""
        batch_statistics = self.training or not self.track_running_stats
        if batch_statistics and self.gather is not None:
            return self._normalise_together(x, self.gather, mask, slope, residual)
        statistics = None if batch_statistics else (self["running_mean"], self["running_var"])
        y, mean, var = ops.norm_act_dropout(
            x,
            self.get("weight"),
            self.get("bias"),
            mask,
            norm="batch",
            eps=self.eps,
            slope=slope,
            residual=residual,
            statistics=statistics,
        )
        if self.training and self.track_running_stats:
            self._update(mean, var, x.size // x.shape[-1])
        return y

    def _normalise_together(
        self,
        x: mx.array,
        gather: Callable[[mx.array], mx.array],
        mask: mx.array | None,
        slope: float,
        residual: mx.array | None,
    ) -> mx.array:
        """Normalise in MLX's own operations: gradients flow through the statistics to the other processes."""
        axes = tuple(range(x.ndim - 1))
        x32 = x.astype(mx.float32)
        own = mx.stack([x32.mean(axes), x32.var(axes)])[None]  # (1, 2, C)
        means, variances = mx.split(gather(own), 2, axis=1)  # (processes, 1, C); as many samples in each
        mean = means.mean((0, 1))
        var = (variances + mx.square(means - mean)).mean((0, 1))  # Chan et al. 1979
        y = (x32 - mean) * mx.rsqrt(var + self.eps)
        if "weight" in self:
            y = y * self.weight + self.bias
        if mask is not None:
            y = y * mask.reshape(mask.shape[0], *[1] * (x.ndim - 2), -1)
        y = y if residual is None else y + residual
        y = mx.where(y > 0, y, slope * y)
        if self.training and self.track_running_stats:
            self._update(mean, var, x.size // x.shape[-1] * means.shape[0])
        return y.astype(x.dtype)

    def _update(self, mean: mx.array, var: mx.array, count: int) -> None:
        if count == 1:
            raise ValueError("batch norm in training needs more than one value per channel; got 1")
        mean, var = mx.stop_gradient(mean), mx.stop_gradient(var) * (count / (count - 1))
        for key, new in (("running_mean", mean), ("running_var", var)):
            self[key] = (1 - self.momentum) * self[key] + self.momentum * new


def synchronise_batch_norms(model: nn.Module, gather: Callable[[mx.array], mx.array]) -> None:
    """Make all batch norms of the model take their statistics over all processes; see `BatchNorm3d`."""
    for layer in model.modules():
        if isinstance(layer, BatchNorm3d):
            layer.gather = gather


def make_norm(kind: str, channels: int, groups: int = 8) -> nn.Module | None:
    """Return the norm layer of the config's name (instance, batch, group), or None for "none"."""
    if kind == "instance":
        return nn.InstanceNorm(channels, affine=True)
    if kind == "batch":
        return BatchNorm3d(channels)
    if kind == "group":
        return nn.GroupNorm(groups, channels, pytorch_compatible=True)
    if kind == "none":
        return None
    raise ValueError(f"norm {kind!r} is unknown: expected instance, batch, group or none")

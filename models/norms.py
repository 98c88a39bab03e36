"""Normalisation layers: batch norm for volumes, and the choice from the config."""

import mlx.core as mx
import mlx.nn as nn

import ops


class BatchNorm3d(nn.BatchNorm):
    """Batch norm over all axes but the last of (N, D, H, W, C); `mlx.nn.BatchNorm` refuses five axes.

    Parameters, statistics and their names are those of `mlx.nn.BatchNorm` and of PyTorch's BatchNorm3d:
    the biased variance normalises, the unbiased one goes into `running_var`. Ioffe and Szegedy 2015,
    arXiv:1502.03167.
    """

    def __call__(self, x: mx.array) -> mx.array:
        return self.normalise(x)

    def normalise(
        self, x: mx.array, mask: mx.array | None = None, slope: float = 1.0, residual: mx.array | None = None
    ) -> mx.array:
        """Return the normalised x, followed by what `ops.norm_act_dropout` can add; updates the statistics."""
        batch_statistics = self.training or not self.track_running_stats
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

    def _update(self, mean: mx.array, var: mx.array, count: int) -> None:
        if count == 1:
            raise ValueError("batch norm in training needs more than one value per channel; got 1")
        mean, var = mx.stop_gradient(mean), mx.stop_gradient(var) * (count / (count - 1))
        for key, new in (("running_mean", mean), ("running_var", var)):
            self[key] = (1 - self.momentum) * self[key] + self.momentum * new


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

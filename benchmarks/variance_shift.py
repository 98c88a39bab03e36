"""Measure the error of batch norms' variances behind channel dropout, before and after recalibration.

python -m benchmarks.variance_shift [--rate 0.5] [--seeds 3]: for each block of a new `cnn3d` with batch norm, the
running variance after passes over noise over the variance that evaluation has, mean over the channels. 1 is right.
"""

import argparse

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import ops
from benchmarks.shared.cases import make_step
from engine.training.losses import StandardLossArgs, build_loss
from engine.training.recalibrate import recalibrate_norms
from models import build_model
from models.cnn3d import CNN3dArgs
from models.layers.heads import ClassifierDropout
from models.layers.norms import BatchNorm3d


class _Spy(BatchNorm3d):
    """Keeps the variance, per channel, of what it is given."""

    def normalise(
        self, x: mx.array, mask: mx.array | None = None, slope: float = 1.0, residual: mx.array | None = None
    ) -> mx.array:
        self.variance = (np.array(x.var((0, 1, 2, 3))),)
        return super().normalise(x, mask, slope, residual)


def shifts(model: nn.Module, x: mx.array) -> np.ndarray:
    """Return for each of a `cnn3d`'s batch norms the mean over channels of running variance over that of x."""
    model.eval()
    norms = [block.norm for block in model.blocks]
    for norm in norms:
        norm.__class__ = _Spy
    mx.eval(model(x))
    for norm in norms:
        norm.__class__ = BatchNorm3d
    return np.array([(np.array(norm.running_var) / norm.variance[0]).mean() for norm in norms])


def measure(rate: float, seed: int, passes: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return the shifts of a network that dropped in so many passes, and those after recalibration on the same."""
    rng = np.random.default_rng(seed)
    coarse = [mx.array(rng.normal(size=(8, 6, 6, 6, 1)).astype(np.float32)) for _ in range(passes)]
    batches = [ops.upsample3d(x, (4, 4, 4), mode="linear") for x in coarse]  # smooth, as images are
    mx.random.seed(seed)
    args = CNN3dArgs(norm="batch", dropout=ClassifierDropout(rate=rate, places=("body",)))
    model = build_model("cnn3d", args, 1, 2)
    step = make_step(model, build_loss(StandardLossArgs(), 2), {"steps": passes, "compile": "never"}, {})
    model.train()
    for x in batches:
        model(x)
        mx.eval(model.state)
    shown = mx.concatenate(batches[:8])
    before = shifts(model, shown)
    recalibrate_norms(step, [{"x": np.array(x)} for x in batches])
    return before, shifts(model, shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=0.5, help="of the dropout in the body")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        for name, ratios in zip(("trained", "recalibrated"), measure(arguments.rate, seed), strict=True):
            print(f"seed {seed}  {name:12}  {'  '.join(f'{ratio:5.2f}' for ratio in ratios)}", flush=True)


if __name__ == "__main__":
    main()

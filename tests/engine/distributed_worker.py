"""Runs in each process of test_group.py: `python -m tests.engine.distributed_worker CHECK OUTPUT`.

The output, JSON, is written by every process, as OUTPUT.<rank>.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from configs.schema.train import OptimConfig, TrainConfig
from engine.distributed.group import Group, join_group
from engine.training.losses import StandardLossArgs, build_loss
from engine.training.optim import build_optimizer
from engine.training.recalibrate import recalibrate_norms
from engine.training.step import TrainStep
from models.layers.dropout import channel_mask
from models.layers.norms import BatchNorm3d, synchronise_batch_norms
from ops import backend

GLOBAL_BATCH, STEPS, CLASSES, IGNORED = 6, 4, 3, 7


class Net(nn.Module):
    """Two convolutions with a norm between them, and a second output at half the size."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 4, 3, padding=1, bias=False)  # a norm follows: its gradient would be rounding
        self.norm = norm
        self.head = nn.Conv3d(4, CLASSES, 1)
        self.coarse = nn.Conv3d(4, CLASSES, 1)

    def __call__(self, x: mx.array) -> list[mx.array]:
        x = nn.relu(self.norm(self.stem(x)))
        return [self.head(x), self.coarse(x[:, ::2, ::2, ::2])]


def batch(step: int, group: Group) -> dict[str, np.ndarray]:
    """This process' share of a batch whose samples differ much in their classes and in what is ignored."""
    rng = np.random.default_rng(step)
    x = rng.normal(size=(GLOBAL_BATCH, 4, 4, 4, 1)).astype(np.float32)
    x *= np.arange(1, GLOBAL_BATCH + 1, dtype=np.float32).reshape(-1, 1, 1, 1, 1)
    y = np.digitize(x[..., 0], [0, 2]).astype(np.uint8)
    for sample in range(GLOBAL_BATCH):
        y[sample, : sample // 2] = IGNORED
    return {"x": x[group.rank :: group.size], "y": y[group.rank :: group.size]}


def train(group: Group, norm: str, accumulate: int = 1, recalibrates: bool = False, **loss: Any) -> dict[str, Any]:
    mx.random.seed(0)
    net = Net(BatchNorm3d(4) if "batch" in norm else nn.InstanceNorm(4, affine=True))
    if norm == "batch":
        synchronise_batch_norms(net, group.gather_for_all)
    optim_config = OptimConfig(learning_rate=0.05, schedule="constant", ema_decay=0.5)
    how: dict[str, Any] = {"batch_size": GLOBAL_BATCH, "compile": "never", "precision": "float32"}
    config = TrainConfig(steps=STEPS, accumulate=accumulate, **how)
    loss_config = StandardLossArgs(ignore_label=IGNORED, class_weights=(1.0, 2.0, 5.0), **loss)
    step = TrainStep(
        net,
        build_optimizer(optim_config, STEPS),
        build_loss(loss_config, CLASSES, group.gather if group.size > 1 else None),
        config,
        optim_config,
        group,
    )
    results = []
    for number in range(STEPS):
        result = step([batch(number * accumulate + i, group) for i in range(accumulate)])
        results.append([result.loss, result.grad_norm, *result.parts.values()])
    if recalibrates:
        assert recalibrate_norms(step, [batch(STEPS + i, group) for i in range(2)], group) == 1
    average = {f"ema.{name}": a for name, a in step.tensors()["ema"].items()}
    weights = {name: np.array(a).ravel().tolist() for name, a in [*tree_flatten(net.parameters()), *average.items()]}
    return {"steps": results, "weights": weights}


def equality(group: Group) -> dict[str, Any]:
    """One training for each kind of loss, of norm and of step."""
    return {
        "dice_ce": train(group, "instance", name="dice_ce"),
        "batch_dice": train(group, "instance", name="dice_ce", batch_dice=True),
        "focal": train(group, "instance", name="focal"),
        "smoothed": train(group, "instance", name="cross_entropy", label_smoothing=0.2),
        "accumulated": train(group, "instance", accumulate=2, batch_dice=True),
        "batch_norm": train(group, "batch"),
        "recalibrated": train(group, "batch", recalibrates=True),
        "recalibrated_local": train(group, "local batch", recalibrates=True),
        "local_batch_norm": train(group, "local batch"),
    }


def dropout(group: Group) -> dict[str, Any]:
    """The masks that two steps draw, and again the first one's."""
    drop, x = nn.Dropout3d(0.5), mx.zeros((2, 2, 2, 2, 32))
    masks = []
    for step in (0, 1, 0):
        group.seed_step(3, step)
        mask = channel_mask(drop, x)
        assert mask is not None
        masks.append(np.array(mask).tolist())
    return {"masks": masks}


def sharing(group: Group) -> dict[str, Any]:
    """Cases dealt and collected again; texts; arrays of rank 0; gradients through what was gathered."""
    dealt = list(group.deal(range(7)))
    scores = group.undeal([[case / 3, float("nan")] for case in dealt])
    own = {"a": mx.array([1.5, 2.5]) + group.rank, "step": mx.array(3 + group.rank, mx.uint64)}
    received = {name: a.tolist() for name, a in group.broadcast(own).items()}

    def spread(x: mx.array) -> mx.array:  # each process weighs the gathered values by other numbers
        return (group.gather_for_all(x) * (1 + group.rank)).sum()

    return {
        "dealt": dealt,
        "scores": [score[0] for score in scores],
        "shared": group.share_json({"rank": group.rank}),
        "texts": group.gather_texts("ü" * group.rank * 5000),
        "received": received,
        "gradient": mx.grad(spread)(mx.ones((1,))).tolist(),
        "mean": [a.item() for a in group.mean((mx.array(float(group.rank)), mx.array(2.0)))],
    }


CHECKS: dict[str, Callable[[Group], dict[str, Any]]] = {"equality": equality, "dropout": dropout, "sharing": sharing}


def main(checks: list[str], output: str) -> None:
    mx.set_default_device(mx.cpu)
    backend.choose("mlx", 1)
    group = join_group()
    found = {check: CHECKS[check](group) for check in checks}
    Path(f"{output}.{group.rank}").write_text(json.dumps(found), encoding="utf-8")
    group.leave()


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2])

"""What is timed: networks, losses, optimisers and batches. `pytorch.py` builds the same in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.unet3d import Dropout, UNet3dArgs

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Case:
    """One row of the benchmark: input shape (N, D, H, W, C) and the number of classes."""

    name: str
    shape: tuple[int, int, int, int, int]
    num_outputs: int
    widths: tuple[int, ...] | None = None  # of the U-Net; None: a ResNet-18

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x float32 (N, D, H, W, C) and y int32 (N, D, H, W) or (N,), the same in every process."""
        rng = np.random.default_rng(0)
        target = self.shape[:4] if self.widths else self.shape[:1]
        return rng.standard_normal(self.shape, dtype=np.float32), rng.integers(
            0, self.num_outputs, target, dtype=np.int32
        )

    def unet_args(self) -> UNet3dArgs:
        assert self.widths is not None
        return UNet3dArgs(widths=self.widths, dropout=Dropout(kind="channel", rate=0.1))


CASES = {
    case.name: case
    for case in (
        Case("unet16", (2, 48, 48, 48, 1), 3, (16, 32, 64)),
        Case("unet32", (2, 48, 48, 48, 1), 3, (32, 64, 128)),
        Case("resnet18", (8, 64, 64, 64, 1), 2),
        Case("r3d_18", (2, 16, 112, 112, 3), 400),
    )
}

Step = Callable[[], float]  # does one training step and returns its loss


def our_network(case: Case) -> tuple[Any, Any]:
    """Return this project's network, in training mode, and its loss(logits, y)."""
    import mlx.core as mx

    from engine.training.losses import StandardLossArgs, build_loss
    from models import build_model
    from models.layers.heads import ClassifierDropout
    from models.resnet3d import ResNet3dArgs
    from models.video_resnet import VideoResNetArgs

    mx.random.seed(0)
    no_dropout = ClassifierDropout(kind="none")
    name, args = {
        "resnet18": ("resnet3d", ResNet3dArgs(dropout=no_dropout)),
        "r3d_18": ("r3d_18", VideoResNetArgs(dropout=no_dropout)),
    }.get(case.name) or ("unet3d", case.unet_args())
    model = build_model(name, args, case.shape[-1], case.num_outputs)
    model.train()
    return model, build_loss(StandardLossArgs(name="dice_ce" if case.widths else "cross_entropy"), case.num_outputs)


def make_step(model: Any, loss: Any, train: dict[str, Any], optim: dict[str, Any], *group: Any) -> Any:
    """Return the training step that train.py runs; train, optim: of the config's sections, where not the default."""
    from configs.schema.train import OptimConfig, TrainConfig
    from engine.training.optim import build_optimizer
    from engine.training.step import TrainStep

    settings, section = TrainConfig(**train), OptimConfig(**optim)
    return TrainStep(model, build_optimizer(section, train["steps"]), loss, settings, section, *group)


def our_step(case: Case, precision: str) -> Step:
    """Return this project's training step on the case's batch."""
    optim = {"learning_rate": LEARNING_RATE, "schedule": "constant"}
    do = make_step(*our_network(case), {"steps": 10**6, "precision": precision}, optim)
    x, y = case.batch()
    return lambda: do([{"x": x, "y": y}]).loss


def our_convolution(shape: tuple[int, ...], channels: int, precision: str) -> Step:
    """Return one 3×3×3 convolution of the given input shape, to measure the machine's peak with."""
    import mlx.core as mx

    import ops

    x = mx.random.normal(shape).astype(mx.bfloat16 if precision == "bfloat16" else mx.float32)
    weight = mx.random.normal((channels, 3, 3, 3, shape[-1]))
    mx.eval(x, weight)

    def step() -> float:
        mx.eval(ops.conv3d(x, weight, padding=1))
        return 0.0

    return step

"""What is timed: the same network, loss, optimiser and batch, built in MLX or in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

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


class TorchTrainer:
    """PyTorch's side of a comparison: eager, AdamW, the losses of `engine.training.losses`, clipping at 12."""

    def __init__(self, model: Any, precision: str, memory_format: str, weight_decay: float) -> None:
        import torch

        formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
        self.format = formats[memory_format]
        self.model = model.to(memory_format=self.format).train()
        self.precision = precision
        kernels = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, LEARNING_RATE)

    def tensor(self, x: np.ndarray) -> Any:
        """Channels-last NumPy (N, D, H, W, C) as a tensor (N, C, D, H, W) in the memory format."""
        import torch

        return torch.from_numpy(x).movedim(-1, 1).contiguous(memory_format=self.format)

    def logits(self, x: Any) -> Any:
        import torch

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.model(x)

    def step(self, x: Any, y: Any, learning_rate: float = LEARNING_RATE) -> float:
        """One training step on x (N, C, D, H, W) and int64 y; returns the loss."""
        from torch import nn

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss = _torch_loss(self.logits(x).float(), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 12.0)
        self.optimizer.step()
        return loss.item()


def _torch_loss(logits: Any, y: Any) -> Any:
    """Cross-entropy for y (N,); for y (N, D, H, W) soft Dice without background, per sample, besides."""
    import torch
    from torch.nn import functional as F

    cross_entropy = F.cross_entropy(logits, y)
    if y.ndim == 1:
        return cross_entropy
    p = torch.softmax(logits, 1)[:, 1:]
    t = F.one_hot(y, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    axes = (2, 3, 4)
    dice = (2 * (p * t).sum(axes) + 1e-5) / (p.sum(axes) + t.sum(axes) + 1e-5)
    return cross_entropy + 1 - dice.mean()


def _torch_model(case: Case) -> Any:
    from benchmarks.shared.torch_models import ResNet18, UNet3d

    inputs = case.shape[-1]
    if case.widths is not None:
        return UNet3d(case.unet_args(), inputs, case.num_outputs)
    return ResNet18(inputs, case.num_outputs, video=case.name == "r3d_18")


def torch_step(case: Case, precision: str, threads: int, memory_format: str) -> Step:
    """Return PyTorch's training step; memory_format is `contiguous` or `channels_last`."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    trainer = TorchTrainer(_torch_model(case), precision, memory_format, weight_decay=0.01)
    x_np, y_np = case.batch()
    x, y = trainer.tensor(x_np), torch.from_numpy(y_np).long()
    return lambda: trainer.step(x, y)


def count_convolution_flops(case: Case) -> float:
    """Return the floating-point operations of one step's convolutions, counted on PyTorch's twin of the network.

    A multiplication and an addition are two. Forward, data and weight gradients cost the same; the first layer
    has no data gradient.
    """
    import torch
    from torch import nn

    total = 0.0

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
        voxels = output if isinstance(module, nn.Conv3d) else inputs[0]
        forward = 2.0 * voxels[:, 0].numel() * module.weight.numel()
        total += forward * (2 if inputs[0].shape[1] == case.shape[-1] else 3)

    with torch.device("meta"):
        model = _torch_model(case)
        for module in model.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                module.register_forward_hook(add)
        n, *space, channels = case.shape
        model(torch.empty(n, channels, *space))
    return total


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


def our_step(case: Case, precision: Literal["float32", "bfloat16"]) -> Step:
    """Return this project's training step, the one that train.py runs."""
    from configs.schema.train import OptimConfig, TrainConfig
    from engine.training.optim import build_optimizer
    from engine.training.step import TrainStep

    model, loss = our_network(case)
    optim = OptimConfig(learning_rate=LEARNING_RATE, schedule="constant")
    train = TrainConfig(steps=10**6, precision=precision)
    do = TrainStep(model, build_optimizer(optim, 10**6), loss, train, optim)
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

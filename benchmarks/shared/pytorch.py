"""The benchmarks' twin in PyTorch: the networks, layer for layer what `models/` builds, and a training step.

Needs the `bench` extra.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.shared.cases import LEARNING_RATE, Case, Step
from models.unet3d import UNet3dArgs

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}


class Block(nn.Module):
    """Conv3d, instance norm, leaky ReLU, Dropout3d."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int], rate: float) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.InstanceNorm3d(outputs, affine=True)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        self.drop = nn.Dropout3d(rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.act(self.norm(self.conv(x))))


class UNet3d(nn.Module):
    """The U-Net of `models.unet3d` with transposed convolutions and 3×3×3 kernels, dropout in every block."""

    def __init__(self, args: UNet3dArgs, inputs: int, outputs: int) -> None:
        super().__init__()
        strides, widths, rate = args.level_strides(), args.widths, args.dropout.rate
        self.encoder = nn.ModuleList()
        for width, stride in zip(widths, strides, strict=True):
            self.encoder.append(nn.Sequential(Block(inputs, width, stride, rate), Block(width, width, (1, 1, 1), rate)))
            inputs = width
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths) - 1)):
            width, stride = widths[level], strides[level + 1]
            self.up.append(nn.ConvTranspose3d(widths[level + 1], width, stride, stride))
            self.decoder.append(
                nn.Sequential(Block(2 * width, width, (1, 1, 1), rate), Block(width, width, (1, 1, 1), rate))
            )
        self.head = nn.Conv3d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for blocks in self.encoder:
            x = blocks(x)
            skips.append(x)
        for up, blocks, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = blocks(torch.cat([up(x), skip], 1))
        return self.head(x)


class BasicBlock(nn.Module):
    """Two convolutions with batch norm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class ResNet18(nn.Module):
    """ResNet-18 in 3-D: r3d_18's stem (Tran et al. 2018) or MedicalNet's 7×7×7 stem with pooling (Chen et al. 2019)."""

    def __init__(self, inputs: int, outputs: int, video: bool) -> None:
        super().__init__()
        if video:
            conv = nn.Conv3d(inputs, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        else:
            conv = nn.Conv3d(inputs, 64, 7, 2, 3, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm3d(64), nn.ReLU(inplace=True))
        if not video:
            self.stem.append(nn.MaxPool3d(3, 2, 1))
        layers: list[nn.Module] = []
        width = 64
        for level, outputs_of_level in enumerate((64, 128, 256, 512)):
            layers.append(BasicBlock(width, outputs_of_level, 1 if level == 0 else 2))
            layers.append(BasicBlock(outputs_of_level, outputs_of_level, 1))
            width = outputs_of_level
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(self.stem(x)).mean((2, 3, 4)))


class TorchTrainer:
    """PyTorch's side of a comparison: eager, AdamW, the losses of `engine.training.losses`, clipping at 12."""

    def __init__(self, model: Any, precision: str, memory_format: str, weight_decay: float) -> None:
        self.format = FORMATS[memory_format]
        self.model = model.to(memory_format=self.format).train()
        self.precision = precision
        kernels = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, LEARNING_RATE)

    def tensor(self, x: np.ndarray) -> Any:
        """Return channels-last NumPy (N, D, H, W, C) as a tensor (N, C, D, H, W) in the memory format."""
        return torch.from_numpy(x).movedim(-1, 1).contiguous(memory_format=self.format)

    def logits(self, x: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.model(x)

    def step(self, x: Any, y: Any, learning_rate: float = LEARNING_RATE) -> float:
        """Run one training step on x (N, C, D, H, W) and int64 y; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss = _torch_loss(self.logits(x).float(), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 12.0)
        self.optimizer.step()
        return loss.item()


def _torch_loss(logits: Any, y: Any) -> Any:
    """Return cross-entropy for y (N,); for y (N, D, H, W) plus soft Dice without background, per sample."""
    cross_entropy = F.cross_entropy(logits, y)
    if y.ndim == 1:
        return cross_entropy
    p = torch.softmax(logits, 1)[:, 1:]
    t = F.one_hot(y, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    axes = (2, 3, 4)
    dice = (2 * (p * t).sum(axes) + 1e-5) / (p.sum(axes) + t.sum(axes) + 1e-5)
    return cross_entropy + 1 - dice.mean()


def _torch_model(case: Case) -> nn.Module:
    inputs = case.shape[-1]
    if case.widths is not None:
        return UNet3d(case.unet_args(), inputs, case.num_outputs)
    return ResNet18(inputs, case.num_outputs, video=case.name == "r3d_18")


def torch_step(case: Case, precision: str, threads: int, memory_format: str) -> Step:
    """Return PyTorch's training step; memory_format is `contiguous` or `channels_last`."""
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

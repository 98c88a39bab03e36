"""The benchmarked networks in PyTorch, layer for layer what `models/` builds. Needs the `bench` extra."""

import torch
from torch import Tensor, nn

from models.unet3d import UNet3dArgs


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

"""The block that every network here is made of: Conv3d, norm, activation, Dropout3d."""

import math

import mlx.core as mx
import mlx.nn as nn

from configs.schema.model import DropoutPosition
from models.layers.dropout import apply_dropout
from models.layers.fused import apply_conv, call, effective_position, norm_act_drop, norm_act_split

Triple = tuple[int, int, int]  # (D, H, W)


class ConvBlock(nn.Module):
    """Convolution – normalisation – activation – dropout; any of the last three may be None.

    drop: `nn.Dropout3d` drops whole channels of a sample, `nn.Dropout` single voxels.
    position: of the dropout, which otherwise follows the convolution (before_norm) or the norm (after_norm).

    Maps (N, D, H, W, in_channels) to (N, D', H', W', out_channels), D' = ceil(D / stride) for odd kernels.
    """

    fused = True  # False: the layers run one by one, as written in `__call__`

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Triple = 3,
        stride: int | Triple = 1,
        dilation: int = 1,
        *,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
        drop: nn.Dropout3d | nn.Dropout | None = None,
        position: DropoutPosition = "after_activation",
        bias: bool | None = None,
        input_grad: bool = True,
    ) -> None:
        super().__init__()
        kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
        padding = tuple(dilation * (k // 2) for k in kernel)
        bias = norm is None if bias is None else bias  # a norm subtracts it again, with the mean
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, dilation, bias)
        self.norm = norm
        self.act = act
        self.drop = drop
        self.position = position
        self.input_grad = input_grad  # False for a network's first layer: nothing needs the image's gradient

    def __call__(self, x: mx.array, residual: mx.array | None = None) -> mx.array:
        """Return drop(act(norm(conv(x)))); with a residual act(drop(norm(conv(x))) + residual).

        Dropout is inside a residual branch, never behind its sum: the identity path carries signal and gradient
        unchanged through all blocks, and networks with dropout on it train badly (He et al. 2016, arXiv:1603.05027).
        """
        x = apply_conv(self.conv, x, self.input_grad)
        if self.fused:  # the rest as one operator: two passes over the volume
            return norm_act_drop(self.norm, self.act, self.drop, x, residual, self.position)
        is_branch = residual is not None and self.position == "after_activation"
        drop = {"after_norm" if is_branch else self.position: self.drop}
        x = apply_dropout(drop.get("before_norm"), x)
        x = call(self.norm, x)
        x = apply_dropout(drop.get("after_norm"), x)
        x = x if residual is None else x + residual
        x = call(self.act, x)
        return apply_dropout(drop.get("after_activation"), x)

    def split(self, x: mx.array, residual: mx.array | None = None) -> tuple[mx.array, mx.array]:
        """Return what a call returns, and the same without dropout."""
        if self.drop is None or not self.drop.training:
            y = self(x, residual)
            return y, y
        x = apply_conv(self.conv, x, self.input_grad)
        return norm_act_split(self.norm, self.act, self.drop, x, residual, self.position)

    @property
    def effective_position(self) -> DropoutPosition:
        """The dropout's position; after_activation where that is the same function, see docs/ablations.md."""
        return effective_position(self.norm, self.act, self.position)


ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def make_activation(name: str) -> nn.Module:
    """Return the activation layer of the config's name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def he_normal(model: nn.Module, slope: float = 0.0, mode: str = "fan_in") -> None:
    """Draw all convolution weights from He et al.'s normal distribution (2015, arXiv:1502.01852).

    The variance is 2 / (1 + slope²) / fan, fan being the number of weights that reach one output value
    (fan_in) or, with "fan_out", that leave one input value. MLX's own default is uniform in
    ±1/sqrt(fan_in), six times smaller in variance. Biases stay 0. Depends only on the state of `mx.random`.

    PyTorch's kaiming_normal_, and so nnU-Net, takes outputs × taps for the fan-in of a transposed convolution.
    """
    gain = math.sqrt(2 / (1 + slope**2))
    for _, conv in sorted(model.named_modules()):
        if not isinstance(conv, nn.Conv3d | nn.ConvTranspose3d):
            continue
        outputs, *kernel, inputs = conv.weight.shape  # (O, kD, kH, kW, I)
        taps = math.prod(kernel)
        if isinstance(conv, nn.ConvTranspose3d):
            taps = taps / math.prod(conv.stride)  # only every stride-th tap reaches a given output
        fan = (inputs if mode == "fan_in" else outputs) * taps
        conv.weight = mx.random.normal(conv.weight.shape, scale=gain / math.sqrt(fan))

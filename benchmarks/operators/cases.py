"""The operators that are timed one by one: the same arrays and the same arithmetic for us and for PyTorch."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Command = Callable[[], float]


@dataclass(frozen=True)
class Operator:
    """`inputs` are the shapes of its arguments in our layout; the first is the volume, the others parameters."""

    inputs: tuple[Shape, ...]
    ours: Callable[..., Any]  # of the module `ops` and the arguments
    torch: Callable[..., Any]  # of the module `torch` and the arguments
    flops: float = 0.0  # of the forward pass, and of each gradient. 0: bound by memory
    image: bool = False  # the volume is data and needs no gradient


def convolution(x: Shape, channels: int, kernel: int = 3, stride: int = 1) -> Operator:
    padding, image = kernel // 2, x[-1] == 1
    weight = (channels, kernel, kernel, kernel, x[-1])
    voxels = x[0] * math.prod((s + 2 * padding - kernel) // stride + 1 for s in x[1:4])
    return Operator(
        (x, weight),
        lambda ops, x, w: ops.conv3d(x, w, stride=stride, padding=padding, input_grad=not image),
        lambda torch, x, w: torch.nn.functional.conv3d(x, w, None, stride, padding),
        2.0 * voxels * math.prod(weight),
        image,
    )


def transposed_convolution(x: Shape, channels: int) -> Operator:
    weight = (channels, 2, 2, 2, x[-1])
    return Operator(
        (x, weight),
        lambda ops, x, w: ops.conv_transpose3d(x, w, stride=2),
        lambda torch, x, w: torch.nn.functional.conv_transpose3d(x, w.transpose(0, 1), None, 2),
        2.0 * math.prod(x[:4]) * math.prod(weight),
    )


def norm_act_dropout(x: Shape) -> Operator:
    """Instance norm, leaky ReLU and a channel mask that is given: drawing it is not what is timed."""
    keep = (np.random.default_rng(1).random((x[0], x[-1])) < 0.9).astype(np.float32) / 0.9

    def ours(ops: Any, x: Any, weight: Any, bias: Any) -> Any:
        import mlx.core as mx

        return ops.norm_act_dropout(x, weight, bias, mx.array(keep), slope=0.01)[0]

    def torch(torch: Any, x: Any, weight: Any, bias: Any) -> Any:
        functional = torch.nn.functional
        y = functional.leaky_relu(functional.instance_norm(x, None, None, weight, bias), 0.01)
        return y * torch.from_numpy(keep).to(y.dtype)[:, :, None, None, None]

    return Operator((x, x[-1:], x[-1:]), ours, torch)


def max_pool(x: Shape) -> Operator:
    return Operator(
        (x,),
        lambda ops, x: ops.max_pool3d(x, 3, 2, 1),
        lambda torch, x: torch.nn.functional.max_pool3d(x, 3, 2, 1),
    )


def upsample(x: Shape, mode: str) -> Operator:
    theirs = {"linear": "trilinear", "nearest": "nearest"}[mode]
    return Operator(
        (x,),
        lambda ops, x: ops.upsample3d(x, 2, mode=mode),
        lambda torch, x: torch.nn.functional.interpolate(x, scale_factor=2, mode=theirs),
    )


def concat(x: Shape) -> Operator:
    return Operator((x, x), lambda ops, a, b: ops.concat_channels(a, b), lambda torch, a, b: torch.cat([a, b], 1))


OPERATORS = {
    "conv3d 3³ 2×48³ 1→16": convolution((2, 48, 48, 48, 1), 16),
    "conv3d 3³ 2×48³ 16→16": convolution((2, 48, 48, 48, 16), 16),
    "conv3d 3³ 2×48³ 32→16": convolution((2, 48, 48, 48, 32), 16),
    "conv3d 3³ 2×48³ 16→32 stride 2": convolution((2, 48, 48, 48, 16), 32, stride=2),
    "conv3d 3³ 2×24³ 32→32": convolution((2, 24, 24, 24, 32), 32),
    "conv3d 3³ 2×24³ 64→32": convolution((2, 24, 24, 24, 64), 32),
    "conv3d 3³ 2×12³ 64→64": convolution((2, 12, 12, 12, 64), 64),
    "conv3d 3³ 2×32³ 64→64": convolution((2, 32, 32, 32, 64), 64),
    "conv3d 3³ 8×4³ 512→512": convolution((8, 4, 4, 4, 512), 512),
    "conv3d 7³ 2×64³ 1→64 stride 2": convolution((2, 64, 64, 64, 1), 64, kernel=7, stride=2),
    "conv3d 1³ 2×48³ 16→3": convolution((2, 48, 48, 48, 16), 3, kernel=1),
    "conv_transpose3d 2³ 2×24³ 32→16": transposed_convolution((2, 24, 24, 24, 32), 16),
    "norm_act_dropout 2×48³×16": norm_act_dropout((2, 48, 48, 48, 16)),
    "norm_act_dropout 2×24³×32": norm_act_dropout((2, 24, 24, 24, 32)),
    "max_pool3d 3³ stride 2, 2×48³×16": max_pool((2, 48, 48, 48, 16)),
    "upsample3d linear 2×24³×16": upsample((2, 24, 24, 24, 16), "linear"),
    "upsample3d nearest 2×24³×16": upsample((2, 24, 24, 24, 16), "nearest"),
    "concat_channels 2×48³ 16+16": concat((2, 48, 48, 48, 16)),
}


def resized(size: tuple[int, int, int]) -> dict[str, Operator]:
    """Return the same operators on volumes of another size: those at 48³ get `size`, the others are scaled with it."""
    operators = {}
    for name, operator in OPERATORS.items():
        n, side, *_, channels = operator.inputs[0]
        volume = (n, *(max(4, round(s * side / 48)) for s in size), channels)
        inputs = tuple(volume if _is_volume(operator, i) else shape for i, shape in enumerate(operator.inputs))
        shape = "×".join(map(str, volume[:4]))
        operators[re.sub(r"\d+×\d+³", shape, name)] = dataclasses.replace(operator, inputs=inputs)
    return operators


def our_arrays(operator: Operator, precision: str) -> tuple[list[Any], Any]:
    """Return the operator's arguments and a cotangent of what it returns, drawn under one seed."""
    import mlx.core as mx

    import ops

    dtype = {"float32": mx.float32, "bfloat16": mx.bfloat16}[precision]
    volumes = [_draw(shape) for shape in operator.inputs]
    # parameters stay float32: they are the masters
    inputs = [mx.array(v).astype(dtype if _is_volume(operator, i) else mx.float32) for i, v in enumerate(volumes)]
    y = operator.ours(ops, *inputs)
    cotangent = mx.array(_draw(y.shape)).astype(y.dtype)
    mx.eval(inputs, cotangent)
    return inputs, cotangent


def our_gradients(operator: Operator, inputs: list[Any], cotangent: Any) -> tuple[Any, list[Any]]:
    """Return the operator's value and the gradients that a network needs, not yet evaluated."""
    import mlx.core as mx

    import ops

    (value,), gradients = mx.vjp(functools.partial(operator.ours, ops), inputs, [cotangent])
    return value, gradients[operator.image :]


def our_commands(precision: str) -> dict[str, Command]:
    """Return "<operator> forward" and "<operator> gradients" for each operator."""
    import mlx.core as mx

    import ops

    @functools.lru_cache(maxsize=1)  # one operator's arrays at a time
    def arrays(name: str) -> tuple[list[mx.array], mx.array]:
        return our_arrays(OPERATORS[name], precision)

    return _commands(
        lambda name: mx.eval(OPERATORS[name].ours(ops, *arrays(name)[0])),
        lambda name: mx.eval(our_gradients(OPERATORS[name], *arrays(name))),
    )


def torch_commands(precision: str, memory_format: str) -> dict[str, Command]:
    """Return the same for PyTorch; memory_format is `contiguous` or `channels_last`."""
    import torch

    layout = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}[memory_format]
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]

    def tensor(array: np.ndarray) -> torch.Tensor:
        t = torch.from_numpy(array)
        return t.movedim(-1, 1).contiguous(memory_format=layout) if t.ndim == 5 else t

    def run(name: str, inputs: list[torch.Tensor]) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            return OPERATORS[name].torch(torch, *inputs)

    @functools.lru_cache(maxsize=1)
    def arrays(name: str) -> tuple[list[torch.Tensor], torch.Tensor]:
        operator = OPERATORS[name]
        inputs = [tensor(_draw(shape)) for shape in operator.inputs]
        inputs = [t.to(dtype) if _is_volume(operator, i) else t for i, t in enumerate(inputs)]
        with torch.no_grad():
            y = run(name, inputs)
        cotangent = torch.randn(y.shape).to(y.dtype).contiguous(memory_format=layout)
        for t in inputs[operator.image :]:
            t.requires_grad_()
        return inputs, cotangent

    def forward(name: str) -> None:
        with torch.no_grad():
            run(name, arrays(name)[0])

    def gradients(name: str) -> None:
        inputs, cotangent = arrays(name)
        torch.autograd.grad(run(name, inputs), inputs[OPERATORS[name].image :], cotangent)

    return _commands(forward, gradients)


def _commands(forward: Callable[[str], None], gradients: Callable[[str], None]) -> dict[str, Command]:
    def command(run: Callable[[str], None], name: str) -> float:
        run(name)
        return 0.0

    parts = {"forward": forward, "gradients": gradients}
    return {
        f"{name} {part}": functools.partial(command, run, name) for name in OPERATORS for part, run in parts.items()
    }


def _is_volume(operator: Operator, i: int) -> bool:
    """Return whether input i is an activation: the first, and others of its shape."""
    return operator.inputs[i] == operator.inputs[0]


def _draw(shape: Shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

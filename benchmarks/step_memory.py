"""Measure the memory of one training step: MLX's own operators, as Metal runs them, beside oneDNN's.

    python -m benchmarks.step_memory [--json FILE] [--cases unet16 ...]

Measures the peak of loss and gradients of one float32 step on the CPU, above what was active before it, each row in a
process of its own; prints a table, and exits with 1 if the mlx form's peak exceeds 1.3 times the onednn form's.

In both forms it counts what MLX allocates; oneDNN's and NumPy's scratch, which would add to the onednn form, is not
counted.
On the CPU MLX unfolds the input of every convolution, which Metal does not: calls that its implicit kernel takes
(backend/metal/conv.cpp, `dispatch_conv_3D_gpu`) are replaced by the allocations it makes. Of those that stay,
`ops/convolution/rules.py` decides, its bounds made smaller as the patches are smaller than those they are made for.
The peaks that decide are measured under `mx.set_memory_limit(1_000_000)`: it keeps MLX from starting tasks long before
their results are used. Without it their number is random; one such peak is shown too.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from benchmarks.shared.cases import CASES, Case, our_network
from benchmarks.shared.command import call_apart, make_parser, write_rows
from ops import backend

Convolution = Callable[[mx.array, mx.array], mx.array]  # of x and weight

SHAPES = {
    "unet16": (1, 32, 32, 32, 1),
    "unet32": (1, 32, 32, 32, 1),
    "resnet18": (2, 48, 48, 48, 1),
    "r3d_18": (1, 16, 56, 56, 3),
}
"""Small enough for the reference BLAS that MLX's Linux wheel links."""

LIMIT_BYTES = 1_000_000
ALLOWED = 1.3
FULL_VOXELS = 2 * 128**3  # of a batch that the rule's bounds in bytes are made for


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    arguments = parser.parse_args()
    rows = []
    print(f"{'case':<10}{'shape':<22}{'onednn':>9}{'mlx':>9}{'ratio':>7}{'mlx, no limit':>15}   MB")
    for name in arguments.cases:
        onednn, mlx, free = (
            _run_row(name, *form) for form in (("onednn", LIMIT_BYTES), ("mlx", LIMIT_BYTES), ("mlx", 0))
        )
        rows += [onednn, mlx]
        peaks = [row["peak_bytes"] / 1e6 for row in (onednn, mlx, free)]
        shape = "×".join(map(str, SHAPES[name]))
        print(f"{name:<10}{shape:<22}{peaks[0]:>9.1f}{peaks[1]:>9.1f}{peaks[1] / peaks[0]:>7.2f}{peaks[2]:>15.1f}")
    write_rows(arguments.json, rows)
    sys.exit(0 if all(is_allowed(*rows[i : i + 2]) for i in range(0, len(rows), 2)) else 1)


def is_allowed(onednn: dict[str, Any], mlx: dict[str, Any]) -> bool:
    return bool(mlx["peak_bytes"] <= ALLOWED * onednn["peak_bytes"])


def _run_row(case: str, form: str, limit: int) -> dict[str, Any]:
    row: dict[str, Any] = call_apart("benchmarks.step_memory", "measure_small", case, form, limit)
    return row


def measure_small(name: str, form: str, limit: int) -> dict[str, Any]:
    """Return `measure`'s row of the benchmark's case of the name."""
    return measure(small(name), form, limit)


def small(name: str) -> Case:
    """Return the benchmark's case at the shape that is measured here."""
    return dataclasses.replace(CASES[name], shape=SHAPES[name])


def measure(case: Case, form: str, limit: int, precision: str = "float32") -> dict[str, Any]:
    """Return one row; changes this process's operators. limit: of MLX's memory, in bytes; 0 leaves MLX's own."""
    mx.set_default_device(mx.cpu)
    backend.choose(form)
    if form == "mlx":
        stand_in_for_metal(math.prod(case.shape[:4]))
    if limit:
        mx.set_memory_limit(limit)
    model, loss = our_network(case)
    x, y = map(mx.array, case.batch())
    dtype = {"float32": mx.float32, "bfloat16": mx.bfloat16}[precision]
    step = nn.value_and_grad(model, lambda x, y: loss(model(x.astype(dtype)), y)[0])
    mx.eval(model.state, x, y)
    mx.synchronize()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(step(x, y))
    peak = mx.get_peak_memory() - before
    return {"case": case.name, "precision": precision, "form": form, "peak_bytes": peak}


def stand_in_for_metal(voxels: int) -> None:
    """Make this process's convolutions allocate what Metal's do, for a batch of that many voxels."""
    from ops.convolution import rules

    rules.SMALL_UNFOLD_BYTES = rules.SMALL_UNFOLD_BYTES * voxels // FULL_VOXELS
    conv3d, conv_general = mx.conv3d, mx.conv_general

    def is_implicit(kwargs: dict[str, Any]) -> bool:
        return kwargs.get("input_dilation", 1) in (1, (1, 1, 1), [1, 1, 1])

    mx.conv3d = lambda x, w, *args: stand_in(lambda x, w: conv3d(x, w, *args))(x, w)
    mx.conv_general = lambda x, w, **kwargs: (
        stand_in(lambda x, w: conv_general(x, w, **kwargs))(x, w)
        if is_implicit(kwargs)
        else conv_general(x, w, **kwargs)
    )


def stand_in(convolution: Convolution) -> Convolution:
    """Return a function of x (N, D, H, W, I) and weight (O, kD, kH, kW, I) that allocates what Metal's implicit
    kernel does for it and for its gradient for x of stride 1. These are zeros; the other gradients are true.
    """

    @mx.custom_function
    def function(x: mx.array, w: mx.array) -> mx.array:
        return _allocate(convolution(x, w).shape, x, w)  # which is never evaluated

    @function.vjp
    def gradients(primals: tuple[mx.array, mx.array], dy: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
        x, w = primals
        dw = mx.vjp(lambda w: convolution(x, w), [w], [dy])[1][0]
        if dy.shape[1:4] != x.shape[1:4]:  # strided
            return mx.vjp(lambda x: convolution(x, w), [x], [dy])[1][0], dw
        return _allocate(x.shape, dy, w), dw

    return cast(Convolution, function)


def _allocate(shape: tuple[int, ...], x: mx.array, w: mx.array) -> mx.array:
    """Return zeros that depend on x and w, with Metal's padded copies where channels are no multiples of 16."""

    def fill(shape: tuple[int, ...], channels: int) -> mx.array:
        return mx.contiguous(mx.broadcast_to(zero, (*shape[:-1], channels)))

    channels, outputs = x.shape[-1], shape[-1]
    zero = 0 * (x[:1, :1, :1, :1, :1] + w[:1, :1, :1, :1, :1])
    held = [x]  # until y is there
    if channels % 16 or (outputs > 16 and outputs % 16):
        outputs = -(-outputs // 16) * 16
        held += [fill(x.shape, -(-channels // 16) * 16)] if channels % 16 else []
    (y,) = mx.depends([fill(shape, outputs)], held)
    return y[..., : shape[-1]]  # shares y's memory, on Metal too


if __name__ == "__main__":
    main()

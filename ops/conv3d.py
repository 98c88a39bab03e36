"""3-D convolution: in plain MLX, or by oneDNN on the CPU."""

import mlx.core as mx

from ops import backend
from ops.convolution import plain
from ops.convolution.geometry import Geometry, Triple, triple


def conv3d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    stride: int | Triple = 1,
    padding: int | Triple = 0,
    dilation: int | Triple = 1,
    input_grad: bool = True,
    weight_grad: bool = True,
) -> mx.array:
    """Return the convolution (cross-correlation) of x by weight, plus bias, in x's dtype.

    x: (N, D, H, W, I) float32 or bfloat16. weight: (O, kD, kH, kW, I) and bias: (O,), of x's dtype or
    float32; products of bfloat16 are summed in float32, and gradients have their parameter's dtype.
    Returns (N, D', H', W', O). input_grad=False treats x as data: its gradient is zero and not computed;
    weight_grad=False does the same for the weight.

    Raises ValueError for shapes that do not fit, and with oneDNN RuntimeError inside mx.compile.
    """
    stride, padding, dilation = triple(stride), triple(padding), triple(dilation)
    check_channels("conv3d", x, weight, bias)
    n, *size, _ = x.shape
    o, *kernel, _ = weight.shape
    output = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, k, t, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    if min(output) < 1:
        raise ValueError(
            f"conv3d: a kernel of {tuple(kernel)} with dilation {dilation} does not fit into x of {tuple(size)} "
            f"voxels padded by {padding}"
        )
    g = Geometry("conv3d", x.shape, weight.shape, (n, *output, o), stride, padding, dilation)
    if backend.runs_on_onednn(x):
        from ops.cpu.onednn.function import convolve

        return convolve(g, x, weight, bias, input_grad, weight_grad)

    def forward(x: mx.array, w: mx.array) -> mx.array:
        return mx.conv3d(x, w, stride, padding, dilation)

    return plain.convolve(g, forward, x, weight, bias, input_grad, weight_grad)


def check_channels(operator: str, x: mx.array, weight: mx.array, bias: mx.array | None) -> None:
    """Raise ValueError unless x (N, D, H, W, I), weight (O, kD, kH, kW, I) and bias (O,) go together."""
    if x.ndim != 5 or weight.ndim != 5 or x.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"{operator}: expected x (N, D, H, W, I) and weight (O, kD, kH, kW, I) with one I, got x {x.shape} "
            f"and weight {weight.shape}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{operator}: expected bias {weight.shape[:1]} for weight {weight.shape}, got {bias.shape}")

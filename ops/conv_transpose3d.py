"""Transposed 3-D convolution: in plain MLX, or by oneDNN on the CPU."""

import mlx.core as mx

from ops import backend
from ops.conv3d import check_channels
from ops.convolution import plain
from ops.convolution.geometry import Geometry, Triple, triple


def conv_transpose3d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    stride: int | Triple = 1,
    padding: int | Triple = 0,
    output_padding: int | Triple = 0,
    weight_grad: bool = True,
) -> mx.array:
    """Return the transposed convolution of x by weight, plus bias, in x's dtype.

    x: (N, D, H, W, I) float32 or bfloat16. weight: (O, kD, kH, kW, I) and bias: (O,), of x's dtype or
    float32; gradients have their parameter's dtype. Returns (N, D', H', W', O) with
    D' = (D - 1) stride - 2 padding + kD + output_padding. weight_grad=False treats the weight as a constant:
    its gradient is not computed.

    Raises ValueError for shapes that do not fit, and with oneDNN RuntimeError inside mx.compile.
    """
    stride, padding, output_padding = triple(stride), triple(padding), triple(output_padding)
    check_channels("conv_transpose3d", x, weight, bias)
    n, *size, _ = x.shape
    o, *kernel, _ = weight.shape
    if any(extra >= t for extra, t in zip(output_padding, stride, strict=True)):
        raise ValueError(f"conv_transpose3d: output_padding {output_padding} must be smaller than stride {stride}")
    if any(p >= k for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"conv_transpose3d: padding {padding} must be smaller than the kernel {tuple(kernel)}")
    output = [
        (s - 1) * t - 2 * p + k + extra
        for s, k, t, p, extra in zip(size, kernel, stride, padding, output_padding, strict=True)
    ]
    if min(output) < 1:
        raise ValueError(
            f"conv_transpose3d: padding {padding} leaves nothing of x of {tuple(size)} voxels with a kernel of "
            f"{tuple(kernel)} and stride {stride}"
        )
    g = Geometry("conv_transpose3d", x.shape, weight.shape, (n, *output, o), stride, padding, (1, 1, 1))
    if backend.runs_on_onednn(x):
        from ops.cpu.onednn.function import convolve

        return convolve(g, x, weight, bias, input_grad=True, weight_grad=weight_grad)

    def forward(x: mx.array, w: mx.array) -> mx.array:
        if not any(output_padding):
            return mx.conv_transpose3d(x, w, stride, padding)
        # MLX 0.32's gradient for x has a wrong shape where output_padding differs between axes
        y = mx.conv_transpose3d(x, w, stride)
        ends = [p + n for p, n in zip(padding, output, strict=True)]
        y = mx.pad(y, [(0, 0), *((0, max(0, end - n)) for end, n in zip(ends, y.shape[1:4], strict=True)), (0, 0)])
        d, h, v = (slice(p, end) for p, end in zip(padding, ends, strict=True))
        return y[:, d, h, v]

    return plain.convolve(g, forward, x, weight, bias, input_grad=True, weight_grad=weight_grad)

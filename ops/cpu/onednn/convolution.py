"""Convolution and transposed convolution, with their gradients, by oneDNN on channels-last arrays.

Activations are read and written in place. Weights are reordered, on every call, into the blocked layout that the
kernel expects: that costs the weights' size, and a cached copy would be outdated after each step.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ops.convolution.geometry import Geometry, Shape
from ops.cpu.onednn import library as dnnl
from ops.cpu.onednn import matmul
from ops.cpu.onednn.primitives import Handle, Primitive, Runtime, dims, runtime


def forward(g: Geometry, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, y: np.ndarray) -> None:
    """Write the convolution of x by weight, plus bias, into y."""
    run = runtime().plan(("forward", g), lambda: _Forward(g))
    run(x.ctypes.data, weight.ctypes.data, bias.ctypes.data if bias is not None else 0, y.ctypes.data)


def backward_data(g: Geometry, dy: np.ndarray, weight: np.ndarray, dx: np.ndarray) -> None:
    """Write the gradient with respect to x into dx."""
    run = runtime().plan(("backward data", g), lambda: _BackwardData(g))
    run(dy.ctypes.data, weight.ctypes.data, dx.ctypes.data)


def backward_weights(g: Geometry, x: np.ndarray, dy: np.ndarray, dweight: np.ndarray) -> None:
    """Write the gradient with respect to the weight into dweight."""
    if matmul.suits(g):
        runtime().plan(("weight gradient as a product", g), lambda: matmul.WeightGradient(g))(x, dy, dweight)
        return
    if g.bfloat16 and _is_shallow(g):
        g, x, dy = replace(g, bfloat16=False), _as_float32(x), _as_float32(dy)
    run = runtime().plan(("backward weights", g), lambda: _BackwardWeights(g))
    run(x.ctypes.data, dy.ctypes.data, dweight.ctypes.data)


def _is_shallow(g: Geometry) -> bool:
    """Return whether the input is less deep than a window, and the output has several planes.

    There oneDNN 3.2's bfloat16 kernel returns uninitialised scratch memory, and may write beyond it.
    """
    wide, narrow = (g.y_shape, g.x_shape) if g.operator == "conv_transpose3d" else (g.x_shape, g.y_shape)
    return wide[1] < g.dilation[0] * (g.weight_shape[1] - 1) + 1 and narrow[1] > 1


def _as_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


class _Layouts:
    """Descriptors of a geometry's arrays, and the descriptions of its three primitives."""

    def __init__(self, g: Geometry) -> None:
        self.onednn = onednn = runtime()
        self.g = g
        activations = dnnl.BF16 if g.bfloat16 else dnnl.F32
        o, *kernel, i = g.weight_shape
        self.x = _channels_last(onednn, g.x_shape, activations)
        self.y = _channels_last(onednn, g.y_shape, activations)
        self.weight = _channels_last(onednn, g.weight_shape, dnnl.F32)  # (O, I, kD, kH, kW) over MLX's layout
        self.any_weight = onednn.descriptor((o, i, *kernel), activations)
        self.any_dweight = onednn.descriptor((o, i, *kernel), dnnl.F32)
        self.bias = onednn.descriptor((o,), dnnl.F32, (1,)) if g.bias else None
        before = dims(g.padding)
        # oneDNN counts a dilation's holes, and accepts no more padding behind than the output needs
        self._window = (dims(g.stride), dims([d - 1 for d in g.dilation]), before, before)
        deconvolution = g.operator == "conv_transpose3d"
        self._name = "deconvolution" if deconvolution else "convolution"
        self._algorithm = dnnl.DECONVOLUTION_DIRECT if deconvolution else dnnl.CONVOLUTION_DIRECT

    def forward(self) -> Handle:
        arguments = (dnnl.FORWARD_TRAINING, self._algorithm, self.x, self.any_weight, self.bias, self.y)
        return self._describe("forward", *arguments)

    def backward_data(self) -> Handle:
        return self._describe("backward_data", self._algorithm, self.x, self.any_weight, self.y, hint=self.forward())

    def backward_weights(self) -> Handle:
        arguments = (self._algorithm, self.x, self.any_dweight, None, self.y)
        return self._describe("backward_weights", *arguments, hint=self.forward())

    def _describe(self, direction: str, *arguments: Any, hint: Handle | None = None) -> Handle:
        onednn = self.onednn
        pointers = [a.pointer if isinstance(a, Handle) else a for a in arguments]
        hints = [hint.pointer] if hint else []
        return onednn.create(
            f"{self._name}_{direction}_primitive_desc_create",
            onednn.engine.pointer,
            *pointers,
            *self._window,
            *hints,
            onednn.attributes.pointer,
            doing=f"{direction} of {self.g}",
        )


class _Plan:
    """A convolution's kernel in one direction, and the reorder of its weights."""

    def __init__(self, g: Geometry, direction: str) -> None:
        self._onednn = runtime()
        self._doing = f"{direction} of {g}"

    def _compile(self, description: Handle, arguments: dict[int, Any]) -> Primitive:
        return Primitive(self._onednn, description, arguments, self._doing)

    def _reorder(self, source: Any, target: Any) -> Primitive:
        onednn = self._onednn
        engine = onednn.engine.pointer
        description = onednn.create(
            "reorder_primitive_desc_create",
            *(source, engine, target, engine, onednn.attributes.pointer),
            doing=f"reordering the weights, {self._doing}",
        )
        return self._compile(description, {dnnl.SRC: source, dnnl.DST: target})

    def _weights(self, description: Handle, what: int) -> Any:
        """Return the layout that the kernel chose for the weights, and keep their size in bytes."""
        layout = self._onednn.library.dnnl_primitive_desc_query_md(description.pointer, what, 0)
        num_bytes = self._onednn.library.dnnl_memory_desc_get_size(layout)
        self._weight_bytes = num_bytes + -num_bytes % 64
        return layout

    def _scratch(self, *primitives: Primitive) -> tuple[int, int]:
        """Return the addresses of the reordered weights and of the scratchpad."""
        base = self._onednn.workspace(self._weight_bytes + max(p.scratch_bytes for p in primitives))
        return base, base + self._weight_bytes


class _Forward(_Plan):
    def __init__(self, g: Geometry) -> None:
        super().__init__(g, "forward")
        layouts = _Layouts(g)
        description = layouts.forward()
        weights = self._weights(description, dnnl.QUERY_WEIGHTS)
        arguments = {dnnl.SRC: layouts.x.pointer, dnnl.WEIGHTS: weights, dnnl.DST: layouts.y.pointer}
        if layouts.bias:
            arguments[dnnl.BIAS] = layouts.bias.pointer
        self._reorder_weights = self._reorder(layouts.weight.pointer, weights)
        self._kernel = self._compile(description, arguments)

    def __call__(self, x: int, weight: int, bias: int, y: int) -> None:
        blocked, scratch = self._scratch(self._reorder_weights, self._kernel)
        self._reorder_weights(scratch, weight, blocked)
        self._kernel(scratch, x, blocked, y, *([bias] if bias else []))


class _BackwardData(_Plan):
    def __init__(self, g: Geometry) -> None:
        super().__init__(g, "backward data")
        layouts = _Layouts(g)
        description = layouts.backward_data()
        weights = self._weights(description, dnnl.QUERY_WEIGHTS)
        self._reorder_weights = self._reorder(layouts.weight.pointer, weights)
        arguments = {dnnl.DIFF_DST: layouts.y.pointer, dnnl.WEIGHTS: weights, dnnl.DIFF_SRC: layouts.x.pointer}
        self._kernel = self._compile(description, arguments)

    def __call__(self, dy: int, weight: int, dx: int) -> None:
        blocked, scratch = self._scratch(self._reorder_weights, self._kernel)
        self._reorder_weights(scratch, weight, blocked)
        self._kernel(scratch, dy, blocked, dx)


class _BackwardWeights(_Plan):
    def __init__(self, g: Geometry) -> None:
        super().__init__(g, "backward weights")
        layouts = _Layouts(g)
        description = layouts.backward_weights()
        weights = self._weights(description, dnnl.QUERY_DIFF_WEIGHTS)
        self._reorder_weights = self._reorder(weights, layouts.weight.pointer)
        arguments = {
            dnnl.SRC: layouts.x.pointer,
            dnnl.DIFF_DST: layouts.y.pointer,
            dnnl.DIFF_WEIGHTS: weights,
        }
        self._kernel = self._compile(description, arguments)

    def __call__(self, x: int, dy: int, dweight: int) -> None:
        blocked, scratch = self._scratch(self._reorder_weights, self._kernel)
        self._kernel(scratch, x, dy, blocked)
        self._reorder_weights(scratch, blocked, dweight)


def _channels_last(onednn: Runtime, shape: Shape, data_type: int) -> Handle:
    """Describe an array (N, D, H, W, C) as oneDNN's logical (N, C, D, H, W)."""
    n, d, h, w, c = shape
    return onednn.descriptor((n, c, d, h, w), data_type, (d * h * w * c, 1, h * w * c, w * c, c))

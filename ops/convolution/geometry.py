"""The description of a convolution for all its forms: operator, shapes, strides and dtype."""

from dataclasses import dataclass

Shape = tuple[int, ...]
Triple = tuple[int, int, int]  # (D, H, W)


@dataclass(frozen=True)
class Geometry:
    """One convolution: operator (conv3d or conv_transpose3d), shapes as MLX lays them out, and strides.

    Hashable: the key of oneDNN's cached plans. Its text is used in messages.
    """

    operator: str
    x_shape: Shape  # (N, D, H, W, I)
    weight_shape: Shape  # (O, kD, kH, kW, I)
    y_shape: Shape  # (N, D', H', W', O)
    stride: Shape
    padding: Shape
    dilation: Shape
    bias: bool = False
    bfloat16: bool = False  # the activations; weights, bias and their gradients are float32

    def __str__(self) -> str:
        dtype = "bfloat16" if self.bfloat16 else "float32"
        return (
            f"{self.operator} of x {self.x_shape} {dtype} by weight {self.weight_shape} to {self.y_shape}, "
            f"stride {self.stride}, padding {self.padding}, dilation {self.dilation}"
        )


def triple(value: int | Triple) -> Triple:
    """Return (D, H, W) of three numbers, or of one for all three."""
    d, h, w = (value, value, value) if isinstance(value, int) else value
    return d, h, w

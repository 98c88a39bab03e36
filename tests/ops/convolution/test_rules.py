import itertools

import mlx.core as mx
import pytest

from ops.convolution import rules
from ops.convolution.geometry import Geometry
from ops.convolution.rules import Forms
from tests.ops.convolution.reference import sizes

MIB = 1 << 20


def conv(size=128, channels=(32, 32), kernel=3, stride=1, padding=None, dilation=1, batch=1):
    """A convolution of a volume of size³; padded as models pad, unless told."""
    i, o = channels
    padding = dilation * (kernel // 2) if padding is None else padding
    window = (stride,) * 3, (padding,) * 3, (dilation,) * 3
    x, w = (batch, *(size,) * 3, i), (o, *(kernel,) * 3, i)
    return Geometry("conv3d", x, w, (batch, *sizes(x, w, *window), o), *window)


def transpose(kernel=2, stride=2, padding=0, extra=0):
    grown = 7 * stride - 2 * padding + kernel + extra
    return Geometry(
        "conv_transpose3d",
        (1, 8, 8, 8, 64),
        (32, *(kernel,) * 3, 64),
        (1, *(grown,) * 3, 32),
        (stride,) * 3,
        (padding,) * 3,
        (1, 1, 1),
    )


EVERYWHERE = ("metal", "cuda", "cpu")
NO_GPU_LIBRARY = ("metal", "cpu")


@pytest.mark.parametrize(
    ("g", "devices", "forms"),
    [
        (conv(), NO_GPU_LIBRARY, Forms("mlx", "mlx", "rows")),
        (conv(), ("cuda",), Forms("mlx", "mlx", "cudnn")),
        (conv(size=16), EVERYWHERE, Forms("mlx", "mlx", "mlx")),  # 14 MB unfolded
        (conv(stride=2), NO_GPU_LIBRARY, Forms("mlx", "phases", "rows")),
        (conv(stride=2), ("cuda",), Forms("mlx", "mlx", "cudnn")),
        (conv(size=16, stride=2), EVERYWHERE, Forms("mlx", "mlx", "mlx")),
        (conv(channels=(1, 32)), EVERYWHERE, Forms("mlx", "mlx", "mlx")),
        (conv(channels=(4, 64), kernel=7, stride=2), NO_GPU_LIBRARY, Forms("mlx", "phases", "mlx")),
        (conv(channels=(5, 32)), NO_GPU_LIBRARY, Forms("mlx", "mlx", "rows")),
        (conv(size=16, dilation=2), NO_GPU_LIBRARY, Forms("mlx", "mlx", "rows")),
        (conv(size=16, dilation=2), ("cuda",), Forms("mlx", "mlx", "mlx")),
        (conv(kernel=1), EVERYWHERE, Forms("product", "phases", "rows")),
        (conv(kernel=1, stride=2), EVERYWHERE, Forms("product", "phases", "rows")),
        (conv(kernel=1, padding=1, size=16), EVERYWHERE, Forms("mlx", "mlx", "mlx")),
        (transpose(), EVERYWHERE, Forms("tiles", "tiles", "tiles")),
        (transpose(kernel=3, stride=3), EVERYWHERE, Forms("tiles", "tiles", "tiles")),
        (transpose(kernel=3, padding=1, extra=1), EVERYWHERE, Forms("mlx", "mlx", "mlx")),
        (transpose(extra=1), EVERYWHERE, Forms("mlx", "mlx", "mlx")),
        (transpose(kernel=2, stride=3), EVERYWHERE, Forms("mlx", "mlx", "mlx")),
    ],
)
def test_the_rule(g, devices, forms):
    assert {on: rules.choose(g, 4, on) for on in devices} == dict.fromkeys(devices, forms)


def test_small_is_judged_by_the_unfolded_bytes(monkeypatch):
    g = conv(size=32, channels=(16, 16), batch=4)  # 4 · 32³ · 27 · 16 numbers: 108 MiB in bfloat16
    assert rules.weight_unfold_bytes(g, 2) == 108 * MIB
    assert rules.choose(g, 2, "metal").weight_gradient == "rows"
    monkeypatch.setattr(rules, "SMALL_UNFOLD_BYTES", 109 * MIB)
    assert rules.choose(g, 2, "metal").weight_gradient == "mlx"
    assert rules.choose(g, 4, "metal").weight_gradient == "rows"


def test_no_unfold_of_a_large_layer_stays_on_metal():
    """Of the layers that networks here have, only the image layers' weight gradient unfolds."""
    for kernel, stride, i in itertools.product((1, 3, 5, 7), (1, 2), (8, 64)):
        forms = rules.choose(conv(kernel=kernel, stride=stride, channels=(i, 64)), 2, "metal")
        assert forms.weight_gradient == "rows"
        assert (forms.input_gradient == "mlx") == (stride == 1 and kernel > 1)


@pytest.mark.parametrize(
    ("kind", "metal", "name"), [("cpu", True, "cpu"), ("gpu", True, "metal"), ("gpu", False, "cuda")]
)
def test_names_the_device(monkeypatch, kind, metal, name):
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(getattr(mx.DeviceType, kind)))
    monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
    assert rules.device() == name

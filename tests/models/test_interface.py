"""What networks' arguments promise of the networks, for each that is registered."""

from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import ops
from models import MODELS, build_model
from ops import backend


@pytest.mark.slow  # networks of 18 layers and more
@pytest.mark.parametrize("name", MODELS)
def test_arguments_tell_of_the_network(name: str) -> None:
    args = MODELS[name].args()
    model = build_model(name, args, 1, 3).eval()
    assert len(tree_flatten(model.parameters())) >= args.fewest_tensors()
    assert hasattr(model, "features") == args.has_features
    if args.has_features:
        x = mx.zeros((1, 8, 16, 16, 1))
        assert mx.array_equal(model.head(model.features(x)), model(x))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("unet3d", {"widths": [4, 8, 16], "convolutions": 3}),
        ("unet3d", {"widths": [4, 8], "strides": [[1, 1, 1], [1, 2, 2]], "kernels": [[1, 3, 3], [3, 3, 3]]}),
        ("unet3d", {"widths": [4]}),
        ("cnn3d", {"widths": [4, 8], "kernel": [3, 1, 3], "pool": [1, 2, 2]}),
        ("resnet3d", {"width": 8}),
        ("resnet3d", {"width": 8, "depth": 50, "layer_strides": [1, 2, 1, 1], "layer_dilations": [1, 1, 2, 4]}),
        ("resnet3d", {"width": 8, "depth": 10, "shortcut": "A", "max_pool": False, "stem_stride": [1, 2, 2]}),
        ("r3d_18", {}),
        ("mc3_18", {}),
        ("r2plus1d_18", {}),
    ],
)
def test_arguments_list_every_convolution(name: str, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed: shapes show which ones the network calls."""
    monkeypatch.setattr(backend, "_form", "mlx")
    called, conv3d, num_outputs = [], ops.conv3d, 3

    def record(x: mx.array, weight: mx.array, *more: Any, **options: Any) -> mx.array:
        y = conv3d(x, weight, *more, **options)
        called.append((x.shape[-1], y.shape[-1], weight.shape[1:4], y.shape[1:4]))
        return y

    monkeypatch.setattr(ops, "conv3d", record)
    checked, size = MODELS[name].args.model_validate(args), (8, 32, 24)
    build_model(name, checked, 2, num_outputs).eval()(mx.zeros((1, *size, 2)))
    listed = [tuple(convolution) for convolution in checked.list_convolutions(size, 2)]
    assert sorted(listed) == sorted(call for call in called if call[1] != num_outputs)  # that is the head's

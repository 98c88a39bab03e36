"""Whether a config goes together with its data, and with the device."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

import ops
from configs import Config
from engine.check_compatibility import check_array_sizes, check_fits_the_data
from engine.config import check_config
from models import build_model
from ops import backend


def config_of(**keys: Any) -> Config:
    tree = {"name": "x", "data": {"root": "somewhere", "patch_size_voxels": [8, 8, 8]}, "train": {"steps": 1}, **keys}
    return check_config(tree, "test")


def test_the_deciding_metric_must_be_one_of_validation() -> None:
    data = SimpleNamespace(class_names=("background", "tumour"))
    check_fits_the_data(config_of(checkpoint={"metric": "dice.tumour"}), data)
    with pytest.raises(ValueError, match=r"metric=dice\.liver: validation reports dice\.mean, dice\.tumour"):
        check_fits_the_data(config_of(checkpoint={"metric": "dice.liver"}), data)


DATA = SimpleNamespace(num_channels=1, num_outputs=3)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"args": {"widths": [4, 8, 16]}}, (8, 8, 16)),
        ({"args": {"widths": [4, 40], "strides": [[1, 1, 1], [1, 2, 1]], "upsampling": "resize"}}, (8, 8, 8)),
        ({"args": {"widths": [6]}}, (8, 8, 8)),
        ({"name": "cnn3d", "args": {"widths": [4, 64], "pool": [1, 2, 2]}}, (4, 8, 8)),
        ({"name": "resnet3d", "args": {"width": 8}}, (17, 16, 24)),
        ({"name": "resnet3d", "args": {"width": 8, "depth": 50, "max_pool": False}}, (16, 16, 16)),
        ({"name": "r2plus1d_18"}, (4, 16, 16)),
    ],
)
def test_the_largest_activation_is_that_of_the_network(monkeypatch, model, size) -> None:
    monkeypatch.setattr(backend, "_form", "mlx")  # nothing is computed: shapes alone
    seen = []
    for name in ("conv3d", "conv_transpose3d", "concat_channels", "upsample3d", "norm_act_dropout"):
        operator = getattr(ops, name)

        def record(*arguments, operator=operator, **more):
            y = operator(*arguments, **more)
            seen.append((y[0] if isinstance(y, tuple) else y).size)
            return y

        monkeypatch.setattr(ops, name, record)
    task = "classification" if "name" in model else "segmentation"
    source = {"source": "classes"} if "name" in model else {}
    config = config_of(task=task, model=model, data={"root": "x", "patch_size_voxels": size, **source})
    build_model(config.model.name, config.model.args, 1, 2).eval()(mx.zeros((1, *size, 1)))
    assert max(seen) == config.model.args.largest_activation(size)


def test_arrays_beyond_32_bits_are_refused_with_the_size_that_fits(monkeypatch) -> None:
    monkeypatch.setattr(backend, "_form", "mlx")
    unet = {"args": {"widths": [32, 64, 128]}}
    data = {"root": "x", "patch_size_voxels": [256, 256, 256]}  # 2 × 32 channels: 2^30 elements a patch
    large = config_of(model=unet, data=data, train={"steps": 1, "batch_size": 4}, evaluate={"window_batch": 1})
    with pytest.raises(ValueError, match="elements") as caught:
        check_array_sizes(large, DATA, training=True)
    assert str(caught.value) == (
        "data.patch_size_voxels=[256, 256, 256] with train.batch_size=4: the largest array of unet3d would hold "
        "4,294,967,296 elements, and MLX's GPU kernels index 2,147,483,647; "
        "use train.batch_size=1 or data.patch_size_voxels=[200, 204, 204]"
    )
    check_array_sizes(large, DATA, training=False)  # its windows pass one by one
    monkeypatch.setattr(backend, "_form", "onednn")
    check_array_sizes(large, DATA, training=True)


def test_windows_of_many_classes_are_refused_too(monkeypatch) -> None:
    monkeypatch.setattr(backend, "_form", "mlx")
    settings = {"window_size_voxels": [320, 320, 320], "window_batch": 1}
    config = config_of(model={"args": {"widths": [16, 32]}}, evaluate=settings)
    check_array_sizes(config, DATA, training=True)
    with pytest.raises(ValueError, match=r"window_size_voxels=\[320, 320, 320\] with .*; use evaluate\.window_size"):
        check_array_sizes(config, SimpleNamespace(num_channels=1, num_outputs=104), training=False)

"""The device that computes: MLX's default one, or the one that MLX_VOLUMES_DEVICE names."""

import os

import mlx.core as mx

VARIABLE = "MLX_VOLUMES_DEVICE"


def on_gpu() -> bool:
    """Return whether MLX computes on a GPU, Metal's or CUDA's."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)


def obey_environment() -> None:
    """Make the device that MLX_VOLUMES_DEVICE names, `cpu` or `gpu`, MLX's default. Raises ValueError for others."""
    name = os.environ.get(VARIABLE)
    if not name:
        return
    if name not in ("cpu", "gpu"):
        raise ValueError(f"{VARIABLE}={name} is unknown: expected cpu or gpu")
    device = mx.Device(getattr(mx, name))
    if not mx.is_available(device):
        raise ValueError(f"{VARIABLE}={name}: this machine, or this build of MLX, has no {name}; unset it")
    mx.set_default_device(device)

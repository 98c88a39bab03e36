"""The device that the environment names."""

import mlx.core as mx
import pytest

from ops import device


@pytest.fixture(autouse=True)
def _as_before():
    before = mx.default_device()
    yield
    mx.set_default_device(before)


def test_the_cpu_by_name(monkeypatch) -> None:
    monkeypatch.setenv("MLX_VOLUMES_DEVICE", "cpu")
    device.obey_environment()
    assert mx.default_device().type == mx.DeviceType.cpu


def test_unset_it_stays(monkeypatch) -> None:
    monkeypatch.delenv("MLX_VOLUMES_DEVICE", raising=False)
    before = mx.default_device()
    device.obey_environment()
    assert mx.default_device() == before


def test_unknown_or_missing_devices_are_refused(monkeypatch) -> None:
    monkeypatch.setenv("MLX_VOLUMES_DEVICE", "tpu")
    with pytest.raises(ValueError, match="MLX_VOLUMES_DEVICE=tpu is unknown: expected cpu or gpu"):
        device.obey_environment()
    monkeypatch.setenv("MLX_VOLUMES_DEVICE", "gpu")
    monkeypatch.setattr(mx, "is_available", lambda device: False)
    with pytest.raises(
        ValueError, match="MLX_VOLUMES_DEVICE=gpu: this machine, or this build of MLX, has no gpu; unset"
    ):
        device.obey_environment()

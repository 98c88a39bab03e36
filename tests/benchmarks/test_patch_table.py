"""Arithmetic of the table of patches, by hand."""

import pytest

from benchmarks.patch_table import (
    WIDTHS,
    Device,
    count_weights,
    fits,
    format_table,
    largest_batch,
    largest_patch,
    maps_a_voxel,
    step_bytes,
)
from models import build_model, count_parameters
from models.unet3d import UNet3dArgs


def test_weights_are_those_of_the_network() -> None:
    model = build_model("unet3d", UNet3dArgs(widths=WIDTHS), 1, 3)
    assert count_weights(WIDTHS) == pytest.approx(count_parameters(model), rel=1e-3)  # norms and biases are left out


def test_the_largest_patch_is_the_last_that_fits() -> None:
    device = Device("made up", 20.0)
    assert maps_a_voxel((32, 64)) == 40
    assert step_bytes(0, 1000.0) == pytest.approx(16 * count_weights(WIDTHS) + 2**26)
    side = largest_patch(2, 1500.0, device)
    assert step_bytes(2 * side**3, 1500.0) <= 18e9 < step_bytes(2 * (side + 32) ** 3, 1500.0)
    assert largest_batch(128, 1500.0, device) == int((18e9 - step_bytes(0, 0)) / (1500 * 128**3))
    assert largest_patch(2, 1500.0, Device("none", 0.1)) == 0


def test_no_array_passes_32_bits_whatever_the_memory() -> None:
    huge = Device("huge", 1e6)
    assert largest_patch(1, 1.0, huge) == 320  # 64 channels of 320³ are 2.1e9
    assert not fits(352, 1, 1.0, huge)


def test_the_table_has_a_row_for_each_device() -> None:
    lines = format_table({"float32": 1500.0, "bfloat16": 800.0}).splitlines()
    assert lines[0].startswith("| device | limit | float32: patch at batch 2, batch of 128³ | bfloat16:")
    assert [line.split("|")[2].strip() for line in lines[2:]] == [
        "10.3 GB", "15.5 GB", "26.1 GB", "46.4 GB", "92.8 GB", "23.2 GB", "77.3 GB",
    ]  # fmt: skip

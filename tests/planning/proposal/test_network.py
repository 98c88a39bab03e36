"""Spacing, patch and levels of planned networks, against hand arithmetic."""

import math

import numpy as np
import pytest

from planning.proposal.network import design_levels, design_network, fits, target_spacing, training_gb


def test_the_target_spacing_is_the_median_but_thick_slices_take_the_tenth_percentile() -> None:
    assert target_spacing(np.array([[1, 2, 1], [1.5, 2, 1], [3, 2.5, 1]])) == (1.5, 2, 1)
    thick = np.linspace(2, 12, 11)  # median 7, more than 3 times 1; 10th percentile 3
    assert target_spacing(np.stack([thick, np.full(11, 1), np.full(11, 0.9)], axis=1)) == (3, 1, 0.9)
    thick = np.array([0.5] * 2 + [7] * 9)  # never finer than the next axis
    assert target_spacing(np.stack([thick, np.full(11, 1), np.full(11, 0.9)], axis=1)) == (1, 1, 0.9)


def test_levels_of_the_hippocampus_and_of_what_is_too_small_to_halve() -> None:
    network = design_levels((36, 50, 35), (1, 1, 1), 16)
    assert network.patch == (40, 56, 40)
    assert network.widths == (16, 32, 64, 128)
    assert network.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert network.kernels == ((3, 3, 3),) * 4
    network = design_levels((4, 7, 5), (1, 1, 1), 16)
    assert (network.patch, network.widths) == ((4, 7, 5), (16,))


def test_thick_slices_wait_for_the_other_axes() -> None:
    network = design_levels((16, 64, 64), (3, 0.75, 0.75), 32)
    assert network.kernels == ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    # After one halving the slices are twice as thick as wide: from there on D is halved as well, down to 4.
    assert network.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert network.patch == (16, 64, 64)
    assert network.widths == (32, 64, 128, 256, 320)


@pytest.mark.parametrize("shape", [(16, 16, 16), (37, 90, 51), (20, 300, 280), (155, 240, 240)])
@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (5, 0.7, 0.7), (1, 1, 2.1)])
def test_patches_divide_and_keep_four_voxels(shape, spacing_mm) -> None:
    network = design_levels(shape, spacing_mm, 16)
    total = np.prod(network.strides, axis=0)
    assert (np.array(network.patch) % total == 0).all()
    assert (np.array(network.patch) // total >= 4).all()
    assert (np.array(network.patch) >= shape).all()
    assert (np.array(network.patch) < shape + total).all()


def test_less_memory_means_a_smaller_patch_as_wide_in_mm() -> None:
    network = design_network((100, 400, 400), (2.5, 0.8, 0.8), 1, 3, memory_gb=4)
    assert training_gb(network, 2, 1, 3) <= 4
    larger = design_network((100, 400, 400), (2.5, 0.8, 0.8), 1, 3, memory_gb=8)
    assert math.prod(larger.patch) > math.prod(network.patch)
    extents = np.array(network.patch) * (2.5, 0.8, 0.8)
    assert extents.max() / extents.min() < 1.35
    assert design_network((36, 50, 35), (1, 1, 1), 1, 3, memory_gb=64).widths[0] == 32
    with pytest.raises(ValueError, match=r"--memory 0\.3: the smallest patch needs about 0\.\d GB"):
        design_network((100, 100, 100), (1, 1, 1), 1, 3, memory_gb=0.3)


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "width", "batch_size", "measured_gb"),
    [
        ((32, 32, 32), (1, 1, 1), 16, 2, 0.43),
        ((48, 48, 48), (1, 1, 1), 16, 2, 0.65),
        ((64, 64, 64), (1, 1, 1), 16, 2, 1.16),
        ((48, 48, 48), (1, 1, 1), 32, 2, 1.00),
        ((16, 64, 64), (5, 1, 1), 16, 4, 0.87),
    ],
)
def test_the_memory_estimate_is_near_what_dry_runs_took(shape, spacing_mm, width, batch_size, measured_gb) -> None:
    """Peak memory of the process over two steps, 1 channel and 4 classes, oneDNN on a CPU."""
    network = design_levels(shape, spacing_mm, width)
    assert training_gb(network, batch_size, 1, 4) == pytest.approx(measured_gb, rel=0.05)


def test_no_array_passes_what_a_gpu_indexes() -> None:
    """However much memory there is: skip and upsampled maps side by side are the largest array."""
    network = design_network((600, 600, 600), (1, 1, 1), 1, 3, memory_gb=1000)
    assert network.widths[0] == 32
    assert fits(network, 2, 1, 3, 1000)
    assert 2**30 < 2 * math.prod(network.patch) * 64 < 2**31
    assert not fits(network, 3, 1, 3, 1000)
    assert not fits(network, 2, 1, 80, 1000)  # the classes' probabilities


def test_a_patch_of_few_slices_has_one_and_nothing_convolves_across() -> None:
    network = design_levels((3, 51, 36), (1, 1, 1), 16)
    assert network.patch == (1, 56, 40)
    assert set(network.kernels) == {(1, 3, 3)}
    assert {stride[0] for stride in network.strides} == {1}
    assert design_levels((4, 51, 36), (1, 1, 1), 16).kernels[0] == (3, 3, 3)

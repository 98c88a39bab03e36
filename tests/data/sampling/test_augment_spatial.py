"""Spatial augmentation against NumPy's own rotations, arithmetic on spheres, and image against label."""

import numpy as np
import pytest
from scipy import ndimage

from data.sampling.augment_spatial import Cut, LinearSampler, elastic_displacement, rotation_scaling, source_coordinates

NO_TURN, NO_ZOOM, ISOTROPIC = np.zeros(3), np.ones(3), (1.0, 1.0, 1.0)


def cut(shape: tuple[int, ...], matrix: np.ndarray, displacement: np.ndarray | None = None) -> Cut:
    """The whole volume, transformed about its centre."""
    d, h, w = shape[:3]
    coordinates = source_coordinates((0, 0, 0), (d, h, w), matrix, displacement)
    return Cut((0, 0, 0), (d, h, w), (), LinearSampler(coordinates, shape))


def smooth_volume(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return ndimage.gaussian_filter(noise, 1.5, axes=(0, 1, 2)) * 10


def ball(shape: tuple[int, int, int], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"))
    return np.linalg.norm(grid, axis=0) < radius


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ninety_degrees_equals_rot90(axis: int) -> None:
    volume = smooth_volume((9, 9, 9, 2))
    label = (volume[..., 0] > 0).astype(np.uint8)
    degrees = np.zeros(3)
    degrees[axis] = 90
    axes = ((axis + 1) % 3, (axis + 2) % 3)
    turned = cut(volume.shape, rotation_scaling(degrees, NO_ZOOM, ISOTROPIC))
    np.testing.assert_allclose(turned.image(volume), np.rot90(volume, 1, axes), atol=1e-4)
    np.testing.assert_array_equal(turned.labels(label), np.rot90(label, 1, axes))


def test_rotations_compose_about_w_then_h_then_d() -> None:
    volume = smooth_volume((8, 8, 8, 1))
    turned = cut(volume.shape, rotation_scaling(np.array([90.0, 90.0, 90.0]), NO_ZOOM, ISOTROPIC))
    expected = np.rot90(np.rot90(np.rot90(volume, 1, (0, 1)), 1, (2, 0)), 1, (1, 2))
    np.testing.assert_allclose(turned.image(volume), expected, atol=1e-4)


def test_rotation_keeps_a_physical_ball_on_anisotropic_voxels() -> None:
    spacing = (3.0, 1.0, 1.0)
    grid = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip((15, 41, 41), spacing, strict=True)])
    distance = np.sqrt(sum(g**2 for g in grid)).transpose(1, 0, 2)  # mm from the centre, linear in any direction
    volume = distance[..., None].astype(np.float32)
    turned = cut(volume.shape, rotation_scaling(np.array([0.0, 30.0, 20.0]), NO_ZOOM, spacing)).image(volume)
    inside = (distance > 4) & (distance < 12)
    assert np.abs(turned - volume)[inside].max() < 0.6
    naive = cut(volume.shape, rotation_scaling(np.array([0.0, 30.0, 20.0]), NO_ZOOM, ISOTROPIC)).image(volume)
    assert np.abs(naive - volume)[inside].max() > 3


def test_scaling_changes_the_radius_of_a_ball_and_per_axis_that_axis_alone() -> None:
    label = ball((41, 41, 41), 10).astype(np.uint8)
    for factor in (0.7, 1.5):
        zoomed = cut(label.shape, rotation_scaling(NO_TURN, np.full(3, factor), ISOTROPIC)).labels(label)
        radius = (zoomed.sum() * 3 / (4 * np.pi)) ** (1 / 3)
        assert radius == pytest.approx(10 * factor, rel=0.02)
    label = ball((41, 41, 41), 8).astype(np.uint8)
    zoomed = cut(label.shape, rotation_scaling(NO_TURN, np.array([1.5, 1.0, 1.0]), ISOTROPIC)).labels(label)
    extents = [int(np.ptp(axis)) + 1 for axis in np.nonzero(zoomed)]
    assert extents == [23, 15, 15]


def test_the_identity_changes_nothing_and_far_outside_is_padding() -> None:
    volume = smooth_volume((5, 6, 7, 2))
    same = cut(volume.shape, rotation_scaling(NO_TURN, NO_ZOOM, ISOTROPIC))
    np.testing.assert_allclose(same.image(volume), volume, atol=1e-6)
    volume = np.ones((4, 4, 4, 1), np.float32)
    sampler = LinearSampler(source_coordinates((50, 0, -70), (3, 3, 3), np.eye(3)), volume.shape)
    np.testing.assert_array_equal(sampler.image(volume), np.zeros((3, 3, 3, 1)))
    np.testing.assert_array_equal(sampler.labels(np.ones((4, 4, 4), np.uint8)), np.zeros((3, 3, 3)))


def test_interpolation_equals_scipy_and_patches_are_parts_of_the_transformed_volume() -> None:
    volume = smooth_volume((12, 10, 11, 2))
    matrix = rotation_scaling(np.array([20.0, -10.0, 35.0]), np.array([1.1, 0.7, 1.3]), (2.0, 1.0, 1.5))
    coordinates = source_coordinates((-2, 1, 3), (9, 8, 7), matrix)
    patch = LinearSampler(coordinates, volume.shape).image(volume)
    for channel in (0, 1):
        expected = ndimage.map_coordinates(volume[..., channel], coordinates, order=1, mode="grid-constant")
        np.testing.assert_allclose(patch[..., channel], expected, atol=1e-4)
    volume = smooth_volume((21, 21, 21, 1))
    matrix = rotation_scaling(np.array([15.0, 10.0, 5.0]), np.full(3, 1.2), ISOTROPIC)
    whole = cut(volume.shape, matrix).image(volume)
    patch = LinearSampler(source_coordinates((6, 6, 6), (9, 9, 9), matrix), volume.shape).image(volume)
    np.testing.assert_allclose(patch, whole[6:15, 6:15, 6:15], atol=1e-4)


def test_labels_follow_the_image_exactly() -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        label = (smooth_volume((20, 18, 22), seed) > 1).astype(np.uint8)
        matrix = rotation_scaling(rng.uniform(-40, 40, 3), rng.uniform(0.7, 1.4, 3), (1.0, 2.0, 1.0))
        warped = cut(label.shape, matrix, elastic_displacement((20, 18, 22), 3.0, 8, ISOTROPIC, rng))
        memberships = warped.image(label[..., None].astype(np.float32))[..., 0]
        settled = np.abs(memberships - 0.5) > 1e-5
        assert settled.mean() > 0.99
        np.testing.assert_array_equal(warped.labels(label)[settled], (memberships > 0.5)[settled])


def test_labels_are_the_argmax_of_interpolated_classes() -> None:
    label = ndimage.zoom(np.random.default_rng(0).integers(0, 5, (5, 5, 5)), 3, order=0).astype(np.int16)
    warped = cut(label.shape, rotation_scaling(np.array([25.0, 40.0, 10.0]), np.full(3, 0.9), ISOTROPIC))
    classes = warped.image(np.eye(5, dtype=np.float32)[label])
    padding = 1 - classes.sum(axis=-1)  # outside of the volume is background
    classes[..., 0] += padding
    best = np.sort(classes, axis=-1)
    settled = best[..., -1] - best[..., -2] > 1e-5
    np.testing.assert_array_equal(warped.labels(label)[settled], classes.argmax(axis=-1)[settled])
    assert warped.labels(label).dtype == np.int32


def test_flips_mirror_image_and_label() -> None:
    volume = smooth_volume((4, 5, 6, 2))
    label = (volume[..., 0] > 0).astype(np.uint8)
    flipped = Cut((0, 0, 0), (4, 5, 6), flips=(0, 2))
    np.testing.assert_array_equal(flipped.image(volume), volume[::-1, :, ::-1])
    np.testing.assert_array_equal(flipped.labels(label), label[::-1, :, ::-1])
    np.testing.assert_array_equal(flipped.image(flipped.image(volume)), volume)


def test_elastic_displacement_is_bounded_smooth_and_one_to_one() -> None:
    amplitude, spacing = 4.0, 12
    field = elastic_displacement((40, 56, 30), amplitude, spacing, ISOTROPIC, np.random.default_rng(0))
    assert field.dtype == np.float32
    assert np.abs(field).max() <= amplitude
    assert field.std() > 0.15 * amplitude
    gradients = np.stack([np.stack(np.gradient(component)) for component in field])  # (3, 3, d, h, w)
    jacobian = np.eye(3) + gradients.transpose(2, 3, 4, 0, 1)
    assert np.linalg.det(jacobian).min() > 0


def test_elastic_displacement_is_in_mm_and_a_constant_control_grid_moves_everything_alike() -> None:
    """At the same places in mm, thick slices and thin ones are moved alike, in mm."""
    thin = elastic_displacement((41, 20, 20), 3.0, 12, ISOTROPIC, np.random.default_rng(0))
    thick = elastic_displacement((11, 20, 20), 3.0, 12, (4.0, 1.0, 1.0), np.random.default_rng(0))
    np.testing.assert_allclose(thick[0] * 4, thin[0, ::4], atol=1e-4)
    np.testing.assert_allclose(thick[1:], thin[1:, ::4], atol=1e-4)

    class Ones:
        def random(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
            return np.ones(shape, dtype)

    field = elastic_displacement((13, 9, 20), 2.0, 5, ISOTROPIC, Ones())  # type: ignore[arg-type]
    np.testing.assert_allclose(field, 2.0, rtol=1e-5)

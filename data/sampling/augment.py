"""The augmentation of one training sample: which transforms, in which order, with what draws."""

import numpy as np

from configs.schema.augment import AugmentConfig
from data.prepare.crop import Shape3
from data.sampling import augment_intensity as intensity
from data.sampling.augment_spatial import (
    Cut,
    LinearSampler,
    Spacing,
    elastic_displacement,
    rotation_scaling,
    source_coordinates,
)


class Augment:
    """Random transforms of a volume and its labels, as the `data.augment` section has them.

    Every draw comes from the generator that is passed in.

    Rotation, scaling and elastic deformation are interpolated once, together with the patch's cut; flips
    follow. Then, on the image alone and in the order of image formation as nnU-Net keeps it: bias field,
    noise, blur, brightness, contrast, low resolution, gamma, channel drop. Brightness, contrast, low resolution
    and gamma are drawn per channel. Safe to call from several threads: it holds no state.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def __call__(
        self,
        volume: np.ndarray,
        label: np.ndarray | None,
        rng: np.random.Generator,
        spacing_mm: Spacing = (1.0, 1.0, 1.0),
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Augmented copies of volume (D, H, W, C) float32 and of label (D, H, W), or None, on the same grid."""
        d, h, w = volume.shape[:3]
        return self.sample(volume, label, (0, 0, 0), rng, patch_size=(d, h, w), spacing_mm=spacing_mm)

    def sample(
        self,
        volume: np.ndarray,
        label: np.ndarray | None,
        offset: Shape3,
        rng: np.random.Generator,
        *,
        patch_size: Shape3,
        spacing_mm: Spacing = (1.0, 1.0, 1.0),
        fill: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The augmented patch (d, h, w, C) float32 at `offset` and its labels (d, h, w), if any."""
        cut = self.draw_cut(offset, patch_size, volume.shape, rng, spacing_mm)
        return self.change_intensities(cut.image(volume, fill), rng), None if label is None else cut.labels(label)

    def draw_cut(
        self,
        offset: Shape3,
        size: Shape3,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        spacing_mm: Spacing,
    ) -> Cut:
        """A random spatial transform of the patch at `offset` in a volume of `shape`."""
        flip, rotate, scale, elastic = self.config.flip, self.config.rotate, self.config.scale, self.config.elastic
        flips = tuple(axis for axis in flip.axes if rng.random() < flip.probability)
        degrees, factors, displacement = np.zeros(3), np.ones(3), None
        if rng.random() < rotate.probability:
            degrees = rng.uniform(*np.transpose(rotate.degrees))
        if rng.random() < scale.probability:
            factors = np.broadcast_to(intensity.draw_factor(scale.factor, rng, 3 if scale.per_axis else 1), 3)
        if rng.random() < elastic.probability:
            amplitude = rng.uniform(*elastic.displacement_mm)
            displacement = elastic_displacement(size, amplitude, elastic.control_spacing_mm, spacing_mm, rng)
        if displacement is None and not degrees.any() and (factors == 1).all():
            return Cut(offset, size, flips)
        matrix = rotation_scaling(degrees, factors, spacing_mm)
        sampler = LinearSampler(source_coordinates(offset, size, matrix, displacement), shape)
        return Cut(offset, size, flips, sampler)

    def change_intensities(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The patch (d, h, w, C) float32 after the random changes of intensity; it may be overwritten."""
        c = self.config
        channels = patch.shape[3]
        if rng.random() < c.bias_field.probability:
            strength = rng.uniform(*c.bias_field.strength)
            field = intensity.bias_field(patch.shape[:3], strength, c.bias_field.order, rng)
            patch = intensity.apply_bias_field(patch, field)
        if rng.random() < c.noise.probability:
            patch = intensity.add_noise(patch, rng.uniform(*c.noise.std), rng)
        if rng.random() < c.blur.probability:
            patch = intensity.blur(patch, rng.uniform(*c.blur.sigma_voxels))
        if rng.random() < c.brightness.probability:
            patch = intensity.change_brightness(patch, rng.uniform(*c.brightness.factor, channels))
        if rng.random() < c.contrast.probability:
            patch = intensity.change_contrast(patch, rng.uniform(*c.contrast.factor, channels))
        if rng.random() < c.low_resolution.probability:
            low, high = c.low_resolution.factor
            factors = 1 / rng.uniform(1 / high, 1 / low, channels)
            patch = intensity.lower_resolution(patch, factors, c.low_resolution.axes)
        if rng.random() < c.gamma.probability:
            invert = rng.random() < c.gamma.invert
            patch = intensity.change_gamma(patch, intensity.draw_factor(c.gamma.gamma, rng, channels), invert)
        if rng.random() < c.channel_drop.probability:
            patch = intensity.drop_channel(patch, int(rng.integers(channels)))
        return np.ascontiguousarray(patch)

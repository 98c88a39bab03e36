"""The augmentation of one training sample: which transforms, in which order, with which random values."""

import numpy as np

from configs.schema.augment import AugmentConfig
from data.files.grid import Shape, Spacing
from data.sampling.augment_intensity import draw_factor
from data.sampling.augment_spatial import (
    Cut,
    LinearSampler,
    elastic_displacement,
    rotation_scaling,
    source_coordinates,
)
from data.sampling.intensity_changes import CHANGES


class Augment:
    """Random transforms of a volume and its labels, as the `data.augment` section has them.

    Every draw comes from the generator that is passed in.

    Rotation, scaling and elastic deformation are interpolated once, together with the patch's cut; flips
    follow. Then, on the image alone, the changes of intensity in the order of CHANGES. Safe to call from several
    threads: it holds no state.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def sample(
        self,
        volume: np.ndarray,
        label: np.ndarray | None,
        offset: Shape,
        rng: np.random.Generator,
        *,
        patch_size: Shape,
        spacing_mm: Spacing = (1.0, 1.0, 1.0),
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the augmented patch (d, h, w, C) float32 at `offset` and its labels (d, h, w), if any."""
        cut = self.draw_cut(offset, patch_size, volume.shape, rng, spacing_mm)
        return self.change_intensities(cut.image(volume), rng), None if label is None else cut.labels(label)

    def draw_cut(
        self,
        offset: Shape,
        size: Shape,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        spacing_mm: Spacing,
    ) -> Cut:
        """Return a random spatial transform of the patch at `offset` in a volume of `shape`."""
        flip, rotate, scale, elastic = self.config.flip, self.config.rotate, self.config.scale, self.config.elastic
        flips = tuple(axis for axis in flip.axes if rng.random() < flip.probability)
        degrees, factors, displacement = np.zeros(3), np.ones(3), None
        if rng.random() < rotate.probability:
            degrees = rng.uniform(*np.transpose(rotate.degrees))
        if rng.random() < scale.probability:
            factors = np.broadcast_to(draw_factor(scale.factor, rng, 3 if scale.per_axis else 1), 3)
        if rng.random() < elastic.probability:
            amplitude = rng.uniform(*elastic.displacement_mm)
            displacement = elastic_displacement(size, amplitude, elastic.control_spacing_mm, spacing_mm, rng)
        if displacement is None and not degrees.any() and (factors == 1).all():
            return Cut(offset, size, flips)
        matrix = rotation_scaling(degrees, factors, spacing_mm)
        sampler = LinearSampler(source_coordinates(offset, size, matrix, displacement), shape)
        return Cut(offset, size, flips, sampler)

    def change_intensities(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the patch (d, h, w, C) float32 after the random changes of intensity; it may be overwritten."""
        for name, change in CHANGES.items():
            args = getattr(self.config, name)
            if rng.random() < args.probability:
                patch = change.apply(patch, args, rng)
        return np.ascontiguousarray(patch)

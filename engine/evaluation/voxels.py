"""What a case's voxels say of calibration and uncertainty, counted plane by plane: no list of voxels is kept."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation.labelling import Labelling
from engine.evaluation.temperature import scale
from engine.metrics.calibration import Reliability, add_reliability, count_reliability
from engine.metrics.ranking import RANKS, rank_bins
from engine.metrics.uncertainty import MEASURES, entropy

MARGIN_MM = 5.0
NUM_SAMPLED = 4096
REGION = f"voxels within {MARGIN_MM:g} mm of the box around the reference's foreground"


@dataclass(frozen=True)
class VoxelFacts:
    """One case's voxels in the region, on the label file's grid."""

    reliability: Reliability
    ranks: np.ndarray  # (M, 2, RANKS): voxels wrong and right, by rising uncertainty, of the first M of MEASURES
    means: np.ndarray  # (M,)
    probabilities: np.ndarray  # (n, K) float32, of up to NUM_SAMPLED voxels drawn at random
    labels: np.ndarray  # (n,); of regions (n, R), 0 and 1

    @property
    def scored(self) -> tuple[np.ndarray, np.ndarray]:
        """What a temperature is fitted on."""
        return self.probabilities, self.labels


class VoxelCounter:
    """Counts what `add` is given of one case; `finish` returns it.

    The region is the box around the reference's foreground, widened by MARGIN_MM; the whole volume where the
    reference is empty. It depends on the reference alone, so that different predictions are counted in the same
    voxels. Those of `ignore_label` count nowhere.
    """

    def __init__(
        self,
        case_id: str,
        reference: np.ndarray,
        spacing_mm: Sequence[float],
        labelling: Labelling,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        """reference: (D, H, W) labels. Sampled voxels depend on the seed, the case's id and the reference alone."""
        num_values, ignore_label = labelling.num_values, labelling.ignore_label
        self._labelling, self._temperature = labelling, temperature
        self._shape = reference.shape
        foreground = (reference > 0) & (reference < num_values)
        if ignore_label is not None:
            foreground &= reference != ignore_label
        self._box = _box(foreground, spacing_mm)
        self._labels = reference[self._box]
        self._there = (self._labels >= 0) & (self._labels < num_values)
        if ignore_label is not None:
            self._there &= self._labels != ignore_label
        rng = np.random.default_rng([seed, zlib.crc32(case_id.encode())])
        # Of those that count alone: sparse annotations would leave few of any others, or none.
        size = int(self._there.sum())
        drawn = np.arange(size) if size <= NUM_SAMPLED else rng.choice(size, NUM_SAMPLED, replace=False)
        if size < self._labels.size:
            drawn = np.flatnonzero(self._there)[drawn]
        self._drawn = np.unravel_index(np.sort(drawn), self._labels.shape)
        self._parts: list[Reliability] = []
        self._ranks = np.zeros((len(MEASURES), 2, RANKS), np.int64)
        self._sums = np.zeros(len(MEASURES))
        self._num_measures = 1
        self._sampled: list[np.ndarray] = []
        self._sampled_labels: list[np.ndarray] = []

    def add(self, first: int, probabilities: np.ndarray, maps: np.ndarray | None = None) -> None:
        """Count the planes from `first` on, each of which comes once.

        probabilities: (d, H, W, K), as predicted: calibration is counted at the temperature. maps: of several
        predictions, MEASURES (d, H, W, 3); without them the probabilities' entropy is the measure.
        """
        if probabilities.shape[1:3] != self._shape[1:]:
            raise ValueError(f"the label is {self._shape} voxels, the image's planes are {probabilities.shape[1:3]}")
        depth, rows, columns = self._box
        for plane in range(max(first, depth.start), min(first + len(probabilities), depth.stop)):
            p = probabilities[plane - first, rows, columns]  # (h, w, K)
            of_regions = self._labelling.are_regions
            values = entropy(p, of_regions)[..., None] if maps is None else maps[plane - first, rows, columns]
            self._add_plane(plane - depth.start, scale(p, self._temperature, of_regions), values)

    def _add_plane(self, plane: int, p: np.ndarray, values: np.ndarray) -> None:
        there, labels, of_regions = self._there[plane], self._labels[plane], self._labelling.are_regions
        truth = self._labelling.truth(labels)
        part = count_reliability(p[there], truth[there])
        if part.count:
            self._parts = [add_reliability([*self._parts, part])]
        # A voxel is an error where one of its regions is.
        wrong = (((p > 0.5) != truth).any(axis=-1) if of_regions else p.argmax(axis=-1) != truth)[there]
        self._num_measures = values.shape[-1]
        for m, measured in enumerate(np.moveaxis(values[there], -1, 0)):
            bins = rank_bins(measured, 2 if of_regions else p.shape[-1])  # of regions entropies are binary
            self._ranks[m, 0] += np.bincount(bins[wrong], minlength=RANKS)
            self._ranks[m, 1] += np.bincount(bins[~wrong], minlength=RANKS)
            self._sums[m] += measured.sum(dtype=np.float64)
        here = self._drawn[0] == plane
        rows, columns = self._drawn[1][here], self._drawn[2][here]
        self._sampled.append(p[rows, columns].astype(np.float32))
        self._sampled_labels.append(truth[rows, columns])

    def finish(self) -> VoxelFacts | None:
        """None where no voxel counts."""
        if not self._parts:
            return None
        (reliability,), count = self._parts, self._num_measures
        probabilities, labels = np.concatenate(self._sampled), np.concatenate(self._sampled_labels)
        return VoxelFacts(
            reliability, self._ranks[:count], self._sums[:count] / reliability.count, probabilities, labels
        )


def _box(foreground: np.ndarray, spacing_mm: Sequence[float]) -> tuple[slice, slice, slice]:
    """Return the foreground's box, widened by MARGIN_MM; the whole volume without any."""
    box = []
    for axis, (size, spacing) in enumerate(zip(foreground.shape, spacing_mm, strict=True)):
        found = np.flatnonzero(foreground.any(axis=tuple(i for i in range(3) if i != axis)))
        if not len(found):
            return slice(0, foreground.shape[0]), slice(0, foreground.shape[1]), slice(0, foreground.shape[2])
        margin = int(np.ceil(MARGIN_MM / spacing))
        box.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, size)))
    return box[0], box[1], box[2]

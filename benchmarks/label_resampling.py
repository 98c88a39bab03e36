"""Compare ways to resample labels: the volume they keep, and the score of a perfect network trained on them.

python -m benchmarks.label_resampling shared/datasets/hippocampus

For each spacing: every label of the data set onto the grid that training would use, by each method; volumes after over
before, pooled over the cases, and the mean Dice, over cases and classes, of these labels restored to their own grid as
predictions are. `largest share`: linear interpolation, ties to the smaller label. `ties to foreground`: the same, a
label being set where it has half of a voxel or more.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from configs.schema.data import DataConfig
from data.files.grid import Grid, Spacing
from data.files.volumes import read_label
from data.layouts.registry import find_cases
from data.prepare.resample import interpolated_slabs, linear_taps, resample_slabs
from data.prepare.resample_labels import resample_label
from data.prepare.volumes import working_grid
from engine.metrics.segmentation import dice_per_class

SPACINGS_MM: tuple[Spacing, ...] = ((2, 2, 2), (3, 3, 3), (1.5, 1.5, 1.5), (2, 1, 1))
Resample = Callable[[np.ndarray, Grid, Grid], np.ndarray]


def _shares(label: np.ndarray, num_classes: int, source: Grid, target: Grid) -> np.ndarray:
    taps = linear_taps(source, target)
    shares = np.empty((*target.shape, num_classes), np.float32)
    for value in range(num_classes):
        for planes, slab in interpolated_slabs((label == value).astype(np.float32), taps, target.shape):
            shares[planes, ..., value] = slab
    return shares


def largest_share(label: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Return the label with the largest linearly interpolated share, the smaller one in a tie."""
    return _shares(label, int(label.max()) + 1, source, target).argmax(axis=-1).astype(label.dtype)


def half_a_voxel(label: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Return the highest label that has half of the voxel or more, by linear interpolation."""
    shares = _shares(label, int(label.max()) + 1, source, target)
    classes = np.arange(shares.shape[-1], dtype=label.dtype)
    return np.where(shares >= 0.5, classes, 0).max(axis=-1)


def measure(
    labels: list[tuple[np.ndarray, Grid]], spacing_mm: Spacing, resample: Resample
) -> tuple[list[float], float]:
    """Return volume after over before (foreground, then each class), and the mean Dice of the restored labels."""
    num_classes = max(int(label.max()) for label, _ in labels) + 1
    before, after, scores = np.zeros(num_classes), np.zeros(num_classes), []
    for label, grid in labels:
        target = working_grid(grid, spacing_mm)
        result = resample(label, grid, target)
        before += np.bincount(label.reshape(-1), minlength=num_classes) * grid.voxel_volume_mm3
        after += np.bincount(result.reshape(-1), minlength=num_classes) * target.voxel_volume_mm3
        perfect = np.eye(num_classes, dtype=np.float32)[result]
        restored = np.concatenate([slab.argmax(-1) for _, slab in resample_slabs(perfect, target, grid)])
        scores.append(dice_per_class(restored, label, num_classes))
    kept = [after[1:].sum() / before[1:].sum(), *(after[1:] / before[1:])]
    return [float(share) for share in kept], float(np.nanmean(scores))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("root", metavar="FOLDER", help="a data set of volumes with label volumes")
    parser.add_argument("--cases", type=int, help="use only this many, from the first")
    arguments = parser.parse_args()
    cases = find_cases(DataConfig(source="msd", root=Path(arguments.root))).cases
    paths = [path for case in cases for path in case.label_files]
    labels = [read_label(path)[:2] for path in paths[: arguments.cases]]
    methods = {"ours": resample_label, "largest share": largest_share, "ties to foreground": half_a_voxel}
    print(f"{len(labels)} cases; volume after / before: foreground, then each class; Dice of the restored labels")
    for spacing_mm in SPACINGS_MM:
        for name, resample in methods.items():
            kept, dice = measure(labels, spacing_mm, resample)
            spacing = "×".join(f"{mm:g}" for mm in spacing_mm)
            print(f"{spacing:>11} mm  {name:<19} {' '.join(f'{share:.3f}' for share in kept)}  {dice:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

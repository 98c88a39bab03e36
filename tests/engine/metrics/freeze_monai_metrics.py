"""Writes monai_metrics.json: MONAI's Dice, HD95 and NSD of the pairs in blobs.py.

Run from the repository's root, with the extra `bench` installed: python -m tests.engine.metrics.freeze_monai_metrics
"""

import json
import math
import warnings
from pathlib import Path

import monai
import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from tests.engine.blobs import NUM_PAIRS, make_pair


def one_hot(labels: np.ndarray) -> torch.Tensor:
    """(D, H, W) -> (1, 3, D, H, W) float32."""
    return torch.from_numpy(np.stack([labels == value for value in range(3)])[None].astype(np.float32))


def plain(values: torch.Tensor) -> list[float | str]:
    """Floats; "nan" and "inf" as strings, since JSON has neither."""
    return [value if math.isfinite(value) else str(value) for value in values[0].tolist()]


def main() -> None:
    warnings.simplefilter("ignore")  # MONAI warns of each empty class
    pairs = []
    for number in range(NUM_PAIRS):
        pair = make_pair(number)
        prediction, reference = one_hot(pair.prediction), one_hot(pair.reference)
        spacing = list(pair.spacing_mm)
        pairs.append(
            {
                "dice": plain(compute_dice(prediction, reference, include_background=False, ignore_empty=False)),
                "hd95_voxels_mm": plain(
                    compute_hausdorff_distance(prediction, reference, percentile=95, spacing=spacing)
                ),
                "nsd_voxels": plain(
                    compute_surface_dice(prediction, reference, [pair.tolerance_mm] * 2, spacing=spacing)
                ),
            }
        )
    frozen = {"monai": monai.__version__, "torch": torch.__version__, "pairs": pairs}
    Path(__file__).with_name("monai_metrics.json").write_text(json.dumps(frozen, indent=1) + "\n")


if __name__ == "__main__":
    main()

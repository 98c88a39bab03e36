"""Writes surface_distance.json: HD95 and NSD of DeepMind's surface-distance for the pairs in blobs.py, and its areas.

Run from the repository's root, where surface-distance 0.1 is installed:
python -m tests.engine.metrics.freeze_surface_distance
Pairs of which a class is empty in one volume are left out: the package fails there under NumPy 2.
"""

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.engine.blobs import NUM_PAIRS, make_pair

SPACING_MM = (3.0, 2.0, 0.5)


def main() -> None:
    warnings.simplefilter("ignore")  # SciPy's of the names that the package calls
    from surface_distance import metrics as theirs
    from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

    pairs: list[list[dict[str, float] | None]] = []
    for number in range(NUM_PAIRS):
        pair = make_pair(number)
        pairs.append([])
        for value in (1, 2):
            masks = pair.reference == value, pair.prediction == value
            if not all(mask.any() for mask in masks):
                pairs[-1].append(None)
                continue
            distances = theirs.compute_surface_distances(*masks, pair.spacing_mm)
            nsd = theirs.compute_surface_dice_at_tolerance(distances, pair.tolerance_mm)
            pairs[-1].append({"hd95_mm": float(theirs.compute_robust_hausdorff(distances, 95)), "nsd": float(nsd)})
    frozen = {
        "surface-distance": version("surface-distance"),
        "numpy": np.__version__,
        "areas_mm2": create_table_neighbour_code_to_surface_area(SPACING_MM).round(9).tolist(),
        "pairs": pairs,
    }
    Path(__file__).with_name("surface_distance.json").write_text(json.dumps(frozen, indent=1) + "\n")


if __name__ == "__main__":
    main()

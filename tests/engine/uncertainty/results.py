"""Evaluated cases whose voxels were counted."""

import numpy as np

from engine.evaluation.labelling import Labelling
from engine.evaluation.segmentation import CaseResult
from engine.evaluation.voxels import VoxelCounter
from engine.metrics.segmentation import score_case
from engine.reports.slices import cut_slices


def make_result(number: int, size: int = 8, labelled: bool = True) -> CaseResult:
    """A random case whose errors are the likelier the more even its probabilities are."""
    rng = np.random.default_rng(number)
    logits = rng.normal(0, 3, (size, 6, 6, 2))
    p = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)
    reference = (rng.uniform(size=p.shape[:3]) < p[..., 1]).astype(np.uint8)
    prediction = p.argmax(-1).astype(np.uint8)
    counter = VoxelCounter(f"c{number}", reference, (1.0, 1.0, 1.0), Labelling(("background", "organ")))
    counter.add(0, p)
    scores = score_case(prediction, reference, (1.0, 1.0, 1.0), 2)
    slices = cut_slices(prediction, reference, (1.0, 1.0, 1.0))
    return CaseResult(f"c{number}", scores, labelled, slices, 1.0, counter.finish() if labelled else None)

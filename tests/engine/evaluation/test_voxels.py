import numpy as np
import pytest
from scipy.special import softmax

from engine.evaluation.labelling import Labelling
from engine.evaluation.temperature import scale
from engine.evaluation.voxels import NUM_SAMPLED, VoxelCounter, VoxelFacts
from engine.metrics.calibration import count_reliability, score_reliability
from engine.metrics.ranking import error_auroc
from engine.metrics.uncertainty import entropy

SPACING_MM = (5.0, 2.5, 1.0)  # margins of 1, 2 and 5 voxels
SHAPE = (8, 16, 24)
CLASSES = Labelling(("background", "a", "b"))
CLASSES_BUT_7 = Labelling(CLASSES.names, ignore_label=7)
REGION = (slice(2, 5), slice(3, 10), slice(5, 17))


def make_case(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A reference with foreground in (3, 5:8, 10:12), and probabilities of three classes."""
    rng = np.random.default_rng(seed)
    reference = np.zeros(SHAPE, np.uint8)
    reference[3, 5:8, 10:12] = 1
    reference[3, 7, 11] = 2
    return reference, softmax(rng.normal(0, 2, (*SHAPE, 3)), axis=-1).astype(np.float32)


def count(
    reference: np.ndarray,
    p: np.ndarray,
    *more: np.ndarray,
    slabs: int = 3,
    labelling: Labelling = CLASSES,
    **options: object,
) -> VoxelFacts:
    counter = VoxelCounter("c", reference, SPACING_MM, labelling, **options)  # type: ignore[arg-type]
    for first in range(0, len(p), slabs):
        counter.add(first, *(part[first : first + slabs] for part in (p, *more)))
    facts = counter.finish()
    assert facts is not None
    return facts


@pytest.mark.parametrize("slabs", [1, 3, 8])
def test_counts_the_box_around_the_foreground_whatever_the_slabs(slabs: int) -> None:
    reference, p = make_case()
    facts = count(reference, p, slabs=slabs)
    inside, labels = p[REGION].reshape(-1, 3), reference[REGION].ravel()
    assert facts.reliability.count == len(labels) == 3 * 7 * 12
    expected = score_reliability(count_reliability(inside, labels))
    assert score_reliability(facts.reliability) == pytest.approx(expected)
    assert facts.ranks.shape[0] == 1
    wrong = inside.argmax(1) != labels
    assert facts.ranks.sum(axis=-1).tolist() == [[wrong.sum(), (~wrong).sum()]]
    assert facts.means[0] == pytest.approx(entropy(inside).mean(), rel=1e-5)
    np.testing.assert_array_equal(facts.labels, labels)  # all of them: there are fewer than NUM_SAMPLED
    np.testing.assert_allclose(facts.probabilities, inside)


def test_voxels_to_ignore_count_nowhere() -> None:
    reference, p = make_case()
    reference[2:4, 0:5] = 7
    facts = count(reference, p, labelling=CLASSES_BUT_7)
    labels = reference[REGION].ravel()
    assert facts.reliability.count == (labels != 7).sum() < labels.size
    np.testing.assert_array_equal(facts.labels, labels[labels != 7])
    nothing = VoxelCounter("c", np.full(SHAPE, 7, np.uint8), SPACING_MM, CLASSES_BUT_7)
    nothing.add(0, p)
    assert nothing.finish() is None
    with pytest.raises(ValueError, match=r"the label is \(8, 16, 24\) voxels, the image's planes are \(16, 20\)"):
        VoxelCounter("c", reference, SPACING_MM, CLASSES).add(0, p[:, :, :20])
    shape = (40, 40, 40)
    reference = np.full(shape, 7, np.uint8)
    reference[0, 0, :2] = reference[39, 39, 38:] = 1
    facts = count(reference, np.full((*shape, 3), 1 / 3, np.float32), labelling=CLASSES_BUT_7)
    assert np.prod(shape) > 10 * NUM_SAMPLED
    assert facts.labels.tolist() == [1, 1, 1, 1]
    assert len(facts.probabilities) == 4


def test_without_foreground_voxels_are_drawn_by_seed_and_case_alone() -> None:
    reference, p = np.zeros((20, 20, 20), np.uint8), np.full((20, 20, 20, 3), (0.8, 0.1, 0.1), np.float32)
    facts = count(reference, p)
    assert facts.reliability.count == 8000
    assert len(facts.labels) == NUM_SAMPLED
    reference = np.zeros((20, 20, 20), np.uint8)
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=(20, 20, 20)).astype(np.float32)
    first = count(reference, p, slabs=4)
    np.testing.assert_array_equal(count(reference, p, slabs=20).probabilities, first.probabilities)
    assert not np.array_equal(count(reference, p, seed=1).probabilities, first.probabilities)


def test_maps_are_ranked_as_they_are_and_probabilities_scaled() -> None:
    reference, p = make_case()
    wrong = p.argmax(-1) != reference
    maps = np.stack([0.5 + 0.4 * wrong, 0.5 - 0.4 * wrong, np.full(SHAPE, 0.2)], axis=-1).astype(np.float32)
    facts = count(reference, p, maps, temperature=2.0)
    aurocs = [error_auroc(*ranks.astype(float)) for ranks in facts.ranks]
    assert aurocs == [1, 0, 0.5]
    assert facts.means == pytest.approx([maps[REGION][..., m].mean() for m in range(3)], rel=1e-5)
    np.testing.assert_allclose(facts.probabilities, scale(p, 2.0)[REGION].reshape(-1, 3))
    expected = count_reliability(scale(p, 2.0)[REGION].reshape(-1, 3), reference[REGION].ravel())
    assert facts.reliability.brier == pytest.approx(expected.brier)

"""How files were made rather than what they show, and the class that this alone predicts."""

from collections.abc import Mapping, Sequence

import numpy as np

Metadata = dict[str, float | str]

FEWEST = 20  # cases to learn from: below, chance looks like a rule
FEWEST_OF_A_CLASS = 5


def clip_metadata(
    size: tuple[int, int], frame_rate: float, duration_s: float, num_bytes: int, codec: str, container: str, pixels: str
) -> Metadata:
    """Return the metadata of a clip; `size` is its width and height."""
    return {
        "frame rate": round(frame_rate, 1),
        "frame size": float(size[0] * size[1]),
        "width over height": size[0] / size[1],
        "length": round(duration_s, 2),
        "bytes a second": num_bytes / max(duration_s, 1e-3),
        "codec": codec,
        "container": container,
        "pixel format": pixels,
    }


def as_numbers(values: Sequence[float | str]) -> np.ndarray:
    """Return numbers as they are, and texts by their place in the alphabet."""
    return np.unique(values, return_inverse=True)[1] if isinstance(values[0], str) else np.array(values, dtype=float)


def tabulate(found: Sequence[Metadata]) -> np.ndarray:
    """Return the metadata that differ as a table (cases, facts)."""
    columns = [[metadata[name] for metadata in found] for name in found[0]]
    differing = [as_numbers(values) for values in columns if len(set(values)) > 1]
    return np.stack(differing, axis=1) if differing else np.empty((len(found), 0))


def make_tree():  # type: ignore[no-untyped-def]  # scikit-learn has no types
    """Return a small decision tree, not yet fitted, that weighs classes alike."""
    from sklearn.tree import DecisionTreeClassifier  # costs half a second, and only classification needs it

    return DecisionTreeClassifier(max_depth=3, min_samples_leaf=5, class_weight="balanced", random_state=0)


def predict_by_metadata(
    known: Sequence[Metadata], labels: Sequence[int], asked: Mapping[str, Metadata], num_classes: int
) -> dict[str, np.ndarray]:
    """Return the probabilities (num_classes,) of the cases `asked` by a tree fitted to those `known`, by case.

    Empty where there are too few to learn from, or all of them are alike.
    """
    counts = np.bincount(labels) if labels else np.zeros(1, int)
    counts = counts[counts > 0]
    if len(labels) < max(FEWEST, len(known)) or len(counts) < 2 or counts.min() < FEWEST_OF_A_CLASS or not asked:
        return {}
    table = tabulate([*known, *asked.values()])
    if not table.shape[1]:
        return {}
    tree = make_tree().fit(table[: len(known)], labels)
    found = np.zeros((len(asked), num_classes))
    found[:, tree.classes_] = tree.predict_proba(table[len(known) :])
    return dict(zip(asked, found, strict=True))

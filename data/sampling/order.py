"""The order of one epoch's cases: a function of seed and epoch alone."""

from collections.abc import Sequence

import numpy as np


def epoch_order(num_cases: int, seed: int, epoch: int) -> list[int]:
    """Return each case once, shuffled."""
    return np.random.default_rng([seed, epoch]).permutation(num_cases).tolist()


def balanced_order(labels: Sequence[int], seed: int, epoch: int) -> list[int]:
    """Return as many draws as there are cases, as many of each class, give or take one; shuffled.

    Cases of a rare class come again, each as often as the others of its class, give or take one; of a frequent
    one some are left out, others in another epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    classes = [np.flatnonzero(np.array(labels) == value) for value in sorted(set(labels))]
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[rng.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    drawn = [
        np.concatenate([rng.permutation(members) for _ in range(-(-int(share) // len(members)))])[:share]
        for members, share in zip(classes, shares, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn)).tolist()


def occurrences(order: Sequence[int]) -> list[int]:
    """Return for each draw how often its case came before in the epoch: the second augmentation differs."""
    seen: dict[int, int] = {}
    counts = []
    for index in order:
        counts.append(seen.get(index, 0))
        seen[index] = counts[-1] + 1
    return counts

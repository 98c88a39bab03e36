"""How uncertain class probabilities are, and how far several predictions of the same thing disagree."""

import numpy as np
from scipy.special import entr

MEASURES = ("entropy", "mutual_information", "variance")
"""Of the mean of several predictions, in this order; of one prediction there is the first alone."""


def entropy(probabilities: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Return the entropy in nats of probabilities (..., K), as (...).

    Multi-label, where each class is decided independently: the mean over the K binary entropies.
    """
    if multi_label:
        rest = np.maximum(1 - probabilities, 0)  # blended windows may come to just above 1
        return (entr(probabilities) + entr(rest)).mean(axis=-1)
    return entr(probabilities).sum(axis=-1)


def measure_samples(samples: np.ndarray, multi_label: bool = False) -> tuple[float, ...]:
    """MEASURES of predictions (S, K) of one case; of a single one its entropy.

    entropy             of their mean: all that is uncertain
    mutual_information  between the prediction and which sample it is from, the mean's entropy less the mean of the
                        entropies: what more training data could settle (Houlsby et al. 2011, arXiv:1112.5745)
    variance            over the samples, the mean over the classes
    """
    total = float(entropy(samples.mean(axis=0), multi_label))
    if len(samples) == 1:
        return (total,)
    information = max(0.0, total - float(entropy(samples, multi_label).mean()))
    return total, information, float(samples.var(axis=0).mean())


class Moments:
    """The mean of many predictions of one volume, and MEASURES of it, from running sums.

    They take (K + 3) float32 a voxel, however many predictions there are. Welford's update (1962): a sum of squares
    would lose the small variances of voxels that are nearly certain.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, multi_label: bool = False) -> None:
        self._multi_label = multi_label
        self._means = np.zeros((*shape, num_classes), np.float32)
        # Until `finish`: nothing; the entropies' sum; squared deviations, summed over classes and predictions.
        self._maps = np.zeros((*shape, len(MEASURES)), np.float32)

    def add(self, number: int, first: int, slab: np.ndarray) -> None:
        """Add the planes from `first` on, (d, H, W, K), of one prediction: the first has number 1."""
        for plane, p in enumerate(slab, first):  # plane by plane: small temporaries
            mean = self._means[plane]
            deviation = p - mean
            mean += deviation / number
            self._maps[plane, ..., 1] += entropy(p, self._multi_label)
            self._maps[plane, ..., 2] += np.einsum("hwk,hwk->hw", deviation, p - mean)

    def finish(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean (D, H, W, K), and MEASURES of the `count` predictions (D, H, W, 3), float32.

        Ends the sums.
        """
        for p, measures in zip(self._means, self._maps, strict=True):
            total = entropy(p, self._multi_label)
            measures[..., 0] = total
            measures[..., 1] = np.maximum(total - measures[..., 1] / count, 0)  # below it by rounding alone
            measures[..., 2] /= count * p.shape[-1]
        return self._means, self._maps

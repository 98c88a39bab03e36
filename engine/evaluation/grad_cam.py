"""Grad-CAM: where in a volume or clip a network finds what speaks for a class."""

from typing import Protocol

import mlx.core as mx
import numpy as np
from scipy.ndimage import zoom

from ops import memory


class FeatureNet(Protocol):
    """A classifier in two halves: model(x) is head(features(x))."""

    def features(self, x: mx.array, /) -> mx.array:
        """(N, D, H, W, C) -> (N, D', H', W', F)."""

    def head(self, features: mx.array, /) -> mx.array:
        """(N, D', H', W', F) -> logits (N, K)."""


def grad_cam(model: FeatureNet, view: np.ndarray, class_index: int) -> np.ndarray:
    """Return how much each place of a view (D, H, W, C) speaks for a class: (D, H, W) float32 in 0..1.

    The feature maps are summed, each weighted by the mean gradient of the class's logit with respect to it; what
    speaks against the class is set to 0, the largest value to 1, and the map is brought to the view's size by
    linear interpolation: it is as coarse as the features are. All zeros where nothing speaks for the class. The
    model must be in evaluation mode. Selvaraju et al. 2017, arXiv:1610.02391.
    """
    features = mx.stop_gradient(model.features(mx.array(view[None]))).astype(mx.float32)  # (1, D', H', W', F)
    gradient = mx.grad(lambda maps: model.head(maps)[0, class_index])(features)
    weights = gradient.mean(axis=(1, 2, 3), keepdims=True)  # (1, 1, 1, 1, F)
    found = mx.maximum((weights * features).sum(axis=-1), 0)
    memory.evaluate(found)
    coarse = np.array(found)[0]  # (D', H', W')
    factors = [size / small for size, small in zip(view.shape[:3], coarse.shape, strict=True)]
    # grid_mode: voxels are boxes with centres, not points, so that the map lies where its features looked.
    fine = zoom(coarse, factors, order=1, mode="nearest", grid_mode=True).astype(np.float32)
    return fine / fine.max() if fine.max() > 0 else fine

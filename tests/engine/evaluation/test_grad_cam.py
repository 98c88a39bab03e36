import mlx.core as mx
import numpy as np

from engine.evaluation.grad_cam import grad_cam
from models import build_model
from models.cnn3d import CNN3dArgs


class TwoMaps:
    """Feature maps are the image pooled by 2, and its negative; class 0 likes the first map, class 1 the second."""

    def features(self, x: mx.array) -> mx.array:
        n, d, h, w, _ = x.shape
        pooled = x.reshape(n, d // 2, 2, h // 2, 2, w // 2, 2).mean(axis=(2, 4, 6))[..., None]
        return mx.concatenate([pooled, -pooled], axis=-1)

    def head(self, features: mx.array) -> mx.array:
        return features.mean(axis=(1, 2, 3)) @ mx.array([[1.0, 0.0], [0.0, 1.0]])


def test_map_lies_on_what_speaks_for_the_class() -> None:
    view = np.zeros((4, 4, 8, 1), np.float32)
    view[2:, 2:, 4:6] = 3.0
    view[:2, :2, :2] = -1.0
    first, second = (grad_cam(TwoMaps(), view, k) for k in (0, 1))
    assert first.shape == view.shape[:3]
    assert first.dtype == np.float32
    assert first.max() == 1
    assert np.unravel_index(first.argmax(), first.shape) in [(3, 3, 4), (3, 3, 5)]
    assert first[0, 0, 0] == 0
    assert second.argmax() == 0  # the corner that is negative
    assert second[3, 3, 4:].max() == 0


def test_constant_features_give_a_constant_map_or_none() -> None:
    np.testing.assert_array_equal(grad_cam(TwoMaps(), np.full((6, 4, 2, 1), 5.0, np.float32), 0), 1)
    np.testing.assert_array_equal(grad_cam(TwoMaps(), np.full((4, 4, 4, 1), 5.0, np.float32), 1), 0)


def test_equals_the_class_activation_map_of_a_linear_head() -> None:
    """Over a mean and a linear layer Grad-CAM is CAM (Zhou et al. 2016): features times the class's weights."""
    mx.random.seed(0)
    model = build_model("cnn3d", CNN3dArgs(widths=(5,), norm="none"), 1, 2)  # features of the view's size
    model.eval()
    view = np.random.default_rng(0).normal(size=(4, 6, 8, 1)).astype(np.float32)
    features = np.array(model.features(mx.array(view[None])))[0]
    expected = np.maximum(features @ np.array(model.head.fc.weight)[1], 0)
    np.testing.assert_allclose(grad_cam(model, view, 1), expected / expected.max(), atol=1e-5)

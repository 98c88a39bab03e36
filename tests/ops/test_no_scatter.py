"""Gradients in MLX's own operations use no scatter, whose order, and so whose last bits, change on a GPU."""

import mlx.core as mx
import pytest

import ops
from ops import backend

X = (1, 4, 6, 8, 4)

OPERATORS = {
    "max_pool3d": lambda x: ops.max_pool3d(x, 3, 2, 1),
    "avg_pool3d": lambda x: ops.avg_pool3d(x, 3, 2, 1),
    "nearest": lambda x: ops.upsample3d(x, 2),
    "linear": lambda x: ops.upsample3d(x, 2, "linear"),
    "concat_channels": lambda x: ops.concat_channels(x, 2 * x),
    "class_sums": lambda x: ops.class_sums(x, mx.zeros(X[:-1], mx.uint8)).surprise,
    "instance": lambda x: ops.norm_act_dropout(x, None, None, slope=0.0)[0],
    "group": lambda x: ops.norm_act_dropout(x, None, None, norm="group", groups=2)[0],
    "conv3d": lambda x: ops.conv3d(x, mx.ones((4, 3, 3, 3, 4)), stride=2, padding=1),
    "conv_transpose3d": lambda x: ops.conv_transpose3d(x, mx.ones((4, 2, 2, 2, 4)), stride=2),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_gradient_has_no_scatter(monkeypatch, tmp_path, name):
    monkeypatch.setattr(backend, "_form", "mlx")
    gradient = mx.grad(lambda x: OPERATORS[name](x).square().sum())(mx.ones(X))
    mx.export_to_dot(str(tmp_path / "graph.dot"), gradient)
    assert "Scatter" not in (tmp_path / "graph.dot").read_text()


def test_a_scatter_is_found(tmp_path):
    gradient = mx.grad(lambda x: x[mx.array([0, 0])].sum())(mx.ones((2,)))
    mx.export_to_dot(str(tmp_path / "graph.dot"), gradient)
    assert "Scatter" in (tmp_path / "graph.dot").read_text()

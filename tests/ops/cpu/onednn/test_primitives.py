import gc
import subprocess
import sys

import numpy as np
import pytest

from ops import backend
from ops.convolution.geometry import Geometry
from ops.cpu.onednn import convolution, primitives


@pytest.fixture(autouse=True)
def _runtime(monkeypatch):
    monkeypatch.setattr(backend, "_form", None)
    try:
        backend.choose("onednn")
    except OSError as error:
        pytest.skip(str(error))


def geometry(size, channels=4, y=None):
    shape = (1, size, size, size, channels)
    return Geometry("conv3d", shape, (channels, 3, 3, 3, channels), y or shape, (1,) * 3, (1,) * 3, (1,) * 3)


def run(g):
    x, w, y = (np.ones(shape, np.float32) for shape in (g.x_shape, g.weight_shape, g.y_shape))
    convolution.forward(g, x, w, None, y)
    return y


def test_a_refused_call_names_operator_and_shapes():
    with pytest.raises(
        primitives.OneDNNError,
        match=r"invalid arguments: forward of conv3d of x \(1, 5, 5, 5, 4\) float32 by weight \(4, 3, 3, 3, 4\) "
        r"to \(1, 9, 9, 9, 4\), stride \(1, 1, 1\), padding \(1, 1, 1\), dilation \(1, 1, 1\)",
    ):
        run(geometry(5, y=(1, 9, 9, 9, 4)))


def test_an_unknown_status_is_reported_as_a_number():
    with pytest.raises(primitives.OneDNNError, match="status 77: dancing"):
        primitives.check(77, "dancing")


def test_plans_are_built_once_and_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(primitives, "CACHE_SIZE", 3)
    runtime, built = primitives.runtime(), []
    runtime._plans.clear()
    for key in "abcadab":  # d evicts b, the least recently used
        runtime.plan(key, lambda key=key: built.append(key))
    assert built == ["a", "b", "c", "d", "b"]
    assert list(runtime._plans) == ["d", "a", "b"]
    runtime._plans.clear()


def test_evicted_plans_give_their_handles_back(monkeypatch):
    runtime = primitives.runtime()
    runtime._plans.clear()
    alive = []
    create = primitives.Runtime.create

    def counted(self, function, *arguments, **options):
        handle = create(self, function, *arguments, **options)
        destroy = handle._finalizer.peek()[1]
        handle._finalizer.detach()
        alive.append(function)
        handle._finalizer = primitives.weakref.finalize(
            handle,
            lambda pointer: (alive.remove(function), primitives.check(destroy(pointer), function)),
            handle.pointer,
        )
        return handle

    monkeypatch.setattr(primitives.Runtime, "create", counted)
    run(geometry(4))
    assert alive.count("primitive_create") == 2  # the convolution and the weights' reorder
    runtime._plans.clear()
    gc.collect()
    assert alive == []


def test_changing_threads_gives_the_same_values():
    g = geometry(12, channels=16)
    two = run(g)
    backend.choose("onednn", threads=1)
    one = run(g)
    np.testing.assert_allclose(one, two, rtol=1e-6)


CHANGING_SHAPES = """
import mlx.core as mx
from ops import backend
from ops.conv3d import conv3d
from ops.cpu.onednn import primitives
backend.choose("onednn")
primitives.CACHE_SIZE = 24
def rss():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
w = mx.random.normal((16, 3, 3, 3, 16))
for step in range(300):
    if step == 100:
        before = rss()
    x = mx.random.normal((1, 4 + step % 10, 4 + step // 10 % 10, 4 + step % 7, 16))
    mx.eval(mx.grad(lambda x, w: conv3d(x, w, padding=1).sum(), argnums=(0, 1))(x, w))
print(rss() / before)
"""


def test_memory_stays_level_while_shapes_change():
    output = subprocess.run([sys.executable, "-c", CHANGING_SHAPES], check=True, capture_output=True, text=True)
    assert float(output.stdout) < 1.02

"""What all kernels stand on: sharing out tasks, bfloat16, the exponential, and the cache of compiled code."""

import mlx.core as mx
import numpy as np
import pytest

numba = pytest.importorskip("numba")

from ops import backend  # noqa: E402
from ops.cpu import kernels  # noqa: E402
from ops.cpu.kernels import exp, integer, kernel, load, share, store, vector, volume  # noqa: E402


@kernel
def narrow(a):
    y, x, size = volume(a, 1), vector(a, 2), integer(a, 3)
    first, last = share(a)
    for task in range(first, last):
        for i in range(task * 1000, min(size, (task + 1) * 1000)):
            store(y, i, x[i])


@kernel
def exponential(a):
    x, y = volume(a, 1), volume(a, 2)
    first, last = share(a)
    for i in range(first, last):
        store(y, i, exp(load(x, i)))


@pytest.fixture(autouse=True)
def _native(monkeypatch):
    monkeypatch.setattr(backend, "_form", "onednn")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_bfloat16_rounds_as_mlx_does_and_every_task_runs_once(monkeypatch, threads):
    monkeypatch.setattr(backend, "_threads", threads)
    bits = np.random.default_rng(0).integers(0, 2**32, 9999, dtype=np.uint32)
    bits[::3] &= 0xFFFF8000  # half of these are between two bfloat16 numbers
    x = np.append(bits.view(np.float32), np.array([0, -0.0, np.inf, -np.inf, 1e-40, 3.4e38], np.float32))
    y = np.zeros(x.size, np.uint16)
    narrow(-(-x.size // 1000), y, x, x.size)
    expected = np.array(mx.array(x).astype(mx.bfloat16).view(mx.uint16))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(y[number], expected[number])
    assert np.isnan((y[~number].astype(np.uint32) << 16).view(np.float32)).all()


def test_exponential():
    x = np.append(np.linspace(-86.9, 0, 100_001), [-88, -1e30, -np.inf, np.nan]).astype(np.float32)
    y = np.empty_like(x)
    exponential(x.size, x, y)
    np.testing.assert_allclose(y[:-4], np.exp(x[:-4].astype(np.float64)), rtol=2.5e-7)
    assert y[-4:-1].tolist() == [0, 0, 0]
    assert np.isnan(y[-1])


def test_runs_where_compiled_code_cannot_be_kept(monkeypatch):
    calls = []

    def cfunc(signature, cache=False, **options):
        calls.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels.numba, "cfunc", cfunc)
    assert kernels._compile(len, numba.float32) is len
    assert calls == [True, False]

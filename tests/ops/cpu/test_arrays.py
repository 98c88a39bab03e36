import mlx.core as mx
import numpy as np
import pytest

from ops.cpu.arrays import empty, view


def test_view_shares_the_memory():
    a = mx.arange(6, dtype=mx.float32).reshape(2, 3)
    assert view(a).ctypes.data == view(a).ctypes.data
    np.testing.assert_array_equal(view(a), [[0, 1, 2], [3, 4, 5]])


def test_view_of_bfloat16_is_its_bits():
    bits = view(mx.array([1.0, -2.0]).astype(mx.bfloat16))
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(bits, [0x3F80, 0xC000])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_view_of_a_strided_array_is_contiguous(dtype):
    a = mx.arange(24, dtype=mx.float32).reshape(2, 3, 4).astype(dtype)
    for strided in (a.transpose(2, 0, 1), a[:, 1:, ::2], mx.broadcast_to(a[:1], (5, 3, 4))):
        array = view(strided)
        assert array.flags.c_contiguous
        assert array.shape == strided.shape
        want = np.array(strided.astype(mx.float32))
        got = array if dtype == mx.float32 else (array.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("dtype", "one"), [(mx.float32, 1.0), (mx.bfloat16, 0x3F80)])
def test_empty_is_written_through_its_view(dtype, one):
    a, target = empty((2, 3), dtype)
    target[:] = one
    assert a.dtype == dtype
    np.testing.assert_array_equal(np.array(a.astype(mx.float32)), np.ones((2, 3)))


def test_view_keeps_the_memory_alive():
    array = view(mx.arange(1000) * 2)
    for _ in range(10):
        mx.eval(mx.zeros(1000, mx.int32))
    assert array[-1] == 1998


def test_view_inside_compile_says_what_to_do():
    with pytest.raises(RuntimeError, match="run the step uncompiled"):
        mx.compile(lambda a: mx.array(view(a)))(mx.ones(3))

"""Numba kernels over raw memory, run by GNU OpenMP's threads: the same pool as oneDNN's.

A kernel is a function of one argument block, compiled once for float32 and once for bfloat16 volumes at
its first call. Raw pointers are what LLVM vectorises (array indexing checks for negative indices), and a
kernel that takes its own share of the tasks compiles in 0.3 s, where `prange` needs seconds.

Imported lazily, and only by the operators' CPU forms: it loads Numba and libgomp.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ops import backend

_GOMP = "libgomp.so.1"
_gomp = ctypes.CDLL(_GOMP)
_gomp.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
_gomp.GOMP_parallel.restype = None
_ALONE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
llvm.load_library_permanently(_GOMP)  # where compiled kernels find the two functions below
_thread_num = types.ExternalFunction("omp_get_thread_num", types.int32())
_num_threads = types.ExternalFunction("omp_get_num_threads", types.int32())

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F32, _F64 = ir.FloatType(), ir.DoubleType()


class Kernel:
    """A function of one argument block, run on all threads; see `kernel`."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function
        self._compiled: dict[np.dtype, Any] = {}

    def __call__(self, num_tasks: int, *arguments: np.ndarray | int | float) -> None:
        """Run it. The first argument is a volume, float32 or bfloat16 (as uint16), and decides which form.

        Which thread runs a task depends on the number of threads; what a task does must not.
        """
        first = arguments[0]
        assert isinstance(first, np.ndarray)
        if first.dtype not in self._compiled:
            self._compiled[first.dtype] = _compile(self._function, numba.from_dtype(first.dtype))
        block = np.empty(1 + len(arguments), np.int64)
        block[0] = num_tasks
        for i, value in enumerate(arguments, 1):
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous
                block[i] = value.ctypes.data
            elif isinstance(value, float):
                block[i : i + 1].view(np.float64)[0] = value
            else:
                block[i] = value
        if num_tasks == 1:  # the other threads would only be waited for
            _ALONE(self._compiled[first.dtype].address)(block.ctypes.data)
            return
        # Always all threads: libgomp ends those that a smaller team does not use, and must start them again.
        _gomp.GOMP_parallel(self._compiled[first.dtype].address, block.ctypes.data, backend.threads(), 0)


def kernel(function: Callable[[Any], None]) -> Kernel:
    """Make a kernel of a function that opens with reads from its argument block:

    `share(a)` gives the range of tasks that the calling thread runs. `volume(a, i)`, `vector(a, i)`,
    `indices(a, i)`, `labels(a, i)`, `doubles(a, i)`, `integer(a, i)` and `number(a, i)` give argument i, counted
    from 1, as a pointer to the volumes' dtype, to float32, int64, int32 or float64, as an int and as a float32.
    Volumes are read and written through `load` and `store`.
    """
    return Kernel(function)


def _compile(function: Callable[[Any], None], dtype: types.Type) -> Any:
    signature = types.void(types.CPointer(dtype))
    # NaN and infinity keep their meaning: a diverged run must show as NaN in the loss.
    options: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy"}
    try:
        return numba.cfunc(signature, cache=True, **options)(function)
    except (RuntimeError, OSError):  # no folder to keep compiled code in is writable: compile in every process
        return numba.cfunc(signature, **options)(function)


@numba.njit(error_model="numpy")
def share(a):  # type: ignore[no-untyped-def]
    """The tasks that the calling thread runs: first, and one past the last."""
    tasks, thread, threads = integer(a, 0), _thread_num(), _num_threads()
    return thread * tasks // threads, (thread + 1) * tasks // threads


@numba.njit
def tasks(a):  # type: ignore[no-untyped-def]
    """The same as a range."""
    first, last = share(a)
    return range(first, last)


@numba.njit
def thread_number():  # type: ignore[no-untyped-def]
    """Of the calling thread, below `backend.threads()`: for scratch memory."""
    return types.int64(_thread_num())


def _read(context: Any, builder: Any, block: Any, i: Any) -> Any:
    return builder.load(builder.gep(builder.bitcast(block, _I64.as_pointer()), [i]))


def _pointer(to: types.Type | None) -> Any:
    """Return an intrinsic (block, i) -> pointer to `to`, or to the volumes' dtype; which is the block's own type."""

    @intrinsic
    def argument(typing, a, i):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.inttoptr(_read(context, builder, *args), context.get_value_type(signature.return_type))

        return types.CPointer(to or a.dtype)(a, types.int64), generate

    return argument


volume, vector = _pointer(None), _pointer(types.float32)
indices, labels, doubles = _pointer(types.int64), _pointer(types.int32), _pointer(types.float64)


@intrinsic
def integer(typing, a, i):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _read(context, builder, *args)

    return types.int64(a, types.int64), generate


@intrinsic
def number(typing, a, i):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.fptrunc(builder.bitcast(_read(context, builder, *args), _F64), _F32)

    return types.float32(a, types.int64), generate


@intrinsic
def load(typing, pointer, i):  # type: ignore[no-untyped-def]
    """pointer[i] as float32: bfloat16 is the upper half of a float32's bits."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        value = builder.load(builder.gep(args[0], [args[1]]))
        if pointer.dtype == types.uint16:
            value = builder.bitcast(builder.shl(builder.zext(value, _I32), _I32(16)), _F32)
        return value

    return types.float32(pointer, types.int64), generate


@intrinsic
def store(typing, pointer, i, value):  # type: ignore[no-untyped-def]
    """pointer[i] = value, rounded to the nearest bfloat16, ties to even, where the pointer is to uint16."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        value = args[2]
        if pointer.dtype == types.uint16:
            bits = builder.bitcast(value, _I32)
            odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
            rounded = builder.add(builder.add(bits, _I32(0x7FFF)), odd)
            value = builder.trunc(builder.lshr(rounded, _I32(16)), _I16)
        builder.store(value, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.float32), generate


@intrinsic
def _bits_to_float(typing, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], _F32)

    return types.float32(types.int32), generate


@numba.njit(fastmath={"contract", "nsz"})
def exp(x):  # type: ignore[no-untyped-def]
    """e^x of a float32 x <= 0, to 2 units in the last place; 0 below -87. Unlike libm's it vectorises.

    2^n times a polynomial in the rest, within ±log(2)/2 (the coefficients are Cephes').
    """
    f = types.float32
    n = np.floor(x * f(1.44269504) + f(0.5))
    r = x - n * f(0.693359375) + n * f(2.12194440e-4)
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    p = p * r * r + r + f(1)
    power = _bits_to_float(types.int32((types.int32(max(n, f(-127))) + types.int32(127)) << types.int32(23)))
    return p * power if x > f(-87) else (f(0) if x <= f(-87) else x)

"""Keep glibc from handing freed pages back to the kernel.

MLX allocates every large array with `malloc`. glibc serves those by `mmap` and unmaps them when they
are freed, so each new array faults its pages in again: an element-wise product of 67 MB takes 52 ms,
and 6 ms once the pages stay with the process.
"""

import ctypes
import os
import platform

# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_SETTINGS = (
    (_M_MMAP_MAX, 0),  # large arrays come from the heap, whose pages are kept
    (_M_TRIM_THRESHOLD, 2**31 - 1),  # never shrink the heap
    (_M_TOP_PAD, 256 << 20),  # grow it in large steps
    (_M_ARENA_MAX, 1),  # threads share it: a second arena would keep pages of its own
)


def keep_pages() -> bool:
    """Make glibc keep freed pages; return whether it does.

    Call it before other threads start: a thread that has already allocated keeps its own arena.
    `MLX_VOLUMES_ALLOCATOR=default` turns it off, and so does a C library other than glibc. Calling it
    again changes nothing.
    """
    if os.environ.get("MLX_VOLUMES_ALLOCATOR", "") == "default" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all(mallopt(option, value) == 1 for option, value in _SETTINGS)

"""oneDNN's shared library: finding it, loading it, and the C functions that are called (API of v3)."""

import ctypes
import importlib.metadata
import re
from ctypes import POINTER, c_int, c_int64, c_size_t, c_uint, c_void_p

DISTRIBUTION = "onednn-cpu-gomp"
SONAME = "libdnnl.so.3"

# Debian's packages of the libraries that libdnnl is linked to.
_PACKAGES = {"libgomp.so": "libgomp1", "libstdc++.so": "libstdc++6", "libgcc_s.so": "libgcc-s1"}

# Enumerators of dnnl_types.h and dnnl_common_types.h.
BF16, F32 = 2, 3
TAG_ANY = 1
CPU_ENGINE = 1
IN_ORDER = 1
FORWARD_TRAINING, FORWARD_INFERENCE = 64, 96
CONVOLUTION_DIRECT, DECONVOLUTION_DIRECT = 1, 0xA
SCRATCHPAD_USER = 1
QUERY_IMPLEMENTATION = 8
QUERY_WEIGHTS, QUERY_DIFF_WEIGHTS, QUERY_SCRATCHPAD = 131, 132, 136
SRC, DST, WEIGHTS, BIAS, SCRATCHPAD = 1, 17, 33, 41, 80
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS = 129, 145, 161, 169
ISA_AVX512_BF16 = 0xE7
MAX_DIMS = 12

STATUS: tuple[str, ...] = (
    *("success", "out of memory", "invalid arguments", "unimplemented", "last implementation reached"),
    *("runtime error", "not required", "invalid graph", "invalid graph operator", "invalid shape"),
)

Dims = c_int64 * MAX_DIMS


class Version(ctypes.Structure):
    """The head of dnnl_version_t."""

    _fields_ = (("major", c_int), ("minor", c_int), ("patch", c_int))


class Argument(ctypes.Structure):
    """dnnl_exec_arg_t: which argument of a primitive, and its memory."""

    _fields_ = (("index", c_int), ("memory", c_void_p))


_CREATED = POINTER(c_void_p)
_DIMS = POINTER(c_int64)
_FORWARD = (_CREATED, c_void_p, c_int, c_int, *[c_void_p] * 4, *[_DIMS] * 4, c_void_p)
_BACKWARD_DATA = (_CREATED, c_void_p, c_int, *[c_void_p] * 3, *[_DIMS] * 4, c_void_p, c_void_p)
_BACKWARD_WEIGHTS = (_CREATED, c_void_p, c_int, *[c_void_p] * 4, *[_DIMS] * 4, c_void_p, c_void_p)

# name without dnnl_ -> arguments; each returns dnnl_status_t, unless named in _RESULTS
_FUNCTIONS: dict[str, tuple] = {
    "version": (),
    "get_effective_cpu_isa": (),
    "set_primitive_cache_capacity": (c_int,),
    "engine_create": (_CREATED, c_int, c_size_t),
    "engine_destroy": (c_void_p,),
    "stream_create": (_CREATED, c_void_p, c_uint),
    "stream_wait": (c_void_p,),
    "stream_destroy": (c_void_p,),
    "memory_desc_create_with_tag": (_CREATED, c_int, _DIMS, c_int, c_int),
    "memory_desc_create_with_strides": (_CREATED, c_int, _DIMS, c_int, _DIMS),
    "memory_desc_get_size": (c_void_p,),
    "memory_desc_destroy": (c_void_p,),
    "memory_create": (_CREATED, c_void_p, c_void_p, c_void_p),
    "memory_set_data_handle": (c_void_p, c_void_p),
    "memory_destroy": (c_void_p,),
    "primitive_attr_create": (_CREATED,),
    "primitive_attr_set_scratchpad_mode": (c_void_p, c_int),
    "primitive_attr_destroy": (c_void_p,),
    "primitive_desc_query": (c_void_p, c_int, c_int, c_void_p),
    "primitive_desc_query_md": (c_void_p, c_int, c_int),
    "primitive_desc_destroy": (c_void_p,),
    "primitive_create": (_CREATED, c_void_p),
    "primitive_execute": (c_void_p, c_void_p, c_int, POINTER(Argument)),
    "primitive_destroy": (c_void_p,),
    "reorder_primitive_desc_create": (_CREATED, *[c_void_p] * 5),
    "matmul_primitive_desc_create": (_CREATED, *[c_void_p] * 6),
    "convolution_forward_primitive_desc_create": _FORWARD,
    "convolution_backward_data_primitive_desc_create": _BACKWARD_DATA,
    "convolution_backward_weights_primitive_desc_create": _BACKWARD_WEIGHTS,
    "deconvolution_forward_primitive_desc_create": _FORWARD,
    "deconvolution_backward_data_primitive_desc_create": _BACKWARD_DATA,
    "deconvolution_backward_weights_primitive_desc_create": _BACKWARD_WEIGHTS,
}
_RESULTS: dict[str, type] = {
    "version": POINTER(Version),
    "memory_desc_get_size": c_size_t,
    "primitive_desc_query_md": c_void_p,
}


def open_library() -> ctypes.CDLL:
    """Load libdnnl with every function that is used here declared.

    Raises OSError naming the missing library and its package, or the version found.
    """
    path = _find()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise OSError(f"cannot load oneDNN from {path}: {_explain(error)}") from error
    for name, arguments in _FUNCTIONS.items():
        function = getattr(library, f"dnnl_{name}")
        function.argtypes, function.restype = arguments, _RESULTS.get(name, c_int)
    version = library.dnnl_version().contents
    if version.major != 3:
        raise OSError(f"{path} is oneDNN {version.major}.{version.minor}, version 3 is needed: {_INSTALL}")
    return library


def open_openmp() -> ctypes.CDLL:
    """Load libgomp, the thread pool of oneDNN; raises OSError naming its package."""
    try:
        library = ctypes.CDLL("libgomp.so.1")
    except OSError as error:
        raise OSError(f"cannot load oneDNN's thread pool: {_explain(error)}") from error
    library.omp_set_num_threads.argtypes, library.omp_set_num_threads.restype = (c_int,), None
    return library


_INSTALL = f"pip install '{DISTRIBUTION}>=2023.2,<2025'"


def _find() -> str:
    """Return the path of the wheel's library, which is outside site-packages, or else the system's."""
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == SONAME:
            return str(file.locate())
    try:
        ctypes.CDLL(SONAME)
    except OSError as error:
        if SONAME not in str(error):  # found, but a library that it needs is missing
            raise OSError(f"cannot load oneDNN: {_explain(error)}") from error
        raise OSError(f"oneDNN ({SONAME}) is not installed: {_INSTALL}") from error
    return SONAME


def _explain(error: OSError) -> str:
    """Return the loader's message, with the package of the missing library."""
    missing = re.match(r"([\w+.-]+?\.so)[.\d]*: cannot open shared object file", str(error))
    package = _PACKAGES.get(missing[1]) if missing else None
    return f"{error}; on Debian and Ubuntu: apt-get install {package}" if package else str(error)

"""oneDNN behind a few owned objects: descriptors, primitives that run on addresses, a bounded cache of plans.

One thread uses it, the one that touches MLX: primitives share one workspace and keep their arguments.
"""

import ctypes
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ops.cpu.onednn import library as dnnl

CACHE_SIZE = 256
_ALIGNMENT = 64

_runtime: "Runtime | None" = None
Plan = TypeVar("Plan")


class OneDNNError(RuntimeError):
    """oneDNN refused a call; the message has its status, the operator and the shapes."""


class Handle:
    """A pointer from oneDNN, destroyed with this object."""

    def __init__(self, pointer: ctypes.c_void_p, destroy: Callable[[ctypes.c_void_p], int]) -> None:
        self.pointer = pointer
        self._finalizer = weakref.finalize(self, destroy, pointer)
        self._finalizer.atexit = False


class Runtime:
    """The library with its engine, stream, workspace and cache of plans."""

    def __init__(self) -> None:
        self.library = dnnl.open_library()
        self.openmp = dnnl.open_openmp()
        isa = self.library.dnnl_get_effective_cpu_isa()
        self.native_bfloat16 = isa & dnnl.ISA_AVX512_BF16 == dnnl.ISA_AVX512_BF16
        # oneDNN would keep up to 1024 kernels beside the ones that are cached here.
        check(self.library.dnnl_set_primitive_cache_capacity(0), "setting the cache's capacity")
        self.engine = self.create("engine_create", dnnl.CPU_ENGINE, 0)
        self.stream = self.create("stream_create", self.engine.pointer, dnnl.IN_ORDER)
        self.attributes = self.create("primitive_attr_create")
        set_scratchpad = self.library.dnnl_primitive_attr_set_scratchpad_mode
        check(set_scratchpad(self.attributes.pointer, dnnl.SCRATCHPAD_USER), "setting the scratchpad's mode")
        self._workspace = np.empty(0, np.uint8)
        self._plans: OrderedDict[Hashable, Any] = OrderedDict()

    def create(self, function: str, *arguments: Any, doing: str = "starting") -> Handle:
        """Call dnnl_<kind>_create<…> and own what it makes; raises OneDNNError saying what was being done."""
        pointer = ctypes.c_void_p()
        check(getattr(self.library, f"dnnl_{function}")(ctypes.byref(pointer), *arguments), doing)
        kind = "primitive_desc" if "primitive_desc" in function else function.partition("_create")[0]
        return Handle(pointer, getattr(self.library, f"dnnl_{kind}_destroy"))

    def descriptor(self, shape: Sequence[int], data_type: int, strides: Sequence[int] | None = None) -> Handle:
        """Describe an array; without strides a primitive chooses the layout."""
        head = (len(shape), dims(shape), data_type)
        doing = f"describing an array of {tuple(shape)}"
        if strides is None:
            return self.create("memory_desc_create_with_tag", *head, dnnl.TAG_ANY, doing=doing)
        return self.create("memory_desc_create_with_strides", *head, dims(strides), doing=doing)

    def workspace(self, num_bytes: int) -> int:
        """Return the address of at least `num_bytes` of scratch memory, valid until the next call."""
        if num_bytes + _ALIGNMENT > self._workspace.size:
            self._workspace = np.empty(num_bytes + _ALIGNMENT, np.uint8)
        address = self._workspace.ctypes.data
        return address + -address % _ALIGNMENT

    def plan(self, key: Hashable, build: Callable[[], Plan]) -> Plan:
        """Return the plan under `key`; build it unless it is among the last CACHE_SIZE used."""
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        plan = build()
        self._plans[key] = plan
        if len(self._plans) > CACHE_SIZE:
            self._plans.popitem(last=False)
        return plan

    def set_threads(self, threads: int) -> None:
        """Use this many threads from now on; kernels are compiled for that number, so all plans are dropped."""
        self.openmp.omp_set_num_threads(threads)
        self._plans.clear()


class Primitive:
    """A compiled kernel and the memory objects of its arguments; called with their addresses."""

    def __init__(self, runtime: Runtime, description: Handle, layouts: Mapping[int, Any], doing: str) -> None:
        """layouts: argument's index -> memory descriptor (a pointer). doing: for messages."""
        self._runtime, self._doing = runtime, doing
        self._kernel = runtime.create("primitive_create", description.pointer, doing=doing)
        scratchpad = self._query_layout(description, dnnl.QUERY_SCRATCHPAD)
        self.scratch_bytes = runtime.library.dnnl_memory_desc_get_size(scratchpad)
        layouts = {dnnl.SCRATCHPAD: scratchpad, **layouts}
        self._memories = [
            runtime.create("memory_create", layout, runtime.engine.pointer, None, doing=doing)
            for layout in layouts.values()
        ]
        self._pointers = [memory.pointer for memory in self._memories]
        arguments = [dnnl.Argument(i, p) for i, p in zip(layouts, self._pointers, strict=True)]
        self._arguments = (dnnl.Argument * len(layouts))(*arguments)

    def __call__(self, *addresses: int) -> None:
        """Run it on the scratchpad's address and then those of the arguments, in the order of `layouts`."""
        library = self._runtime.library
        for pointer, address in zip(self._pointers, addresses, strict=True):
            check(library.dnnl_memory_set_data_handle(pointer, address), self._doing)
        stream = self._runtime.stream.pointer
        count = len(self._pointers)
        check(library.dnnl_primitive_execute(self._kernel.pointer, stream, count, self._arguments), self._doing)
        check(library.dnnl_stream_wait(stream), self._doing)

    def _query_layout(self, description: Handle, what: int) -> Any:
        return self._runtime.library.dnnl_primitive_desc_query_md(description.pointer, what, 0)


def load(threads: int) -> None:
    """Load oneDNN and give it `threads` threads; raises OSError naming what is missing."""
    runtime().set_threads(threads)


def runtime() -> Runtime:
    """Return the process's one runtime, loaded on the first call."""
    global _runtime
    if _runtime is None:
        _runtime = Runtime()
    return _runtime


def check(status: int, doing: str) -> None:
    """Raise OneDNNError unless a call succeeded."""
    if status:
        name = dnnl.STATUS[status] if status < len(dnnl.STATUS) else f"status {status}"
        raise OneDNNError(f"oneDNN: {name}: {doing}")


def dims(values: Sequence[int]) -> ctypes.Array:
    """Numbers as dnnl_dims_t."""
    return dnnl.Dims(*values)

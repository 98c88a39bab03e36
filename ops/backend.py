"""Which form of the operators runs: plain MLX, as in `ops/*.py`, or oneDNN and Numba on a Linux CPU, `ops/cpu`."""

import importlib
import logging
import os
import platform
import re
import sys
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from machine.resources import available_threads
from ops import device
from ops.cpu import allocator

FORMS = ("mlx", "onednn")

_log = logging.getLogger("mlx_volumes")
_form: str | None = None
_threads: int | None = None


def choose(name: str = "auto", threads: int | None = None) -> str:
    """Decide which form runs in this process, log it in one line, and return it: "mlx" or "onednn".

    name: "auto" follows the environment variable MLX_VOLUMES_OPS where it is set; otherwise it takes MLX on a
    GPU, oneDNN on a Linux x86-64 CPU, and MLX elsewhere, with a warning where oneDNN should have loaded.
    threads: of oneDNN and Numba, for the calling thread; None takes as many as the affinity mask allows.

    Raises OSError when "onednn" is asked for by name and cannot run: the message names what is missing.
    """
    global _form, _threads
    key = "ops"
    if name == "auto" and os.environ.get("MLX_VOLUMES_OPS"):
        key, name = "MLX_VOLUMES_OPS", os.environ["MLX_VOLUMES_OPS"]
    if name not in ("auto", *FORMS):
        raise ValueError(f"{key}={name} is unknown: expected auto, mlx or onednn")
    if threads is not None and threads < 1:
        raise ValueError(f"ops: threads={threads} must be at least 1")
    on_gpu = device.on_gpu()
    if not on_gpu:
        allocator.keep_pages()
    _threads = threads or available_threads()
    if name == "auto":
        _form = _choose_automatically(on_gpu, _threads)
    elif name == "onednn":
        if on_gpu:
            raise OSError("ops=onednn runs on the CPU, and MLX's default device is the GPU: use ops=mlx or auto")
        _load(_threads)
        _form = "onednn"
        _log.info("operators: oneDNN and Numba, %d threads", _threads)
    else:
        _form = "mlx"
        _log.info("operators: MLX's own, as asked")
    return _form


def active() -> str:
    """Return the form that runs, "mlx" or "onednn"; decides as `choose("auto")` on the first call."""
    return _form or choose("auto")


def runs_on_onednn(*arrays: mx.array) -> bool:
    """Return whether `ops/cpu` takes these arrays: it is active, and all of them are float32 or bfloat16."""
    return all(a.dtype in (mx.float32, mx.bfloat16) for a in arrays) and active() == "onednn"


def threads() -> int:
    """Return how many threads oneDNN and Numba use."""
    active()
    return _threads or available_threads()


def why_no_bfloat16() -> str | None:
    """Return why the operators that run here do not compute bfloat16 natively; None where they do.

    With ONEDNN_MAX_CPU_ISA=AVX512_CORE in the environment no CPU does.
    """
    if active() == "mlx":
        on_gpu = device.on_gpu()
        return judge_bfloat16("mlx", on_gpu, mx.device_info() if on_gpu else {})
    from ops.cpu.onednn import primitives

    return judge_bfloat16("onednn", False, {"native_bfloat16": primitives.runtime().native_bfloat16})


def judge_bfloat16(form: str, on_gpu: bool, facts: Mapping[str, Any]) -> str | None:
    """Return why a device does not compute bfloat16 natively, as a clause; None where it does.

    facts: of a GPU those of `mx.device_info`; of oneDNN on a CPU "native_bfloat16".
    """
    if form == "onednn":
        return None if facts["native_bfloat16"] else "this CPU has no bfloat16 arithmetic (AVX512-BF16 or AMX)"
    if not on_gpu:
        return "MLX's own operators emulate bfloat16 on a CPU"
    name = facts.get("device_name", "this GPU")
    if apple := re.match(r"applegpu_g(\d+)", facts.get("architecture", "")):  # 13: M1, 14: M2, 15: M3
        return None if int(apple[1]) >= 15 else f"{name} emulates bfloat16, which Apple GPUs compute from M3 on"
    if (major := facts.get("compute_capability_major")) is not None:
        if major >= 8:
            return None
        minor = facts.get("compute_capability_minor", 0)
        return f"{name} has compute capability {major}.{minor}, and bfloat16 arithmetic begins with 8.0"
    return f"{name} is not known to compute bfloat16"


def _choose_automatically(on_gpu: bool, threads: int) -> str:
    if on_gpu:
        _log.info("operators: MLX's own, on the GPU")
        return "mlx"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        _log.info("operators: MLX's own; oneDNN's are for Linux x86-64")
        return "mlx"
    try:
        _load(threads)
    except OSError as error:
        _log.warning("operators: MLX's own, 40 times slower on this CPU than oneDNN's: %s", error)
        return "mlx"
    _log.info("operators: oneDNN and Numba, %d threads", threads)
    return "onednn"


def _load(threads: int) -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise OSError(f"ops=onednn needs Linux x86-64, this is {sys.platform} {platform.machine()}: use ops=mlx")
    from ops.cpu.onednn import primitives

    primitives.load(threads)
    try:
        importlib.import_module("numba")
    except ImportError as error:
        raise OSError(f"cannot import numba ({error}): pip install numba") from error

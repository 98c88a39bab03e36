"""Which form of the operators runs: MLX's own, or oneDNN and Numba on a Linux x86-64 CPU."""

import importlib
import logging
import os
import platform
import sys

import mlx.core as mx

from machine.resources import available_threads
from ops import allocator

FORMS = ("mlx", "onednn")

_log = logging.getLogger("mlx_volumes")
_form: str | None = None
_threads: int | None = None


def choose(name: str = "auto", threads: int | None = None) -> str:
    """Decide which form runs in this process, log it in one line, and return it: "mlx" or "onednn".

    name: "auto" obeys the environment variable MLX_VOLUMES_OPS where it is set; otherwise it takes MLX on a
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
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
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
    """The form that runs, "mlx" or "onednn"; decides as `choose("auto")` when nobody has."""
    return _form or choose("auto")


def threads() -> int:
    """How many threads oneDNN and Numba use."""
    active()
    return _threads or available_threads()


def supports_bfloat16() -> bool:
    """Whether bfloat16 is computed natively: on a CPU by oneDNN, with AVX512-BF16 or AMX; by MLX always."""
    if active() == "mlx":
        return True
    from ops import onednn

    return onednn.runtime().native_bfloat16


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
    from ops import onednn

    onednn.load(threads)
    try:
        importlib.import_module("numba")
    except ImportError as error:
        raise OSError(f"cannot import numba ({error}): pip install numba") from error

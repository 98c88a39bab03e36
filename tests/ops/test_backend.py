import ctypes
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import mlx.core as mx
import pytest

from ops import backend
from ops.cpu.onednn import primitives

HERE = sys.platform == "linux" and platform.machine() == "x86_64"
linux_x86_64 = pytest.mark.skipif(not HERE, reason="oneDNN's form is for Linux x86-64")


@pytest.fixture(autouse=True)
def undecided(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="mlx_volumes")
    monkeypatch.delenv("MLX_VOLUMES_OPS", raising=False)
    monkeypatch.setattr(backend, "_form", None)
    monkeypatch.setattr(backend, "_threads", None)
    monkeypatch.setattr(primitives, "_runtime", primitives._runtime)
    yield
    if primitives._runtime is not None:
        primitives._runtime.set_threads(len(os.sched_getaffinity(0)))


def missing(monkeypatch, library):
    """Let the loader behave as where `library` is not installed."""
    monkeypatch.setattr(primitives, "_runtime", None)

    class Loader(ctypes.CDLL):
        def __init__(self, name, *arguments):
            if library in str(name) or "libdnnl" in str(name):
                raise OSError(f"{library}: cannot open shared object file: No such file or directory")
            super().__init__(name, *arguments)

    monkeypatch.setattr(ctypes, "CDLL", Loader)


@linux_x86_64
def test_auto_takes_onednn_here_and_says_so_once(caplog):
    assert backend.active() == "onednn"
    assert backend.active() == "onednn"
    cores = len(os.sched_getaffinity(0))
    assert caplog.messages == [f"operators: oneDNN and Numba, {cores} threads"]
    assert backend.threads() == cores


@linux_x86_64
def test_threads_reach_onednn():
    backend.choose("onednn", threads=1)
    assert backend.threads() == 1
    assert primitives.runtime().openmp.omp_get_max_threads() == 1


def test_the_environment_decides_under_auto_and_a_name_goes_before_it(monkeypatch, caplog):
    monkeypatch.setenv("MLX_VOLUMES_OPS", "mlx")
    assert backend.choose() == "mlx"
    assert caplog.messages == ["operators: MLX's own, as asked"]
    monkeypatch.setenv("MLX_VOLUMES_OPS", "nonsense")
    assert backend.choose("mlx") == "mlx"
    with pytest.raises(ValueError, match="MLX_VOLUMES_OPS=nonsense is unknown: expected auto, mlx or onednn"):
        backend.choose()


def test_unknown_arguments():
    with pytest.raises(ValueError, match="ops=torch is unknown: expected auto, mlx or onednn"):
        backend.choose("torch")
    with pytest.raises(ValueError, match="threads=0 must be at least 1"):
        backend.choose("mlx", threads=0)


@linux_x86_64
@pytest.mark.parametrize(
    ("library", "package"),
    [("libgomp.so.1", "libgomp1"), ("libstdc++.so.6", "libstdc++6"), ("libgcc_s.so.1", "libgcc-s1")],
)
def test_a_missing_library_is_named_with_its_package(monkeypatch, caplog, library, package):
    missing(monkeypatch, library)
    assert backend.choose("auto") == "mlx"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert library in record.message
    assert f"apt-get install {package}" in record.message
    with pytest.raises(OSError, match=f"apt-get install {package.replace('+', '.')}"):
        backend.choose("onednn")


@linux_x86_64
def test_a_missing_wheel_is_named(monkeypatch, caplog):
    missing(monkeypatch, "libdnnl.so.3")

    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    with pytest.raises(OSError, match="is not installed: pip install 'onednn-cpu-gomp"):
        backend.choose("onednn")
    assert backend.choose("auto") == "mlx"
    assert caplog.records[-1].levelno == logging.WARNING


@linux_x86_64
def test_another_version_of_onednn_is_refused(monkeypatch):
    monkeypatch.setattr(primitives, "_runtime", None)
    version = SimpleNamespace(contents=SimpleNamespace(major=2, minor=7))

    class Old(ctypes.CDLL):
        def __getattr__(self, name):
            return (lambda: version) if name == "dnnl_version" else super().__getattr__(name)

    monkeypatch.setattr(ctypes, "CDLL", Old)
    with pytest.raises(OSError, match=r"is oneDNN 2\.7, version 3 is needed"):
        backend.choose("onednn")


@linux_x86_64
def test_a_missing_numba_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(OSError, match=r"cannot import numba .*: pip install numba"):
        backend.choose("onednn")


def test_other_platforms_take_mlx_without_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert backend.choose("auto") == "mlx"
    assert [r.levelno for r in caplog.records] == [logging.INFO]
    with pytest.raises(OSError, match=r"ops=onednn needs Linux x86-64, this is \w+ arm64: use ops=mlx"):
        backend.choose("onednn")


def test_a_gpu_takes_mlx(monkeypatch, caplog):
    monkeypatch.setattr(mx, "default_device", lambda: SimpleNamespace(type=mx.DeviceType.gpu))
    assert backend.choose("auto") == "mlx"
    assert caplog.messages == ["operators: MLX's own, on the GPU"]
    with pytest.raises(OSError, match="MLX's default device is the GPU: use ops=mlx or auto"):
        backend.choose("onednn")


@pytest.mark.parametrize(
    ("form", "on_gpu", "facts", "expected"),
    [
        ("onednn", False, {"native_bfloat16": True}, None),
        ("onednn", False, {"native_bfloat16": False}, "this CPU has no bfloat16 arithmetic (AVX512-BF16 or AMX)"),
        ("mlx", False, {}, "MLX's own operators emulate bfloat16 on a CPU"),
        ("mlx", True, {"device_name": "Apple M3 Max", "architecture": "applegpu_g15s"}, None),
        ("mlx", True, {"device_name": "Apple M5", "architecture": "applegpu_g17g"}, None),
        (
            "mlx",
            True,
            {"device_name": "Apple M2 Ultra", "architecture": "applegpu_g14d"},
            "Apple M2 Ultra emulates bfloat16, which Apple GPUs compute from M3 on",
        ),
        (
            "mlx",
            True,
            {"architecture": "applegpu_g13g"},
            "this GPU emulates bfloat16, which Apple GPUs compute from M3",
        ),
        ("mlx", True, {"architecture": "sm_80", "compute_capability_major": 8, "compute_capability_minor": 0}, None),
        ("mlx", True, {"architecture": "sm_120", "compute_capability_major": 12}, None),
        (
            "mlx",
            True,
            {"device_name": "Tesla T4", "compute_capability_major": 7, "compute_capability_minor": 5},
            "Tesla T4 has compute capability 7.5, and bfloat16 arithmetic begins with 8.0",
        ),
        ("mlx", True, {"device_name": "Nova", "architecture": "n1"}, "Nova is not known to compute bfloat16"),
    ],
)
def test_bfloat16_by_device(form, on_gpu, facts, expected):
    found = backend.judge_bfloat16(form, on_gpu, facts)
    assert found == expected or (expected is not None and found is not None and found.startswith(expected))


def test_a_gpu_is_asked_for_its_facts(monkeypatch):
    backend.choose("mlx")
    monkeypatch.setattr(mx, "default_device", lambda: SimpleNamespace(type=mx.DeviceType.gpu))
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M4", "architecture": "applegpu_g16g"})
    assert backend.why_no_bfloat16() is None


def test_mlx_emulates_bfloat16_on_a_cpu(monkeypatch):
    monkeypatch.setattr(mx, "default_device", lambda: SimpleNamespace(type=mx.DeviceType.cpu))
    backend.choose("mlx")
    assert backend.why_no_bfloat16() is not None


@linux_x86_64
def test_onednn_can_be_kept_from_bfloat16():
    code = "from ops import backend\nbackend.choose('onednn')\nprint(backend.why_no_bfloat16())"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "this CPU has no bfloat16 arithmetic (AVX512-BF16 or AMX)\n"


@linux_x86_64
def test_bfloat16_on_this_cpu_is_what_the_kernel_says():
    backend.choose("onednn")
    with open("/proc/cpuinfo") as file:
        flags = next(line for line in file if line.startswith("flags")).split()
    assert (backend.why_no_bfloat16() is None) == ("avx512_bf16" in flags)


def test_importing_the_operators_loads_nothing_native():
    code = (
        "import sys, ops\n"
        "assert not {'numba', 'llvmlite'} & set(sys.modules), 'Numba was imported'\n"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''\n"
        "assert 'libdnnl' not in maps and 'libgomp' not in maps\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

import functools
import logging
import threading
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ops import memory
from ops.cpu.onednn.primitives import check

GB = 10**9


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """A device of made-up facts; returns what MLX was told, by the name of the call."""
    caplog.set_level(logging.INFO, logger="mlx_volumes")

    def pretend(gpu: bool, facts: dict[str, int], physical: int = 32 * GB, cgroup: int | None = None) -> dict[str, int]:
        told: dict[str, int] = {}
        monkeypatch.setattr(memory, "_limit", memory._limit)
        monkeypatch.setattr(memory, "on_gpu", lambda: gpu)
        monkeypatch.setattr(memory, "physical_memory", lambda: physical)
        monkeypatch.setattr(memory, "cgroup_memory", lambda: cgroup)
        monkeypatch.setattr(mx, "device_info", lambda: facts)
        for call in ("set_memory_limit", "set_cache_limit", "set_wired_limit"):
            monkeypatch.setattr(mx, call, lambda value, call=call: told.__setitem__(call, value))
        return told

    return pretend


M2 = {"memory_size": 24 * GB, "max_recommended_working_set_size": 18 * GB, "max_buffer_length": 14 * GB}


def test_metal_stays_below_the_recommended_working_set(device, caplog) -> None:
    told = device(True, M2, physical=24 * GB)
    memory.set_limit()
    assert told == {"set_memory_limit": int(0.9 * 18 * GB), "set_cache_limit": int(0.9 * 18 * GB)}  # none wired
    assert caplog.messages == ["memory limit: 16.2 GB (0.9 of the working set that the GPU recommends, 18.0 GB)"]


def test_cuda_takes_a_share_of_the_gpus_own_memory(device, caplog) -> None:
    told = device(True, {"total_memory": 80 * GB, "free_memory": 70 * GB}, cgroup=8 * GB)
    memory.set_limit()
    assert memory.describe_limit() == "72.0 GB (0.9 of the GPU's memory, 80.0 GB)"
    assert told["set_memory_limit"] == 72 * GB


@pytest.mark.parametrize(
    ("cgroup", "limit", "why"),
    [
        (None, 25.6, "0.8 of the memory, 32.0 GB"),
        (2**63 - 4096, 25.6, "0.8 of the memory, 32.0 GB"),  # version 1 without a limit
        (6 * GB, 4.8, "0.8 of the cgroup's memory, 6.0 GB"),
    ],
)
def test_a_cpu_obeys_its_cgroup_and_keeps_its_cache(device, caplog, cgroup, limit, why) -> None:
    told = device(False, {}, cgroup=cgroup)
    memory.set_limit()
    assert told == {"set_memory_limit": round(limit * GB)}
    assert caplog.messages == [f"memory limit: {limit} GB ({why})"]


def test_the_config_overrides_with_a_warning_beyond_what_the_gpu_takes_well(device, caplog) -> None:
    told = device(True, M2)
    memory.set_limit(10)
    assert told["set_memory_limit"] == 10 * GB
    memory.set_limit(20)
    assert told["set_memory_limit"] == 20 * GB
    assert caplog.messages == [
        "memory limit: 10.0 GB (memory_limit_gb)",
        "memory_limit_gb=20 is more than the 16.2 GB recommended for this device: arrays may be swapped, or the run "
        "may end out of memory",
        "memory limit: 20.0 GB (memory_limit_gb)",
    ]


def _write(root: Path, limits: dict[str, str]) -> None:
    for path, text in limits.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")


def test_the_least_of_a_cgroups_limits_and_its_parents_holds(tmp_path) -> None:
    proc, root = tmp_path / "cgroup", tmp_path / "fs"
    proc.write_text("0::/user.slice/job\n")
    assert memory.cgroup_memory(proc, root) is None
    _write(root, {"user.slice/memory.max": "5000", "user.slice/job/memory.max": "max"})
    assert memory.cgroup_memory(proc, root) == 5000
    _write(root, {"user.slice/job/memory.max": "3000"})
    assert memory.cgroup_memory(proc, root) == 3000


def test_version_1_and_a_container_that_does_not_see_its_own_path(tmp_path) -> None:
    proc, root = tmp_path / "cgroup", tmp_path / "fs"
    proc.write_text("5:devices:/\n4:cpu,memory:/docker/abc\n0::/\n")
    _write(root, {"memory/memory.limit_in_bytes": "7000"})
    assert memory.cgroup_memory(proc, root) == 7000
    assert memory.cgroup_memory(tmp_path / "none", root) is None


@pytest.mark.parametrize(
    "text",
    [
        "[malloc] Unable to allocate 17179869184 bytes.",
        "[metal::malloc] Attempting to allocate 29 bytes which is greater than the maximum allowed buffer size of 9",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOf…",
        "cudaMallocAsync(&data, size, stream) failed: out of memory",
    ],
)
def test_a_failed_allocation_says_what_for_and_what_to_make_smaller(text) -> None:
    with pytest.raises(memory.OutOfMemory) as caught, memory.explained("a step on (2, 8)", "train.batch_size"):
        raise RuntimeError(text)
    assert str(caught.value).startswith(f"out of memory in a step on (2, 8): {text} (MLX held ")
    assert str(caught.value).endswith(
        " GB at most). Use a smaller train.batch_size; a lower memory_limit_gb makes MLX queue less at a time"
    )


def test_numpy_and_onednn_run_out_of_memory_too() -> None:
    with pytest.raises(memory.OutOfMemory, match=r"^out of memory in a: .*allocate .* for an array"):  # noqa: SIM117
        with memory.explained("a", "b"):
            np.empty(2**60, np.float32)
    with pytest.raises(memory.OutOfMemory, match=r"^out of memory in a: oneDNN: out of memory: a product"):  # noqa: SIM117
        with memory.explained("a", "b"):
            check(1, "a product")


def test_other_errors_pass_and_none_is_explained_twice() -> None:
    with pytest.raises(RuntimeError, match=r"^no such kernel$"), memory.explained("a", "b"):
        raise RuntimeError("no such kernel")
    inner = memory.OutOfMemory("said already")
    with pytest.raises(memory.OutOfMemory, match=r"^said already$"), memory.explained("a", "b"):
        raise inner


def test_a_gpus_results_are_waited_for_and_its_failure_is_raised(monkeypatch) -> None:
    """Metal's failed command raises in mx.synchronize alone: its zeros must not be read before."""
    memory.evaluate(mx.ones(2))  # on a CPU mx.eval says it all

    def fail() -> None:
        raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")

    monkeypatch.setattr(memory, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "synchronize", fail)
    with pytest.raises(RuntimeError, match="Insufficient Memory"):
        memory.evaluate({"a": [mx.ones(2)]}, mx.zeros(1))


def test_the_cache_is_given_back_on_a_gpu_alone(monkeypatch) -> None:
    cleared = []
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(1))
    memory.release_cache()
    assert not cleared or memory.on_gpu()
    monkeypatch.setattr(memory, "on_gpu", lambda: True)
    memory.release_cache()
    assert cleared


@pytest.mark.slow
def test_other_threads_run_while_mlx_is_waited_for() -> None:
    """So that the next batches are made meanwhile, by threads that call Python."""
    made, ended = [], threading.Event()

    def make() -> None:
        while not ended.wait(1e-3):
            made.append(time.perf_counter())

    x = mx.random.normal((512, 512))
    y = functools.reduce(lambda a, _: (a @ x) / 16, range(60), x)
    thread = threading.Thread(target=make)
    thread.start()
    began = time.perf_counter()
    memory.evaluate(y)
    waited = time.perf_counter() - began
    ended.set()
    thread.join()
    assert sum(began < at < began + waited for at in made) >= 5

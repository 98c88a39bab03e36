"""What holds for every test."""

import os
from pathlib import Path

import pytest

from ops import backend

NO_BFLOAT16 = "this CPU has no bfloat16 arithmetic (AVX512-BF16 or AMX)"


@pytest.fixture
def datasets() -> Path:
    """The folder of shared data sets: MLX_VOLUMES_DATASETS, or shared/datasets beside the clone."""
    beside = Path(__file__).parents[2] / "shared" / "datasets"
    folder = Path(os.environ.get("MLX_VOLUMES_DATASETS", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set MLX_VOLUMES_DATASETS to their folder")
    return folder


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and those that it starts, run as on a CPU without bfloat16."""
    monkeypatch.setattr(backend, "why_no_bfloat16", lambda: NO_BFLOAT16)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")  # which oneDNN reads once, when it is loaded


@pytest.fixture
def native_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes bfloat16 for native, whatever the device; there it is computed all the same, slowly."""
    monkeypatch.setattr(backend, "why_no_bfloat16", lambda: None)


@pytest.fixture(autouse=True)
def _other_tests_choose_their_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_form", backend._form)

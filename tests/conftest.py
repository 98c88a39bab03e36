"""What holds for every test."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.synthetic.phantoms import write_phantoms
from ops import backend, memory

NO_BFLOAT16 = "this CPU has no bfloat16 arithmetic (AVX512-BF16 or AMX)"


@pytest.fixture
def datasets() -> Path:
    """The folder of shared data sets: MLX_VOLUMES_DATASETS, or shared/datasets beside the clone."""
    beside = Path(__file__).parents[2] / "shared" / "datasets"
    folder = Path(os.environ.get("MLX_VOLUMES_DATASETS", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set MLX_VOLUMES_DATASETS to their folder")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantoms of about 10 × 14 × 12 voxels, which no test changes."""
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", cases=4, shape=(10, 14, 12)).parent


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and those that it starts, run as on a CPU without bfloat16."""
    monkeypatch.setattr(backend, "why_no_bfloat16", lambda: NO_BFLOAT16)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")  # which oneDNN reads once, when it is loaded


@pytest.fixture
def native_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes bfloat16 for native, whatever the device; there it is computed all the same, slowly."""
    monkeypatch.setattr(backend, "why_no_bfloat16", lambda: None)


@pytest.fixture(params=["mlx", "onednn"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with MLX's operators, and again with the CPU's fast ones where they are installed."""
    if request.param == "onednn":
        pytest.importorskip("numba")
    monkeypatch.setattr(backend, "_form", request.param)
    return request.param


def out_of_memory(patch: pytest.MonkeyPatch, message: str = "[malloc] Unable to allocate 14495514624 bytes.") -> None:
    """Computing anything fails as it does where memory runs out."""

    def fail(*arrays: Any) -> None:
        raise RuntimeError(message)

    patch.setattr(memory, "evaluate", fail)


FIGURES = (
    "page.plot_curves",
    *(f"segmentation_report.plot_{name}" for name in ("case", "scores")),
    *(f"classification_report.plot_{name}" for name in ("activation", "confusion", "roc")),
    *(f"uncertainty_report.plot_{name}" for name in ("reliability", "risk_coverage", "uncertainty")),
)
Drawn = list[tuple[str, tuple[Any, ...]]]


def leave_out_figures(patch: pytest.MonkeyPatch) -> Drawn:
    """Reports draw nothing, which would take most of the time; what they ask for is added to the returned list."""
    drawn: Drawn = []

    def stand_in(name: str) -> Callable[..., str]:
        return lambda *arguments, **_: drawn.append((name, arguments)) or "data:image/png;base64,"  # type: ignore[func-returns-value]

    for place in FIGURES:
        patch.setattr(f"engine.reports.{place}", stand_in(place.partition(".")[2]))
    return drawn


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return leave_out_figures(monkeypatch)


@pytest.fixture(autouse=True)
def _other_tests_choose_their_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_form", backend._form)

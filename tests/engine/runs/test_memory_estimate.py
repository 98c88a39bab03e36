"""What cannot fit into memory is refused by the estimate, in one line, before it is allocated."""

from typing import Any

import mlx.core as mx
import pytest

from configs import Config
from engine.config import check_config
from engine.runs.memory_estimate import require_case_fits, require_prediction_fits, require_training_fits
from engine.train import require_network_fits
from ops import backend, memory
from studies.sweep.plan import make_plan


def config_of(**sections: Any) -> Config:
    data = {"root": "x", **sections.pop("data", {})}
    return check_config({"name": "a", "train": {"steps": 1}, "memory_limit_gb": 16, **sections, "data": data}, "a")


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_form", "onednn")


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"model": {"args": {"widths": [16384, 16384]}}}, "change model.args, which take 730.2 GB"),
        ({"model": {"args": {"convolutions": 64, "widths": [2048, 2048]}}}, "change model.args"),
        ({"data": {"patch_size_voxels": [4096] * 3}}, "change data.patch_size_voxels, train.batch_size or model.args"),
        ({"train": {"steps": 1, "batch_size": 2**16}}, "change data.patch_size_voxels, train.batch_size"),
        ({"train": {"steps": 1, "accumulate": 2**16}}, "train.accumulate or data.prefetch_batches"),
        (
            {"data": {"prefetch_batches": 1024, "patch_size_voxels": [128] * 3}},
            "train.accumulate or data.prefetch_batches",
        ),
        (
            {
                "task": "classification",
                "data": {"source": "classes", "clip": {"frames": 16384}},
                "model": {"name": "r3d_18"},
            },
            "change data.clip, train.batch_size or model.args",
        ),
    ],
)
def test_absurd_training_is_refused_before_a_weight_is_drawn(onednn: None, sections: Any, match: str) -> None:
    mx.reset_peak_memory()
    held = mx.get_active_memory()  # by other tests
    with pytest.raises(ValueError, match=match) as caught:
        require_network_fits(config_of(**sections))
    text = str(caught.value)
    assert text.startswith("training takes at least ")
    assert " GB of memory, and 16.0 GB is the limit (memory_limit_gb); " in text
    assert "\n" not in text
    assert mx.get_peak_memory() - held < 1 << 20


def test_the_estimate_is_arithmetic_and_the_machine_is_the_limit(monkeypatch: pytest.MonkeyPatch, onednn: None) -> None:
    config = config_of(
        memory_limit_gb=None,
        model={"args": {"widths": [8, 16]}},
        data={"patch_size_voxels": [64, 64, 64]},
        train={"steps": 1, "batch_size": 4, "precision": "float32"},
    )
    voxels = 64**3
    activations, classes, batches = 5 * 4 * voxels * 16, voxels * 3 * 4 * 6, (4 + 1 + 1) * voxels * 2 * 4
    needed = 16 * 1000 + 4 * (activations + classes + batches)
    monkeypatch.setattr(memory, "default_limit", lambda: (needed, "0.8 of the memory, 1 GB"))
    require_training_fits(config, 2, 3, 1000)
    monkeypatch.setattr(memory, "default_limit", lambda: (needed - 1, "0.8 of the memory, 1 GB"))
    with pytest.raises(ValueError, match=r"is the limit \(0\.8 of the memory, 1 GB\); change data\.patch_size"):
        require_training_fits(config, 2, 3, 1000)


def test_prediction_counts_what_the_form_that_runs_unfolds(monkeypatch: pytest.MonkeyPatch, onednn: None) -> None:
    config = config_of(
        model={"args": {"widths": [2, 4]}},
        data={"patch_size_voxels": [320, 320, 320]},
        train={"steps": 1, "precision": "float32"},
        evaluate={"window_batch": 1},
    )
    require_prediction_fits(config, 1, 2)  # 3.0 GB
    if memory.on_gpu():
        return
    monkeypatch.setattr(backend, "_form", "mlx")  # which unfolds 27 × 4 channels of 320³ voxels, 14.2 GB
    with pytest.raises(ValueError, match=r"^prediction takes at least 16\.8 GB .*change data\.patch_size_voxels"):
        require_prediction_fits(config, 1, 2)


@pytest.mark.parametrize(
    ("keys", "members", "match"),
    [
        ({"save_probabilities": True}, 1, "change evaluate.save_probabilities, which take 24.0 GB"),
        ({}, 5, "change data.spacing_mm or the number of members, which take 24.0 GB"),
    ],
)
def test_a_cases_volumes_are_bounded_by_its_header(keys: Any, members: int, match: str) -> None:
    large = ((1000, 1000, 1000),) * 2
    require_case_fits(config_of(), large, 6, 1)  # 4 GB: probabilities pass slab by slab
    with pytest.raises(ValueError, match=match):
        require_case_fits(config_of(evaluate=keys), large, 6, members)


def test_resampling_and_its_probabilities_count() -> None:
    config = config_of(data={"spacing_mm": [0.2, 0.2, 0.2]})
    with pytest.raises(
        ValueError,
        match="^prediction of its 100×200×200 voxels, 1000×1000×1000 once resampled, takes "
        r"at least 28\.0 GB of memory",
    ):
        require_case_fits(config, ((100, 200, 200), (1000, 1000, 1000)), 6, 1)
    config = config_of(data={"spacing_mm": [0.2, 0.2, 0.2], "crop_nonzero": True})
    require_case_fits(config, ((100, 200, 200), (1000, 1000, 1000)), 6, 1)  # what is left shows in the voxels alone


def test_a_sweep_names_the_cell() -> None:
    config = config_of(sweep={"grid": {"model.args.widths": [[8, 16], [16384, 16384]]}, "seeds": [0]})
    with pytest.raises(ValueError, match=r"^sweep: cell widths=16384\+16384: training takes at least 802\.6 GB"):
        make_plan(config)


@pytest.mark.parametrize(
    ("model", "size", "batch", "unfolded_mb", "peak_mb"),
    [
        ({"name": "cnn3d"}, (32, 32, 32), 2, 14, 39),
        ({"name": "resnet3d", "args": {"width": 16}}, (48, 48, 48), 2, 38, 70 - 8),
        ({"name": "resnet3d", "args": {"width": 16, "depth": 50}}, (48, 48, 48), 1, 19, 36 - 12),
        ({"name": "r3d_18"}, (8, 56, 56), 1, 43, 283 - 133),
        ({"name": "r2plus1d_18"}, (8, 56, 56), 1, 14, 194 - 125),
    ],
)
def test_what_is_unfolded_is_less_than_the_peak_that_was_measured(
    model: Any, size: tuple[int, int, int], batch: int, unfolded_mb: float, peak_mb: float
) -> None:
    """Peaks of predicting zeros on a CPU, ops=mlx, float32, mlx 0.32.4, less the weights."""
    args = config_of(task="classification", data={"source": "classes"}, model=model).model.args
    unfolded = 4 * batch * args.largest_unfolded(size) / 1e6
    assert unfolded == pytest.approx(unfolded_mb, abs=0.5)
    assert unfolded + 3 * 4 * batch * args.largest_activation(size) / 1e6 < peak_mb

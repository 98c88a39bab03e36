"""Classification from end to end: data, train.py, evaluate.py."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

import evaluate
import train
from data.synthetic.moving_shapes import DIRECTIONS, make_clip, write_moving_shapes
from engine.runs.run_folder import RunFolder
from tests.runs import Capture, evaluated, given_archive, read_metrics, read_rows, refused

pytestmark = pytest.mark.slow


def write_archive(path: Path, columns: int = 1) -> Path:
    """Volumes of 6³ whose class is whether their lower or upper half is brighter; a second label is random."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 24), ("val", 10), ("test", 6)):
        labels = rng.integers(0, 2, (count, columns))
        labels[:2, 0] = (0, 1)
        volumes = rng.normal(100, 20, (count, 6, 6, 6))
        for volume, label in zip(volumes, labels[:, 0], strict=True):
            volume[:, 3:] += 60 * label
            volume[:, :3] += 60 * (1 - label)
        arrays |= {f"{split}_images": volumes.clip(0, 255).astype(np.uint8), f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def write_config(folder: Path, root: Path, **more: Any) -> Path:
    tree = {
        "name": "tiny",
        "task": "classification",
        "ops": "mlx",
        "run": {"dir": str(folder / "runs")},
        "data": given_archive(root),
        "model": {"name": "cnn3d", "args": {"widths": [4, 8], "dropout": {"kind": "none"}}},
        "optim": {"learning_rate": 0.02},
        "train": {"steps": 30, "batch_size": 8, "log_every_steps": 5, "validate_every_steps": 15},
        "evaluate": {"bootstrap_samples": 100},
    }
    path = folder / "tiny.yaml"
    path.write_text(json.dumps({**tree, **more}))  # JSON is YAML
    return path


def run_train(config: Path, *overrides: str) -> int:
    return train.main(["--config", str(config), *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    config = write_config(folder, write_archive(folder / "set.npz"))
    extra = ("loss.class_weights=balanced", "loss.label_smoothing=0.05", "train.mixup_alpha=0.2")
    assert run_train(config, *extra) == 0
    return folder / "runs" / "tiny"


def test_training_validates_by_the_tasks_metrics(trained: Path) -> None:
    validations = RunFolder(trained).read_metrics("val")
    assert [line["step"] for line in validations] == [15, 30]
    assert validations[-1]["auc"] > 0.9
    assert {"accuracy", "balanced_accuracy", "f1", "log_loss", "auc.0", "f1.1"} <= set(validations[-1])
    assert (trained / "checkpoints" / "best").exists()


def test_evaluation_writes_metrics_cases_and_report(trained: Path, capsys: Capture) -> None:
    evaluated(trained, "--checkpoint", "last", "--split", "test")
    metrics = read_metrics(trained / "eval" / "test")
    assert (metrics["split"], metrics["num_cases"]) == ("test", 6)
    assert metrics["accuracy"] > 0.8
    assert metrics["auc"] > 0.9
    assert 0 <= metrics["balanced_accuracy"] <= 1
    assert metrics["checkpoint"]["step"] == 30
    assert metrics["baselines"] == {}  # no motion in volumes
    assert sum(map(sum, metrics["confusion"])) == 6
    rows = read_rows(trained / "eval" / "test")
    assert len(rows) == 6
    assert all(abs(float(row["p(0)"]) + float(row["p(1)"]) - 1) < 1e-4 for row in rows)
    assert np.mean([row["correct"] == "1" for row in rows]) == pytest.approx(metrics["accuracy"])
    report = (trained / "eval" / "test" / "report.html").read_text()
    assert report.count("<svg") == 0  # pictures are within the file
    assert "data:image/svg+xml" in report
    assert "Grad-CAM" in report
    out = capsys.readouterr().out
    assert "balanced_accuracy" in out
    assert str(trained / "eval" / "test" / "report.html") in out


def test_resumed_run_goes_on(trained: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, trained.parents[1] / "set.npz")
    assert run_train(config, "train.steps=4", "train.validate_every_steps=2") == 0
    assert run_train(config, "train.steps=4", "train.validate_every_steps=2", "--resume") == 0


@pytest.mark.usefixtures("no_figures")
def test_a_run_is_set_beside_another(trained: Path, capsys: Capture) -> None:
    said = refused(evaluate, capsys, "--run", trained, "--baseline", trained)
    assert "cases.csv is missing; first run python evaluate.py --run" in said
    evaluated(trained)
    evaluated(trained, "--baseline", str(trained))
    beside = read_metrics(trained / "eval" / "val")["baselines"]["tiny"]
    assert beside["accuracy"] == read_metrics(trained / "eval" / "val")["accuracy"]
    assert beside["difference"]["auc"]["value"] == pytest.approx(0, abs=1e-3)


def test_dry_run_shows_a_batch(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path, trained.parents[1] / "set.npz")
    assert run_train(config, "--dry-run") == 0
    assert (tmp_path / "runs" / "tiny" / "batch.png").stat().st_size > 1000
    assert "parameters" in capsys.readouterr().out


@pytest.mark.usefixtures("no_figures")
def test_labels_that_may_coincide(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "set.npz", columns=2)
    config = write_config(tmp_path, archive, loss={"name": "binary_cross_entropy"})
    assert run_train(config, "train.steps=20") == 0
    run = tmp_path / "runs" / "tiny"
    evaluated(run, "--checkpoint", "last")
    metrics = read_metrics(run / "eval" / "val")
    assert "confusion" not in metrics
    assert metrics["details"]["auc"]["per_class"]["0"]["value"] > 0.8  # the label that shows


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["checkpoint.metric=dice.mean"],
            "metric=dice.mean: validation reports accuracy, balanced_accuracy",
        ),
        (["loss.name=binary_cross_entropy"], "which exclude each other; use cross_entropy or focal"),
        (["loss.class_weights=[1,2,3]"], "loss.class_weights has 3 entries, but the data has 2 classes"),
    ],
)
def test_mistakes(trained: Path, tmp_path: Path, overrides: Sequence[str], message: str, capsys: Capture) -> None:
    config = write_config(tmp_path, trained.parents[1] / "set.npz")
    assert message in refused(train, capsys, "--config", config, *overrides)


@pytest.mark.usefixtures("no_figures")
def test_clips_and_the_single_frame_beside_them(tmp_path: Path, capsys: Capture) -> None:
    clips = write_moving_shapes(tmp_path / "clips", clips=4, frames=5)
    clip = {"frames": 4, "short_side_pixels": 24, "crop_pixels": [24, 24], "clips": 2}
    data = {"source": "classes", "root": str(clips), "clip": clip, "split": {"kind": "ratio", "ratio": [0.5, 0.5, 0]}}
    config = write_config(tmp_path, clips, data=data)
    for name, single in (("tiny_still", True), ("tiny", False)):
        more = (f"name={name}", f"data.clip.single_frame={single}", "train.steps=3", "train.validate_every_steps=3")
        assert run_train(config, *more) == 0
    runs = tmp_path / "runs"
    evaluated(runs / "tiny_still", "--checkpoint", "last")
    assert read_metrics(runs / "tiny_still" / "eval" / "val")["baselines"] == {}  # it sees no motion anyway
    evaluated(runs / "tiny", "--checkpoint", "last", "--baseline", runs / "tiny_still")
    metrics = read_metrics(runs / "tiny" / "eval" / "val")
    assert list(metrics["baselines"]) == ["tiny_still", "one frame"]
    assert metrics["num_cases"] == 8
    assert "accuracy minus that of tiny_still" in capsys.readouterr().out


def test_segments_of_videos(tmp_path: Path, capsys: Capture) -> None:
    names, segments = list(DIRECTIONS), {}
    for video in range(6):
        parts = [make_clip(np.random.default_rng([video, n]), DIRECTIONS[name], 8) for n, name in enumerate(names)]
        iio.imwrite(tmp_path / f"v{video}.mp4", np.concatenate(parts), plugin="pyav", codec="libx264", fps=8)
        segments |= {f"v{video},{n},0:0:{n + 1}": name for n, name in enumerate(names)}
    rows = [f"{segment},{name}" for segment, name in segments.items()]
    (tmp_path / "cases.csv").write_text("\n".join(["video,start,end,label", *rows]))
    (tmp_path / "new.csv").write_text("video,start,end\nv0,0.5,1.5\nv0,2,4\n")
    clip = {"frames": 4, "short_side_pixels": 16, "crop_pixels": [16, 16]}
    data = {"source": "csv", "root": str(tmp_path / "cases.csv"), "clip": clip, "columns": {"image": "{video}.mp4"}}
    settings = {"steps": 2, "batch_size": 8, "validate_every_steps": 2}
    assert run_train(write_config(tmp_path, tmp_path, data=data, train=settings), "data.split.folds=3") == 0
    run = RunFolder(tmp_path / "runs" / "tiny")
    splits = run.read_json("splits")
    assert len(splits["val"]) == 8
    assert not {case[:2] for case in splits["val"]} & {case[:2] for case in splits["train"]}  # of one video
    assert evaluate.main(["--run", str(run.path), "--images", str(tmp_path / "new.csv")]) == 0
    assert [row["case"] for row in read_rows(run.evaluation("images_new.csv"))] == ["v0_0.5-1.5", "v0_2-4"]


def test_labels_to_train_on(tmp_path: Path) -> None:
    """Labels that say the opposite train a network that is always wrong by the others."""
    write_archive(tmp_path / "set.npz")
    arrays = np.load(tmp_path / "set.npz")
    rows = ["image,label,weak,split"]
    for split in ("train", "val"):
        for number, (volume, (label,)) in enumerate(
            zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
        ):
            np.save(tmp_path / f"{split}{number}.npy", volume.transpose(2, 1, 0))
            rows.append(f"{split}{number}.npy,{label},{1 - label},{split}")
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    data = {**given_archive(tmp_path / "cases.csv"), "source": "csv", "train_labels": "weak"}
    assert run_train(write_config(tmp_path, tmp_path, data=data)) == 0
    run = tmp_path / "runs" / "tiny"
    for split in ("val", "train"):
        assert evaluate.main(["--run", str(run), "--split", split]) == 0
        assert read_metrics(RunFolder(run).evaluation(split))["accuracy"] <= 0.2

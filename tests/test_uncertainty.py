"""evaluate.py with --mc-dropout and with several runs, on untrained networks."""

import re
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import nibabel
import numpy as np
import pytest

import evaluate
from data.dataset import open_data
from data.synthetic.phantoms import write_phantoms
from engine.config import check_config
from engine.evaluation.members import sample_seed
from engine.runs.run_folder import RunFolder
from models import build_model
from models.layers.dropout import held_masks
from tests.runs import Capture, evaluated, given_archive, phantom_lists, read_metrics, read_rows, refused, untrained

MAPS = ("entropy", "mutual_information", "variance")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", cases=4, shape=(8, 8, 8)).parent


def make_run(folder: Path, tree: dict[str, Any], seed: int) -> RunFolder:
    """A run of an untrained network, at step 5."""
    head = {"name": f"seed{seed}", "ops": "mlx", "run": {"dir": str(folder)}, "train": {"steps": 5}}
    return untrained({**head, **tree}, seed)


def segmentation(root: Path, kind: str = "channel", **data: Any) -> dict[str, Any]:
    dropout = {"kind": kind, "rate": 0.5, "places": ["encoder", "bottleneck"]}
    return {
        "data": phantom_lists(root, **data),
        "model": {"args": {"widths": [4, 8], "norm": "batch", "dropout": dropout}},
        "evaluate": {"bootstrap_samples": 50},
    }


@pytest.fixture(scope="module")
def original(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs"), segmentation(phantoms), 0)


@pytest.fixture
def run(original: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(original.path, tmp_path / "runs" / "seed0", symlinks=True))


def volume(folder: Path, name: str, case: str = "phantom_002") -> np.ndarray:
    return np.asarray(nibabel.load(folder / name / f"{case}.nii.gz").dataobj)


def test_draws_of_a_volume_of_one_window_are_forward_passes(run: RunFolder, phantoms: Path, tmp_path: Path) -> None:
    window = "evaluate.window_size_voxels=[12,12,12]"
    evaluated(run.path, "--mc-dropout", 3, "evaluate.save_probabilities=true", window)
    output = run.evaluation("val_mc_dropout")
    config = check_config(run.read_config_tree(), "test")
    data = open_data(config, statistics=run.read_json("statistics"), splits=run.read_json("splits"))
    prepared = data.load("phantom_002")
    model = build_model(config.model.name, config.model.args, 1, 4)
    model.load_weights(str(run.checkpoint("best") / "model.safetensors"))
    model.eval()
    margins = [((12 - size) // 2, 12 - size - (12 - size) // 2) for size in prepared.grid.shape]
    x = mx.array(np.pad(prepared.volume, [*margins, (0, 0)]))[None]
    inside = tuple(slice(before, 12 - after) for before, after in margins)
    samples = []
    for number in range(3):
        with held_masks(model, sample_seed(0, "phantom_002", number)):
            samples.append(np.array(mx.softmax(model(x), axis=-1))[0][inside])
    mean = np.mean(samples, axis=0)
    h = -(mean * np.log(mean)).sum(-1)
    h_each = np.mean([-(p * np.log(p)).sum(-1) for p in samples], axis=0)
    expected = {"probabilities": mean, "entropy": h, "mutual_information": h - h_each}
    expected |= {"variance": np.var(samples, axis=0).mean(-1), "predictions": mean.argmax(-1)}
    image = nibabel.load(phantoms / "imagesTr" / "phantom_002.nii.gz")
    for name, values in expected.items():
        written = nibabel.load(output / name / "phantom_002.nii.gz")
        np.testing.assert_array_equal(written.affine, image.affine)
        on_file = data.restore_maps(prepared, values[..., None].astype(np.float32)) if values.ndim == 3 else values
        from_dhw = prepared.source.orientation.from_dhw(on_file)
        np.testing.assert_allclose(np.asarray(written.dataobj), np.squeeze(from_dhw), atol=2e-5, err_msg=name)
    assert expected["mutual_information"].max() > 0.01


def test_the_same_seed_gives_the_same_files_for_any_cases(run: RunFolder, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("first", "one", "other")]
    evaluated(run.path, "--mc-dropout", 2, "--output", outputs[0])
    evaluated(run.path, "--mc-dropout", 2, "--output", outputs[1], "evaluate.cases=1")
    evaluated(run.path, "--mc-dropout", 2, "--output", outputs[2], "evaluate.seed=1")
    for name in ("predictions", *MAPS):
        np.testing.assert_array_equal(volume(outputs[0], name), volume(outputs[1], name))
    assert np.abs(volume(outputs[0], "entropy") - volume(outputs[2], "entropy")).max() > 0.01


def test_a_run_tells_calibration_and_uncertainty_and_stores_its_temperature(run: RunFolder, capsys: Capture) -> None:
    assert "holds none for this kind" in refused(evaluate, capsys, "--run", run.path, "evaluate.temperature=stored")
    evaluated(run.path)
    evaluated(run.path, "--mc-dropout", 2)
    plain, drawn = (read_metrics(run.evaluation(name)) for name in ("val", "val_mc_dropout"))
    assert plain["prediction"] == {"kind": "plain"}
    assert drawn["prediction"]["samples"] == 2
    layer = ["encoder.0.blocks.0.drop", "channel", 0.5, "encoder", "after_activation"]
    assert drawn["prediction"]["dropout"][0] == layer
    assert list(plain["uncertainty"]["error_auroc"]) == ["entropy"]
    assert list(drawn["uncertainty"]["error_auroc"]) == list(MAPS)
    for metrics in (plain, drawn):
        assert 0 < metrics["calibration"]["ece"] < 1
        assert len(metrics["calibration"]["temperature_scaling"]["of_halves"]) == 2
    printed = capsys.readouterr().out
    assert re.search(rf"^as predicted +{drawn['calibration']['ece']:.4f} ", printed, re.MULTILINE)
    report = (run.evaluation("val_mc_dropout") / "report.html").read_text()
    assert "<h2>Calibration</h2>" in report
    assert "<h2>Uncertainty maps</h2>" in report
    rows = read_rows(run.evaluation("val_mc_dropout"), "uncertainty.csv")
    assert [row["case"] for row in rows] == ["phantom_002", "phantom_003"]
    stored = run.read_json("temperature")
    assert stored["temperature"] == plain["calibration"]["fitted_temperature"] != 1
    assert stored["fitted_on"]["num_cases"] == 2
    assert (stored["fitted_on"]["step"], stored["fitted_on"]["weights"]) == (5, "raw")
    assert stored["mc_dropout"]["fitted_on"]["samples"] == 2
    evaluated(run.path, "evaluate.temperature=stored", "--split", "val")
    after = read_metrics(run.evaluation("val"))
    assert after["dice"] == plain["dice"]
    assert after["calibration"]["applied_temperature"] == stored["temperature"]
    assert after["calibration"]["nll"] < plain["calibration"]["nll"]
    evaluated(run.path, "--split", "train", "evaluate.cases=1")
    assert run.read_json("temperature") == stored  # by neither


@pytest.mark.parametrize("key", ["images", "labels"])
def test_a_temperature_of_other_data_is_not_stored(run: RunFolder, tmp_path: Path, key: str) -> None:
    folder = {"images": "imagesTr", "labels": "labelsTr"}[key]
    tree = run.read_config_tree()
    tree["data"] |= {"source": "folders", "images": "imagesTr", "labels": "labelsTr"}
    root = shutil.copytree(tree["data"]["root"], tmp_path / "copy")
    tree["data"]["root"] = str(root)
    run.write_config(check_config(tree, "test"))
    shutil.copytree(root / folder, root / "others")
    evaluated(run.path, f"data.{key}=others")
    assert not (run.path / "temperature.json").exists()
    evaluated(run.path)
    assert (run.path / "temperature.json").exists()


def test_unlabelled_images_have_maps(run: RunFolder, phantoms: Path) -> None:
    evaluated(run.path, "--images", phantoms / "imagesTr", "--mc-dropout", 2)
    output = run.evaluation("images_imagesTr_mc_dropout")
    assert len(list((output / "mutual_information").iterdir())) == 4
    assert "calibration" not in read_metrics(output)
    assert not (run.path / "temperature.json").exists()


def test_an_ensemble_of_a_run_with_itself_is_that_run(run: RunFolder, tmp_path: Path) -> None:
    evaluated(run.path, "evaluate.save_probabilities=true")
    evaluated(run.path, run.path, "evaluate.save_probabilities=true", "--output", tmp_path / "out")
    one, two = run.evaluation("val"), tmp_path / "out"
    np.testing.assert_allclose(volume(two, "probabilities"), volume(one, "probabilities"), atol=1e-6)
    assert volume(two, "mutual_information").max() < 1e-6
    first, second = read_metrics(one), read_metrics(two)
    assert second["prediction"] == {"kind": "ensemble", "members": [str(run.path)] * 2}
    assert second["dice"] == pytest.approx(first["dice"], nan_ok=True)
    assert second["calibration"]["nll"] == pytest.approx(first["calibration"]["nll"], rel=1e-4)


def test_an_ensemble_is_the_mean_of_its_members_each_prepared_its_own_way(phantoms: Path, tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "runs", segmentation(phantoms, normalisation=kind), seed)
        for seed, kind in enumerate(("zscore", "percentile"))
    ]
    for member in runs:
        evaluated(member.path, "evaluate.save_probabilities=true")
    evaluated(*(member.path for member in runs), "evaluate.save_probabilities=true")
    output = runs[0].path / "eval" / "val_ensemble"
    alone = [volume(member.evaluation("val"), "probabilities") for member in runs]
    np.testing.assert_allclose(volume(output, "probabilities"), np.mean(alone, axis=0), atol=1e-6)
    np.testing.assert_allclose(volume(output, "variance"), np.var(alone, axis=0).mean(-1), atol=1e-6)
    assert not (runs[0].path / "temperature.json").read_text().count("ensemble")


def test_what_any_member_was_trained_on_is_scored_apart(run: RunFolder, phantoms: Path, tmp_path: Path) -> None:
    split = {"kind": "lists", "train": ["phantom_000", "phantom_003"], "val": ["phantom_001"]}
    other = make_run(tmp_path / "runs", segmentation(phantoms, split=split), 3)
    for members, num_seen, parts in (
        ([run], 2, {"train": 2, "val": 2}),
        ([run, run], 2, {"train": 2, "val": 2}),  # of the first member alone
        ([run, other], 3, {"train": 3, "val": 1}),
    ):
        apart = ("--split", "all", "--output", tmp_path / "o", "evaluate.calibration=false")
        evaluated(*(member.path for member in members), *apart)
        metrics = read_metrics(tmp_path / "o")
        assert metrics["training_cases"] == num_seen
        assert {name: part["num_cases"] for name, part in metrics["splits"].items()} == parts


def test_mistakes_are_told(run: RunFolder, phantoms: Path, tmp_path: Path, capsys: Capture) -> None:
    without = make_run(tmp_path / "runs", segmentation(phantoms, kind="none"), 1)
    finer = make_run(tmp_path / "runs", segmentation(phantoms, spacing_mm=[2.0, 2.0, 2.0]), 2)
    split = {"kind": "lists", "train": ["phantom_000", "phantom_003"], "val": ["phantom_001"]}
    other_fold = make_run(tmp_path / "runs", segmentation(phantoms, split=split), 3)
    drawn, draws = ["--mc-dropout", 2], "needs 2 to 1,000 draws and exactly one run"
    assert "seed1 has no dropout layer with a rate above 0" in refused(evaluate, capsys, "--run", without.path, *drawn)
    assert draws in refused(evaluate, capsys, "--run", run.path, "--mc-dropout", 1)
    assert draws in refused(evaluate, capsys, "--run", run.path, without.path, *drawn)
    assert "data.spacing_mm is (2.0, 2.0, 2.0)" in refused(evaluate, capsys, "--run", run.path, finer.path)
    fold = refused(evaluate, capsys, "--run", run.path, other_fold.path)
    assert "was trained on 1 of the 2 cases, phantom_003" in fold
    assert "not a run" in refused(evaluate, capsys, "--run", run.path, "nowhere")
    stored = refused(evaluate, capsys, "--run", run.path, without.path, "evaluate.temperature=stored")
    assert "temperature.json is of one run; give the number" in stored


def classification(root: Path, kind: str) -> dict[str, Any]:
    dropout = {"kind": kind, "rate": 0.5, "places": ["body", "head"]}
    return {
        "task": "classification",
        "data": given_archive(root),
        "model": {"name": "cnn3d", "args": {"widths": [4, 8], "dropout": dropout}},
        "evaluate": {"bootstrap_samples": 50},
    }


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 8), ("val", 12), ("test", 4)):
        labels = np.arange(count)[:, None] % 2
        images = rng.uniform(0, 200, (count, 6, 6, 6)) + 40 * labels[..., None, None]
        arrays[f"{split}_images"] = images.astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


@pytest.mark.parametrize("kind", ["element", "channel"])
def test_classified_cases_have_their_numbers(archive: Path, tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "runs", classification(archive, kind), 0)
    evaluated(run.path, "--mc-dropout", 4)
    output = run.evaluation("val_mc_dropout")
    rows = read_rows(output)
    assert len(rows) == 12
    assert all(0 < float(row["mutual_information"]) < float(row["entropy"]) <= np.log(2) + 1e-6 for row in rows)
    metrics = read_metrics(output)
    assert metrics["calibration"]["nll"] == pytest.approx(metrics["log_loss"])
    assert list(metrics["uncertainty"]["error_auroc"]) == list(MAPS)
    assert metrics["uncertainty"]["error_rate"] == pytest.approx(1 - metrics["accuracy"])
    again = tmp_path / "again"
    evaluated(run.path, "--mc-dropout", 4, "--output", again)
    assert (again / "cases.csv").read_text() == (output / "cases.csv").read_text()


def test_classifiers_make_an_ensemble(archive: Path, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", classification(archive, "none"), seed) for seed in (0, 1)]
    columns = []
    for name, paths in (("a", runs[:1]), ("b", runs[1:]), ("both", runs), ("same", [runs[0]] * 2)):
        evaluated(*(member.path for member in paths), "--output", tmp_path / name)
        columns.append([float(row["p(1)"]) for row in read_rows(tmp_path / name)])
    np.testing.assert_allclose(columns[2], np.mean(columns[:2], axis=0), atol=1e-5)
    np.testing.assert_allclose(columns[3], columns[0], atol=1e-5)
    rows = read_rows(tmp_path / "same")
    assert max(float(row["mutual_information"]) for row in rows) < 1e-6


def test_words_after_the_runs_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rate=0.2").mkdir()
    arguments = evaluate.parse_arguments(["--run", "a", "rate=0.2", "x/kind=none/seed0", "evaluate.overlap=0.1"])
    assert arguments.run == ["a", "rate=0.2", "x/kind=none/seed0"]
    assert arguments.overrides == ["evaluate.overlap=0.1"]
    arguments = evaluate.parse_arguments(["evaluate.overlap=0.1", "--run", "a", "--split", "test", "data.root=b"])
    assert (arguments.run, arguments.overrides) == (["a"], ["evaluate.overlap=0.1", "data.root=b"])

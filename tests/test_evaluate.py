import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

import evaluate
from configs import Config
from data.dataset import open_data
from data.synthetic.phantoms import write_phantoms
from engine.config import check_config
from engine.runs.run_config import read_config
from engine.runs.run_folder import RunFolder
from tests.conftest import out_of_memory
from tests.runs import Capture, evaluated, phantom_lists, read_metrics, read_rows, refused, save_drawn, untrained

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]


@pytest.fixture(scope="module")
def original(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An untrained run with cases 0 and 1 for training, 2 and 3 for validation, raw and averaged weights."""
    folder = untrained(
        {
            "name": "small",
            "run": {"dir": str(tmp_path_factory.mktemp("runs"))},
            "data": phantom_lists(phantoms),
            "model": {"name": "unet3d", "args": {"widths": [2, 4], "norm": "batch"}},
            "train": {"steps": 1, "batch_size": 1},
            "evaluate": {"bootstrap_samples": 50, "overlap": 0.0},
        }
    )
    for step in (3, 7):
        save_drawn(folder, seed=step, step=step, best=step == 3, averaged=True)
    return folder


@pytest.fixture
def run(original: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(original.path, tmp_path / "runs" / "small", symlinks=True))


def load_config(run: RunFolder) -> Config:
    return check_config(run.read_config_tree(), "test")


def test_evaluates_the_validation_split(run: RunFolder, phantoms: Path, capsys: Capture) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    evaluated(run.path)
    assert {path: path.read_bytes() for path in before} == before
    output = run.evaluation("val")
    metrics = read_metrics(output)
    assert metrics["split"] == "val"
    assert metrics["num_cases"] == 2
    assert metrics["checkpoint"]["name"] == "last"  # no case has chosen it
    assert metrics["checkpoint"]["step"] == 7
    assert metrics["training_cases"] == 0
    assert not {"optimistic", "splits"} & metrics.keys()
    assert metrics["checkpoint"]["weights"] == "ema"
    assert set(metrics["dice"]) == {"nucleus", "crescent", "vessel", "mean"}
    assert {"hd95_mm", "nsd", "iou", "volume_error_ml"} <= set(metrics)
    assert len(read_rows(output)) == 2 * 3
    printed = capsys.readouterr().out
    assert re.search(rf"^mean +{metrics['dice']['mean']:.4f} ", printed, re.MULTILINE)
    assert f"report: {output / 'report.html'}" in printed
    dice = []
    for case in ("phantom_002", "phantom_003"):
        written = nibabel.load(output / "predictions" / f"{case}.nii.gz")
        image = nibabel.load(phantoms / "imagesTr" / f"{case}.nii.gz")
        reference = np.asarray(nibabel.load(phantoms / "labelsTr" / f"{case}.nii.gz").dataobj)
        np.testing.assert_array_equal(written.affine, image.affine)
        assert written.header["sform_code"] == image.header["sform_code"]
        assert written.get_data_dtype() == np.uint8
        assert written.dataobj.slope == 1
        found = np.asarray(written.dataobj)
        pairs = [(found == value, reference == value) for value in (1, 2, 3)]
        dice.append([2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) for ours, theirs in pairs])
    expected = metrics["dice"]
    np.testing.assert_allclose(np.mean(dice, axis=0), [expected[n] for n in ("nucleus", "crescent", "vessel")])


def test_labels_of_other_data_are_read_as_those_trained_on(run: RunFolder) -> None:
    def volumes(*overrides: str) -> dict[str, float]:
        quick = ["evaluate.save_predictions=false", "evaluate.cases=1"]
        evaluated(run.path, *quick, *overrides)
        rows = read_rows(run.evaluation("val"))
        return {row["class"]: float(row["reference_volume_ml"]) for row in rows}

    before = volumes()
    names = "data.class_names=[background, nucleus, crescent, vessel]"
    after = volumes(names, "data.label_map={2: 1}")
    assert before["crescent"] > 0
    assert after["nucleus"] == pytest.approx(before["nucleus"] + before["crescent"])
    assert (after["crescent"], after["vessel"]) == (0, before["vessel"])
    volumes("evaluate.cases=null", names, "data.label_map={2: 1}")
    assert not run.has_json("temperature")  # it would be of other labels than those trained on
    volumes("evaluate.cases=null")
    assert run.has_json("temperature")


def test_resampled_runs_are_scored_on_the_source_grid(run: RunFolder, phantoms: Path) -> None:
    tree = run.read_config_tree()
    tree["data"]["spacing_mm"] = [9.0, 8.0, 7.0]
    run.write_config(check_config(tree, "test"))
    evaluated(run.path, "evaluate.save_probabilities=true")
    written = nibabel.load(run.evaluation("val") / "predictions" / "phantom_002.nii.gz")
    probabilities = nibabel.load(run.evaluation("val") / "probabilities" / "phantom_002.nii.gz")
    assert written.shape == nibabel.load(phantoms / "labelsTr" / "phantom_002.nii.gz").shape
    values = np.asarray(probabilities.dataobj)
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(values.argmax(-1), np.asarray(written.dataobj))


@pytest.mark.parametrize(
    ("arguments", "step", "weights"),
    [(["--checkpoint", "best"], 3, "ema"), (["evaluate.weights=raw"], 7, "raw"), (["--checkpoint", "PATH"], 7, "ema")],
)
def test_says_which_checkpoint_and_weights(run: RunFolder, arguments: list[str], step: int, weights: str) -> None:
    arguments = [a.replace("PATH", str(run.checkpoints / "7")) for a in arguments]
    evaluated(run.path, *arguments, "evaluate.save_predictions=false")
    checkpoint = read_metrics(run.evaluation("val"))["checkpoint"]
    assert (checkpoint["step"], checkpoint["weights"]) == (step, weights)
    assert not (run.evaluation("val") / "predictions").exists()


def test_all_cases_of_another_folder(run: RunFolder, tmp_path: Path) -> None:
    elsewhere = write_phantoms(tmp_path / "elsewhere", cases=3, seed=5, shape=(10, 12, 12)).parent
    facts = json.loads((elsewhere / "dataset.json").read_text())
    unlabelled = facts["training"].pop()
    facts["test"] = [unlabelled["image"]]
    (elsewhere / "dataset.json").write_text(json.dumps(facts))
    output = tmp_path / "out"
    evaluated(run.path, "--split", "all", "--output", output, f"data.root={elsewhere}")
    assert read_metrics(output)["num_cases"] == 2
    assert not {"training_cases", "splits"} & read_metrics(output).keys()  # other cases, of the same names
    assert len(list((output / "predictions").iterdir())) == 3


def test_best_is_optimistic_on_the_cases_that_chose_it(run: RunFolder, capsys: Capture) -> None:
    for step, value in ((2, 0.1), (3, 0.5), (6, 0.25)):
        run.append_metrics({"step": step, "split": "val", "dice.mean": value})
    for split, is_optimistic in (("val", True), ("all", True), ("train", False)):
        output = run.path / "eval" / split
        evaluated(run.path, "--checkpoint", "best", "--split", split)
        sentence = "a dice.mean of best 0.5000 at step 3, last 0.2500 at step 7, on the network's grid"
        assert (sentence in capsys.readouterr().out) == is_optimistic
        assert (f"{sentence} and".replace("'", "&#x27;") in (output / "report.html").read_text()) == is_optimistic
        expected = {"best": {"step": 3, "value": 0.5}, "last": {"step": 7, "value": 0.25}}
        assert read_metrics(output).get("optimistic") == (
            {"metric": "dice.mean", **expected} if is_optimistic else None
        )


@pytest.mark.parametrize("is_moved", [False, True])
def test_all_cases_are_scored_apart_by_split(
    run: RunFolder, phantoms: Path, tmp_path: Path, capsys: Capture, is_moved: bool
) -> None:
    root = shutil.copytree(phantoms, tmp_path / "moved") if is_moved else phantoms
    run.write_json("environment", {"data_fingerprint": open_data(load_config(run)).fingerprint})
    arguments = [run.path, "evaluate.calibration=false", f"data.root={root}"]
    evaluated(*arguments, "--split", "all")
    printed, metrics = capsys.readouterr().out, read_metrics(run.evaluation("all"))
    assert (metrics["num_cases"], metrics["training_cases"]) == (4, 2)
    assert {name: part["num_cases"] for name, part in metrics["splits"].items()} == {"train": 2, "val": 2}
    apart = " ".join(f"{n}, 2 cases: dice {p['dice']['mean']:.4f};" for n, p in metrics["splits"].items())
    sentences = ["2 of these cases were trained on: scores that include them are optimistic.", f"Apart: {apart[:-1]}."]
    for text in (printed, (run.evaluation("all") / "report.html").read_text()):
        assert all(sentence in text for sentence in sentences)
    evaluated(*arguments)
    assert read_metrics(run.evaluation("val"))["dice"] == metrics["splits"]["val"]["dice"]


def test_predicts_a_folder_of_images(run: RunFolder, phantoms: Path) -> None:
    evaluated(run.path, "--images", str(phantoms / "imagesTr"))
    output = run.evaluation("images_imagesTr")
    assert len(list((output / "predictions").iterdir())) == 4
    assert read_metrics(output)["num_cases"] == 0
    rows = read_rows(output)
    assert len(rows) == 4 * 3
    volume = nibabel.load(output / "predictions" / "phantom_000.nii.gz")
    expected = (np.asarray(volume.dataobj) == 1).sum() * np.prod(volume.header.get_zooms()) / 1000
    assert float(rows[0]["volume_ml"]) == pytest.approx(expected, rel=1e-4)


def test_a_bad_case_is_reported_and_the_others_evaluated(
    run: RunFolder, phantoms: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy = shutil.copytree(phantoms, tmp_path / "copy")
    bad = copy / "imagesTr" / "phantom_002.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-200])
    assert evaluate.main(["--run", str(run.path), f"data.root={copy}"]) == 1
    metrics = read_metrics(run.evaluation("val"))
    assert metrics["num_cases"] == 1
    assert [failure["case"] for failure in metrics["failed"]] == ["phantom_002"]
    assert metrics["failed"][0]["file"] == str(bad)
    assert f"not evaluated: phantom_002: {bad}: " in capsys.readouterr().out


def test_what_training_skipped_stays_skipped(run: RunFolder) -> None:
    run.write_json("skipped", [{"case": "phantom_001", "file": "x", "reason": "y"}])
    evaluated(run.path, "--split", "all")
    assert read_metrics(run.evaluation("all"))["num_cases"] == 3
    assert read_metrics(run.evaluation("all"))["failed"] == []


def test_mistakes_are_told_in_one_message(run: RunFolder, capsys: Capture) -> None:
    here = ["--run", str(run.path)]
    assert "not a run" in refused(evaluate, capsys, "--run", "nowhere")
    assert "there are: 3, 7, best, last" in refused(evaluate, capsys, *here, "--checkpoint", "12")
    assert "data.root=nowhere: no such file or folder" in refused(evaluate, capsys, *here, "data.root=nowhere")
    assert "nowhere: no such file or folder" in refused(evaluate, capsys, *here, "--images", "nowhere")
    assert "has no test cases" in refused(evaluate, capsys, *here, "--split", "test")
    assert "did you mean" in refused(evaluate, capsys, *here, "evaluate.overlapp=0.1")
    settled = refused(evaluate, capsys, *here, "loss.name=dice")
    assert "loss.name=dice: loss.name was fixed when" in settled
    assert "keys that may be set here are ops, threads, memory_limit_gb, data.source, data.root, " in settled
    assert "run.dir was fixed when" in refused(evaluate, capsys, *here, "run.dir=elsewhere")


def test_what_only_the_machine_decides_may_be_set(run: RunFolder) -> None:
    found = read_config(run, ["train.compile=never", "data.workers=3", "data.cache={memory_gb: 1}"])
    assert (found.train.compile, found.data.workers, found.data.cache.memory_gb) == ("never", 3, 1)


def test_help_is_fast_and_loads_no_mlx() -> None:
    code = "import sys, evaluate\ntry: evaluate.main(['--help'])\nexcept SystemExit: print('mlx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--checkpoint last|best|PATH" in done.stdout
    assert done.stdout.endswith("False\n")


def test_running_out_of_memory_ends_it_and_is_no_bad_case(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out_of_memory(monkeypatch)
    assert evaluate.main(["--run", str(run.path), "memory_limit_gb=2"]) == 1
    said = capsys.readouterr().err
    windows = "(2, 8, 8, 8, 1) (N, D, H, W, C)"
    assert said.startswith(f"evaluate.py: out of memory in prediction of windows {windows}: [malloc] Unable")
    assert "or evaluate.window_batch; a lower memory_limit_gb makes MLX queue less at a time" in said
    assert "Traceback" not in said
    assert not (run.evaluation("val") / "metrics.json").exists()

"""The run's folder and its files."""

import json

import pytest

from engine.config import load_config
from engine.runs.run_folder import RunFolder, without_nan
from tests.engine.doubles import tiny_config


def test_a_run_is_created_once_and_its_config_loads_again(tmp_path) -> None:
    config = tiny_config(tmp_path)
    run = RunFolder.create(config)
    assert run.path == tmp_path / "tiny"
    assert load_config(RunFolder.open(run.path).config_path) == config
    with pytest.raises(ValueError, match=r"this run exists already; continue it with --resume, or choose another"):
        RunFolder.create(config)


def test_a_folder_with_a_picture_alone_is_no_run(tmp_path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "batch.png").touch()
    assert RunFolder.create(tiny_config(tmp_path)).exists()


def test_opening_what_is_no_run(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"not a run: expected a folder with a config\.yaml"):
        RunFolder.open(tmp_path)


def test_a_sweep_is_no_run_and_says_how_it_is_read(tmp_path) -> None:
    sweep = RunFolder(tmp_path)
    sweep.write_config(tiny_config(tmp_path))
    sweep.write_json("sweep", {"runs": [{"folder": "a/seed0"}, {"folder": "b/seed0"}]})
    with pytest.raises(ValueError, match=r"this is a sweep, not a run; compare its cells with .* --compare .*a/seed0"):
        RunFolder.open(tmp_path)
    RunFolder.create(tiny_config(tmp_path / "b").model_copy(update={"name": "seed0"}))
    with pytest.raises(ValueError, match=r"or give one of its runs, such as .*b/seed0"):
        RunFolder.open(tmp_path)


def test_json_holds_null_never_nan(tmp_path) -> None:
    run = RunFolder(tmp_path)
    run.write_json("facts", {"a": float("nan"), "b": [1.5, float("-inf")], "c": ("x", None)})
    assert json.loads((tmp_path / "facts.json").read_text()) == {"a": None, "b": [1.5, None], "c": ["x", None]}
    assert run.read_json("facts")["b"] == [1.5, None]
    assert without_nan({1: float("inf")}) == {"1": None}


def test_missing_and_broken_json_are_named(tmp_path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"splits\.json: missing; was this run written by train\.py"):
        run.read_json("splits")
    (tmp_path / "splits.json").write_text("{")
    with pytest.raises(ValueError, match=r"splits\.json: not valid JSON"):
        run.read_json("splits")
    for text, problem in (("[]", "Input should be a valid dictionary"), ('{"class_names": []}', "class_names: List")):
        (tmp_path / "statistics.json").write_text(text)
        with pytest.raises(ValueError, match=rf"statistics\.json: {problem}.*; restore the file as train\.py wrote it"):
            run.read_json("statistics")


def test_metrics_are_trimmed_to_the_checkpoint(tmp_path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "split": "train", "loss": 0.1 * step})
        run.append_metrics({"step": step, "split": "val", "dice.mean": float("nan")})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 4, "spl')  # the process was killed here
    assert len(run.read_metrics()) == 6
    run.trim_metrics(step=2, validated_step=1)
    assert [(line["step"], line["split"]) for line in run.read_metrics()] == [(1, "train"), (1, "val"), (2, "train")]
    assert run.read_metrics("val") == [{"step": 1, "split": "val", "dice.mean": None}]


def test_checkpoints_by_name_step_and_path(tmp_path) -> None:
    run = RunFolder(tmp_path)
    folder = run.checkpoints / "12"
    folder.mkdir(parents=True)
    (folder / "state.json").touch()
    (run.checkpoints / "last").symlink_to("12")
    assert run.checkpoint("last").resolve() == folder.resolve()
    assert run.checkpoint("12") == folder
    assert run.checkpoint(str(folder)) == folder
    with pytest.raises(ValueError, match=r"checkpoint 'best': no such checkpoint in .*; there are: 12, last"):
        run.checkpoint("best")

"""Runs whose files, data or cache somebody changed, deleted or may not write: a line names the file and the fix."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import engine.train
import evaluate
import train
from data.synthetic.phantoms import write_phantoms
from engine.config import load_config
from engine.runs.run_folder import RunFolder
from engine.training.milestones import Hooks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A folder with phantoms, a config, and a run of it at step 4 of 4; labels are stored so that sizes stay."""
    folder = tmp_path_factory.mktemp("stopped")
    write_phantoms(folder / "data", 5, seed=0, shape=(24, 24, 24))
    for path in (folder / "data" / "labelsTr").iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    (folder / "tiny.yaml").write_text("""
name: tiny
ops: mlx
data: {spacing_mm: [4, 4, 4], patch_size_voxels: [8, 8, 8]}
model: {args: {widths: [2, 4], convolutions: 1}}
train: {steps: 4, log_every_steps: 1, validate_every_steps: 2}
checkpoint: {every_steps: 2}
""")
    assert _train(folder) == 0
    return folder


def _train(folder: Path, *arguments: str) -> int:
    places = [f"run.dir={folder}", f"data.root={folder / 'data'}", f"data.cache.folder={folder / 'cache'}"]
    return train.main(["--config", str(folder / "tiny.yaml"), *places, *arguments])


@pytest.fixture
def copy(stopped, tmp_path) -> Path:
    """All of it in another place, with other times."""
    shutil.copytree(stopped, tmp_path / "copy", symlinks=True, copy_function=shutil.copy)
    return tmp_path / "copy"


def _edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        path = run / name
        path.write_text(change(path.read_text()))

    return edit


def _edit_json(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit_text(text: str) -> str:
        value = json.loads(text)
        changed = change(value)
        return json.dumps(value if changed is None else changed)

    return _edit(name, edit_text)


STATE = "checkpoints/4/state.json"
EDITS = {
    "config is no YAML": (_edit("config.yaml", lambda text: text + "\n}{"), "config.yaml"),
    "config is empty": (_edit("config.yaml", lambda text: ""), "config.yaml"),
    "config is a list": (_edit("config.yaml", lambda text: "[1]"), "config.yaml"),
    "config is no text": (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"), "config.yaml"),
    "config's data is a word": (_edit("config.yaml", lambda text: "data: 1"), "config.yaml"),
    "splits is a list": (_edit_json("splits.json", lambda value: [1]), "splits.json"),
    "splits' train is a word": (_edit_json("splits.json", lambda value: {**value, "train": "a"}), "splits.json"),
    "splits' train is missing": (_edit_json("splits.json", lambda value: {"val": []}), "splits.json"),
    "splits is cut": (_edit("splits.json", lambda text: text[:20]), "splits.json"),
    "splits names a case twice": (
        _edit_json("splits.json", lambda value: {**value, "val": value["train"][:1]}),
        "splits.json",
    ),
    "splits is no text": (lambda run: (run / "splits.json").write_bytes(b"\xff\xfe\x00"), "splits.json"),
    "statistics is empty": (_edit("statistics.json", lambda text: "{}"), "statistics.json"),
    "statistics' class names are a number": (
        _edit_json("statistics.json", lambda value: {**value, "class_names": 3}),
        "statistics.json",
    ),
    "statistics' channels are a word": (
        _edit_json("statistics.json", lambda value: {**value, "file_channels": "a"}),
        "statistics.json",
    ),
    "statistics without normalisation": (
        _edit_json("statistics.json", lambda value: value.pop("normalisation") and value),
        "statistics.json",
    ),
    "statistics without file_channels": (
        _edit_json("statistics.json", lambda value: value.pop("file_channels") and value),
        "statistics.json",
    ),
    "environment is a list": (_edit("environment.json", lambda text: "[]"), "environment.json"),
    "environment's resumed is a number": (
        _edit_json("environment.json", lambda value: {**value, "resumed": 1}),
        "environment.json",
    ),
    "files is a list": (_edit("files.json", lambda text: "[]"), "files.json"),
    "files' entries are numbers": (_edit_json("files.json", lambda value: dict.fromkeys(value, 1)), "files.json"),
    "metrics line is a number": (_edit("metrics.jsonl", lambda text: "1\n" + text), "metrics.jsonl"),
    "metrics line has no step": (_edit("metrics.jsonl", lambda text: '{"split": "train"}\n' + text), "metrics.jsonl"),
    "metrics line has another split": (
        _edit("metrics.jsonl", lambda text: '{"split": "x", "step": 1}\n' + text),
        "metrics.jsonl",
    ),
    "metrics line's step is a word": (
        _edit("metrics.jsonl", lambda text: '{"split": "train", "step": "1"}\n' + text),
        "metrics.jsonl",
    ),
    "metrics line is no text": (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\x00\n"), "metrics.jsonl"),
    "state is a list": (_edit(STATE, lambda text: "[]"), "state.json"),
    "state without position": (_edit_json(STATE, lambda value: value.pop("position") and value), "state.json"),
    "state with a position's key too many": (
        _edit_json(STATE, lambda value: {**value, "position": {**value["position"], "x": 1}}),
        "state.json",
    ),
    "state with a word for a step": (
        _edit_json(STATE, lambda value: {**value, "position": {**value["position"], "step": "one"}}),
        "state.json",
    ),
    "state without fingerprint": (
        _edit_json(STATE, lambda value: value.pop("data_fingerprint") and value),
        "the data changed since this run began (fingerprint None",
    ),
    "state with files of numbers": (
        _edit_json(STATE, lambda value: {**value, "files": dict.fromkeys(value["files"], 1)}),
        "state.json",
    ),
    "state is no text": (lambda run: (run / STATE).write_bytes(b"\xff\xfe\x00"), "state.json"),
    "a tensor file is a folder": (
        lambda run: (
            (run / "checkpoints/4/model.safetensors").unlink(),
            (run / "checkpoints/4/model.safetensors").mkdir(),
        ),
        "model.safetensors",
    ),
}


NEEDED = ("config.yaml", "splits.json", "statistics.json", "environment.json", "files.json", "state.json")


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_an_edited_file_is_told_or_passed_over_with_a_warning(copy, capsys, caplog, edit: str, command: str) -> None:
    change, name = EDITS[edit]
    change(copy / "tiny")
    if command == "resume":
        code = _train(copy, "--resume")
    else:
        code = evaluate.main(["--run", str(copy / "tiny"), f"data.root={copy / 'data'}", "ops=mlx"])
    error = capsys.readouterr().err
    if code:
        assert code == 2
        assert name in error, error
        assert len(error.splitlines()) == 1 or f".py: {copy}/tiny/config.yaml: " in error, error
    else:  # what is not needed here, or another checkpoint can stand in for
        assert error == ""
        assert command == "evaluate" or name not in NEEDED or "falling back to the one before" in caplog.text


def test_the_same_data_in_another_place_go_on(copy) -> None:
    assert _train(copy, "--resume", "train.steps=6") == 0
    assert RunFolder.open(copy / "tiny").checkpoint("last").resolve().name == "6"


def test_a_label_that_changed_at_the_same_size_is_named(copy, capsys) -> None:
    label = sorted((copy / "data" / "labelsTr").iterdir())[2]
    voxels = bytearray(gzip.decompress(label.read_bytes()))
    voxels[-1] ^= 1
    size = label.stat().st_size
    label.write_bytes(gzip.compress(bytes(voxels), 0))
    assert label.stat().st_size == size
    before = (copy / "tiny" / "files.json").read_bytes()
    assert _train(copy, "--resume", "train.steps=6") == 2
    assert capsys.readouterr().err == (
        f"train.py: {copy}/tiny: the data changed since this run began:\n  {label}: other contents of the same size\n"
        "bring the files back, or start a new run under another name\n"
    )
    assert (copy / "tiny" / "files.json").read_bytes() == before


def test_a_run_of_before_there_was_a_files_json_goes_on(copy) -> None:
    (copy / "tiny" / "files.json").unlink()
    assert _train(copy, "--resume", "train.steps=6") == 0
    assert len(RunFolder.open(copy / "tiny").read_json("files")) == 10


def test_a_folder_for_runs_that_cannot_be_written_is_told_before_cases_are_prepared(copy, capsys, caplog) -> None:
    (copy / "file").touch()
    assert _train(copy, f"run.dir={copy / 'file'}") == 2
    assert capsys.readouterr().err == (
        f"train.py: {copy}/file/tiny: cannot be written (Not a directory); set run.dir to a writable folder\n"
    )
    assert "prepared" not in caplog.text


def test_a_cache_deleted_in_mid_run_is_made_anew(copy) -> None:
    class Delete:
        def __call__(self, step: int, *_: object) -> None:
            shutil.rmtree(copy / "cache")

    config = load_config(
        copy / "tiny.yaml",
        {
            "name": "other",
            "run.dir": copy,
            "data.root": copy / "data",
            "data.cache": {"folder": copy / "cache", "memory_gb": 0},
        },
    )
    run = engine.train.train(config, hooks=Hooks(on_validation=Delete()))
    losses = [line["loss"] for line in run.read_metrics("train")]
    assert losses == [line["loss"] for line in RunFolder(copy / "tiny").read_metrics("train")]


def test_facts_of_a_cached_case_that_were_emptied_are_made_anew(copy, caplog) -> None:
    assert _train(copy, "--resume", "train.steps=6") == 0  # which prepares the cases of this place
    for path in (copy / "cache").glob("*/facts.json"):
        path.write_text('{"arrays": {}, "facts": {}}')
    assert _train(copy, "--resume", "train.steps=8") == 0
    assert caplog.text.count("data.cache.folder: rebuilding the damaged entry") == 5

"""What may change when a run is resumed."""

import logging

import pytest

from engine.runs.check_resume import check_config_unchanged, check_files_unchanged
from engine.runs.run_folder import RunFolder
from tests.engine.doubles import tiny_config


def test_the_same_config_passes_in_silence(tmp_path, caplog) -> None:
    run = RunFolder.create(tiny_config(tmp_path))
    with caplog.at_level(logging.INFO, logger="mlx_volumes"):
        check_config_unchanged(run, tiny_config(tmp_path))
    assert caplog.text == ""


def test_safe_keys_are_listed(tmp_path, caplog) -> None:
    run = RunFolder.create(tiny_config(tmp_path))
    changed = tiny_config(tmp_path, data={"workers": 3}, train={"steps": 24}, evaluate={"overlap": 0.25})
    with caplog.at_level(logging.INFO, logger="mlx_volumes"):
        check_config_unchanged(run, changed)
    assert "resumed with data.workers: 1 -> 3" in caplog.text
    assert "resumed with train.steps: 12 -> 24" in caplog.text
    assert "resumed with evaluate.overlap: 0.5 -> 0.25" in caplog.text
    assert "schedule follows the new budget" in caplog.text


def test_keys_that_decide_the_result_are_refused(tmp_path) -> None:
    run = RunFolder.create(tiny_config(tmp_path))
    changed = tiny_config(tmp_path, optim={"learning_rate": 0.5}, train={"batch_size": 7}, data={"workers": 3})
    with pytest.raises(ValueError, match="--resume with another config") as error:
        check_config_unchanged(run, changed)
    assert "  optim.learning_rate: 0.01 -> 0.5\n  train.batch_size: 2 -> 7\n" in str(error.value)
    assert "workers" not in str(error.value)


def test_a_run_in_another_folder_may_go_on_there(tmp_path, caplog) -> None:
    run = RunFolder.create(tiny_config(tmp_path))
    moved = RunFolder(run.path.rename(tmp_path / "moved"))
    with caplog.at_level(logging.INFO, logger="mlx_volumes"):
        config = tiny_config(tmp_path, distributed={"timeout_seconds": 5})
        check_config_unchanged(moved, config.model_copy(update={"name": "moved"}))
    assert "resumed with name: tiny -> moved" in caplog.text
    assert "resumed with distributed.timeout_seconds: 600.0 -> 5.0" in caplog.text


def test_batch_norm_of_several_processes_decides_the_result(tmp_path) -> None:
    run = RunFolder.create(tiny_config(tmp_path))
    with pytest.raises(ValueError, match=r"  distributed\.batch_norm: synchronised -> local\n"):
        check_config_unchanged(run, tiny_config(tmp_path, distributed={"batch_norm": "local"}))


def _entry(path: str, size: int, digest: str, modified: int = 0) -> dict[str, object]:
    return {"path": path, "bytes": size, "modified_ns": modified, "hash": digest}


def test_the_files_that_differ_are_named(tmp_path) -> None:
    run = RunFolder(tmp_path)
    then = {
        "a/0/a.nii": _entry("/x/a.nii", 5, "q"),
        "a/1/a.nii": _entry("/x/l/a.nii", 5, "q"),
        "b": _entry("/b", 1, "q"),
    }
    check_files_unchanged(
        run, then, {name: {**facts, "path": "/moved", "modified_ns": 7} for name, facts in then.items()}
    )
    now = {
        "a/0/a.nii": _entry("/y/a.nii", 6, "r"),
        "a/1/a.nii": _entry("/y/l/a.nii", 5, "r"),
        "c": _entry("/c", 1, "q"),
    }
    with pytest.raises(ValueError, match="the data changed since this run began") as error:
        check_files_unchanged(run, then, now)
    assert str(error.value).splitlines()[1:] == [
        "  /y/a.nii: 6 bytes, 5 before",
        "  /y/l/a.nii: other contents of the same size",
        "  /b: gone",
        "  /c: new",
        "bring the files back, or start a new run under another name",
    ]
    many = {str(number): _entry(f"/{number}", 1, "q") for number in range(7)}
    with pytest.raises(ValueError, match="  /4: gone\n  and 2 more\n"):
        check_files_unchanged(run, many, {})

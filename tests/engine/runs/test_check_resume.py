"""What may change when a run is resumed."""

import logging

import pytest

from engine.runs.check_resume import check_config_unchanged
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

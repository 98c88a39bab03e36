"""Checkpoints: whole or not there; every misfit named."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from engine.runs import checkpoints as module
from engine.runs.checkpoints import CheckpointError, latest_whole, load_weights, read_state, save_checkpoint, steps_in

ROOT = Path(__file__).parents[3]


def _save(folder: Path, step: int, best: bool = False, keep: int = 2, value: float = 1.0) -> Path:
    tensors = {"model": {"w": mx.full((100,), value)}, "optimizer": {"m": mx.zeros((100,))}}
    return save_checkpoint(folder, tensors, {"step": step}, best, keep)


def test_links_lead_to_the_last_and_the_best_which_is_never_removed(tmp_path) -> None:
    for step in (10, 20, 30, 100):
        _save(tmp_path, step, best=step == 10)
    assert steps_in(tmp_path) == [10, 30, 100]
    assert (tmp_path / "last").resolve() == (tmp_path / "100").resolve()
    assert json.loads((tmp_path / "best" / "state.json").read_text())["step"] == 10
    assert not os.readlink(tmp_path / "last").startswith("/")  # a run's folder may be moved
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "100", "30", "best", "last"]


def test_the_same_step_can_be_saved_again(tmp_path) -> None:
    _save(tmp_path, 10, value=1)
    _save(tmp_path, 10, value=2)
    assert mx.load(str(tmp_path / "10" / "model.safetensors"))["w"][0].item() == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "last"]


@pytest.mark.parametrize("instant", ["mx.save_safetensors", "write state", "rename", "replace", "point", "remove"])
def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path, monkeypatch, instant: str) -> None:
    """An exception that nothing handles stands for the kill: no cleaning up runs after it."""

    class Kill(BaseException):
        pass

    def kill(*args: object, **kwargs: object) -> None:
        raise Kill

    _save(tmp_path, 10, value=1)
    _save(tmp_path, 20, value=2)
    with monkeypatch.context() as patch:
        match instant:
            case "mx.save_safetensors":
                patch.setattr(module.mx, "save_safetensors", kill)
            case "write state":
                patch.setattr(module.disk, "write_flushed", kill)
            case "rename":
                patch.setattr(module, "_replace_folder", kill)
            case "replace":  # the old folder of this step is aside, the new one not yet in place
                original = Path.rename
                patch.setattr(Path, "rename", lambda self, to: original(self, to) if "replaced" in str(to) else kill())
            case "point":
                patch.setattr(module, "point", kill)
            case "remove":
                patch.setattr(module, "remove_old", kill)
        step = 20 if instant == "replace" else 30
        with pytest.raises(Kill):
            _save(tmp_path, step, value=step / 10)
    found = latest_whole(tmp_path)
    assert found is not None
    assert found[1]["step"] == (30 if instant in ("point", "remove") else 20)
    assert mx.load(str(found[0] / "model.safetensors"))["w"][0].item() == found[1]["step"] / 10
    _save(tmp_path, 40, value=4)
    assert steps_in(tmp_path)[-1] == 40
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_truncated_checkpoint_is_passed_over_with_a_notice(tmp_path, caplog) -> None:
    _save(tmp_path, 10)
    _save(tmp_path, 20)
    file = tmp_path / "20" / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size - 7)
    found = latest_whole(tmp_path)
    assert found is not None
    assert found[0] == tmp_path / "10"
    assert f"expected {size} bytes, found {size - 7}" in caplog.text
    assert "falling back to the one before" in caplog.text


def test_a_changed_byte_is_noticed(tmp_path) -> None:
    file = _save(tmp_path, 10) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the contents changed .*checksum"):
        read_state(tmp_path / "10")


@pytest.mark.parametrize("text", ["[]", '{"files": []}', '{"files": {}}', '{"files": 3, "step": 1}'])
def test_a_state_of_something_else(tmp_path, text: str) -> None:
    (_save(tmp_path, 10) / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"10: not a complete checkpoint \(.*10/state\.json: "):
        read_state(tmp_path / "10")


def test_only_broken_ones_is_an_error_that_lists_them(tmp_path) -> None:
    (_save(tmp_path, 10) / "model.safetensors").unlink()
    (_save(tmp_path, 20) / "state.json").write_text("{")
    with pytest.raises(
        CheckpointError, match=r"(?s)no complete checkpoint left.*/20: not a complete.*/10: not a complete"
    ):
        latest_whole(tmp_path)


def test_no_checkpoint_is_none(tmp_path) -> None:
    assert latest_whole(tmp_path / "checkpoints") is None


def test_infinities_in_the_state_become_null(tmp_path) -> None:
    save_checkpoint(tmp_path, {}, {"step": 1, "score": float("nan"), "more": [float("inf")]}, False, 1)
    state = read_state(tmp_path / "1")
    assert (state["score"], state["more"]) == (None, [None])


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import mlx.core as mx
from engine.runs.checkpoints import save_checkpoint, latest_whole
folder = Path(sys.argv[1])
save_checkpoint(folder, {"model": {"w": mx.ones((100,))}}, {"step": 10}, True, 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a full disk: the rest cannot be written
try:
    save_checkpoint(folder, {"model": {"w": mx.ones((100_000,))}}, {"step": 20}, True, 2)
except OSError as error:
    print(error)
print(sorted(p.name for p in folder.iterdir()), latest_whole(folder)[1]["step"])
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
def test_a_full_disk_loses_nothing(tmp_path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    message, rest = done.stdout.splitlines()
    assert "/20: the checkpoint could not be written" in message
    assert "earlier checkpoints are untouched" in message
    assert rest == "['10', 'best', 'last'] 10"


@pytest.mark.parametrize("full_at", ["model.safetensors", "optimizer.safetensors", "state.json", "the folder"])
def test_a_full_disk_is_named_with_its_file_and_fix(tmp_path, monkeypatch, full_at: str) -> None:
    _save(tmp_path, 10, best=True)
    flush, flushed = module.disk.flush, []

    def fill(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == files.index(full_at) + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    files = ["model.safetensors", "optimizer.safetensors", "state.json", "the folder"]
    monkeypatch.setattr(module.disk, "flush", fill)
    with pytest.raises(OSError, match=r"/20: the checkpoint could not be written .*No space left") as caught:
        _save(tmp_path, 20)
    if full_at != "the folder":
        assert f"{full_at}: cannot be written" in str(caught.value)
        assert "free some space on its disk" in str(caught.value)
    assert str(caught.value).endswith("earlier checkpoints are untouched: continue with --resume")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "best", "last"]
    monkeypatch.undo()
    assert latest_whole(tmp_path)[1]["step"] == 10
    assert _save(tmp_path, 20) == tmp_path / "20"  # once there is space again


class _Net(nn.Module):
    def __init__(self, width: int, extra: bool = False) -> None:
        super().__init__()
        self.layers = [nn.Linear(2, width), nn.Linear(width, 1)]
        if extra:
            self.scale = mx.array(1.0)


def _save_net(folder: Path, model: nn.Module, average: float | None = None) -> Path:
    weights = dict(tree_flatten(model.parameters()))
    tensors = {"model": weights}
    if average is not None:
        tensors["ema"] = {name: mx.full(a.shape, average) for name, a in weights.items()}
    return save_checkpoint(folder, tensors, {"step": 1}, False, 1)


def test_loading_takes_the_average_where_there_is_one(tmp_path) -> None:
    model = _Net(3)
    weight = model.layers[0].weight.tolist()
    folder = _save_net(tmp_path, model, average=7.0)
    other = _Net(3)
    assert load_weights(other, folder) == "ema"
    assert other.layers[0].weight.tolist() == [[7, 7]] * 3
    assert load_weights(other, folder, "raw") == "raw"
    assert other.layers[0].weight.tolist() == weight
    (folder / "ema.safetensors").unlink()
    assert load_weights(other, folder, "ema") == "raw"


def test_loading_lists_every_tensor_that_does_not_fit(tmp_path) -> None:
    folder = _save_net(tmp_path, _Net(3))
    with pytest.raises(CheckpointError) as error:
        load_weights(_Net(4, extra=True), folder)
    lines = str(error.value).splitlines()
    assert "4 tensor(s) don't fit this model" in lines[0]
    assert lines[1:] == [
        "  layers.0.bias: the model has (4,), the file (3,)",
        "  layers.0.weight: the model has (4, 2), the file (3, 2)",
        "  layers.1.weight: the model has (1, 4), the file (1, 3)",
        "  scale: the model has (), the file none",
    ]


def test_an_unreadable_file_is_named(tmp_path) -> None:
    folder = _save_net(tmp_path, _Net(3))
    (folder / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        load_weights(_Net(3), folder)


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_half_of_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "4").mkdir()
    monkeypatch.setattr(module.shutil, "rmtree", lambda path: None)  # killed before anything is deleted
    module.remove_old(tmp_path, keep=1)
    assert module.steps_in(tmp_path) == [4]
    monkeypatch.undo()
    module.restore_replaced(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["4"]

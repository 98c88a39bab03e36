"""What is on the disk when the power fails: the order of flushes and renames."""

import os
from pathlib import Path

import pytest

from engine.runs.checkpoints import steps_in
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StopRequest
from engine.training.loop import fit, restore
from machine import disk
from tests.engine.doubles import TinyData, tiny_config, tiny_step


@pytest.fixture
def events(tmp_path, monkeypatch) -> list[str]:
    """What happens: "flush NAME" and "rename OLD NEW", names below tmp_path."""
    happened: list[str] = []

    def flush(descriptor: int) -> None:
        facts = os.fstat(descriptor)
        (path,) = (
            p for p in (tmp_path, *tmp_path.rglob("*")) if not p.is_symlink() and os.path.samestat(p.stat(), facts)
        )
        happened.append(f"flush {path.relative_to(tmp_path)}")

    def record(own):
        def rename(self: Path, target: Path) -> Path:
            happened.append(f"rename {self.relative_to(tmp_path)} {Path(target).relative_to(tmp_path)}")
            return own(self, target)

        return rename

    monkeypatch.setattr(disk, "flush", flush)
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, record(getattr(Path, name)))
    return happened


def test_files_are_on_the_disk_before_their_names(tmp_path, events: list[str]) -> None:
    config = tiny_config(tmp_path / "runs", train={"steps": 4}, checkpoint={"every_steps": 2})
    run, data = RunFolder.create(config), TinyData()
    step = tiny_step(config)
    fit(step, data, run, config, restore(step, data, run), StopRequest(run.stop_path))
    assert steps_in(run.checkpoints) == [2, 4]
    folder = "runs/tiny/checkpoints"
    assert events[:3] == [
        "flush runs/tiny/.config.yaml.tmp",
        "rename runs/tiny/.config.yaml.tmp runs/tiny/config.yaml",
        "flush runs/tiny",
    ]
    for number in (2, 4):
        written = f"{folder}/.writing-{number}"
        begin, end = (
            events.index(text) for text in (f"flush {written}/model.safetensors", f"rename {written} {folder}/{number}")
        )
        names = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json")
        assert {f"flush {written}/{name}" for name in names} <= set(events[:end])
        assert events[end - 1] == f"flush {written}"  # the list of these names, last
        assert events[end + 1 : end + 4] == [
            f"flush {folder}",
            f"rename {folder}/.last-link {folder}/last",
            f"flush {folder}",
        ]
        assert "flush runs/tiny/metrics.jsonl" in events[max(0, begin - 2) : begin]  # what the checkpoint counts on
    assert events.index("flush runs/tiny", 3) < events.index(f"flush {folder}/.writing-2/model.safetensors")


def test_a_folder_is_flushed_into_each_one_above(tmp_path, events: list[str]) -> None:
    assert disk.make_folder(tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert disk.make_folder(tmp_path / "a" / "b") == []
    assert events == ["flush .", "flush a"]


def test_what_a_lost_tail_left_of_the_metrics_is_cut(tmp_path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "split": "train", "loss": 0.5})
    whole = run.metrics_path.read_bytes().splitlines(keepends=True)
    run.metrics_path.write_bytes(whole[0] + whole[1] + bytes(300) + b"\xff\xfe" + b'{"step": 3, "split"\n' + b"7\n")
    assert [line["step"] for line in run.read_metrics()] == [1, 2]
    run.trim_metrics(2, 0)
    assert run.metrics_path.read_bytes() == whole[0] + whole[1]

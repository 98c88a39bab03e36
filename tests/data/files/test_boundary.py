"""Whatever reading one file raises is that file's fault, by name, wherever it is read."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from configs import Config
from data.dataset import open_data, open_images
from data.files import stored, videos
from data.files.errors import FileProblem, fault_of
from data.files.formats import nifti, npy
from data.files.volumes import read_header, read_image
from engine.config import config_class
from planning.survey.survey import take_survey
from tests.data.clip_files import numbered, write_clip
from tests.data.write_layouts import write_folders, write_volume

SAID = r"cannot be read \(ZeroDivisionError: injected\); restore the file from its origin"
PLACES = [(nifti, "_parse"), (stored, "read_content")]  # of a header, and of voxels


def break_for(patch: pytest.MonkeyPatch, module: Any, function: str, name: str, position: int = 0) -> None:
    """The function raises for arguments that name the file."""
    sound = getattr(module, function)

    def broken(*arguments: Any, **keywords: Any) -> Any:
        if name in str(getattr(arguments[position], "path", arguments[position])):
            raise ZeroDivisionError("injected")
        return sound(*arguments, **keywords)

    patch.setattr(module, function, broken)


def make_config(tmp_path: Path, task: str, on_error: str, **data: Any) -> Config:
    model = {"name": "cnn3d" if task == "classification" else "unet3d"}
    settings = {"on_error": on_error, "cache": {"folder": tmp_path / "cache"}, **data}
    train, run = {"steps": 1, "batch_size": 1}, {"dir": tmp_path / "runs"}
    tree = {"name": "t", "task": task, "run": run, "data": settings, "model": model, "train": train}
    return config_class().model_validate(tree)


@pytest.fixture
def volumes(tmp_path: Path) -> Callable[[str], Config]:
    root = write_folders(tmp_path / "data", cases=5)
    keys = {"source": "folders", "root": root, "class_names": ["background", "box"], "patch_size_voxels": (8, 8, 8)}
    return lambda on_error: make_config(tmp_path, "segmentation", on_error, **keys)


@pytest.fixture
def clips(tmp_path: Path) -> Callable[[str], Config]:
    for name in ("up", "down"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(3):
            write_clip(
                tmp_path / "clips" / name / f"{name}{number}.mp4", numbered(6 + number)[:: 1 if name == "up" else -1]
            )
    clip = {"frames": 2, "short_side_pixels": 16, "crop_pixels": (16, 16)}
    keys = {"source": "classes", "root": tmp_path / "clips", "clip": clip, "split": {"folds": 3}}
    return lambda on_error: make_config(tmp_path, "classification", on_error, **keys)


def test_of_any_kind() -> None:
    for error in (KeyError("x"), RecursionError("deep"), AssertionError(), UnicodeDecodeError("utf-8", b"", 0, 1, "y")):
        with pytest.raises(FileProblem, match=rf"^a\.nii: cannot be read \({type(error).__name__}"), fault_of("a.nii"):
            raise error
    with pytest.raises(FileProblem, match=r"^a\.nii: takes more memory than there is; leave it out"), fault_of("a.nii"):
        raise MemoryError
    with pytest.raises(KeyboardInterrupt), fault_of("a.nii"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(("module", "place"), PLACES)
def test_a_volume(
    volumes: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch, module: ModuleType, place: str
) -> None:
    break_for(monkeypatch, module, place, "images/case1")
    with pytest.raises(ValueError, match=rf"(?s)1 of \d cases cannot be used:\n  \S*images/case1\.nii\.gz: {SAID}"):
        open_data(volumes("stop")).prepare_all()
    data = open_data(volumes("skip"))
    data.prepare_all()
    assert sum(map(len, data.splits.values())) == 4
    assert [case_id for case_id, _, _ in data.skipped] == ["case1"]


@pytest.mark.parametrize(("module", "place"), PLACES)
def test_a_volume_that_is_inspected(
    volumes: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch, module: ModuleType, place: str
) -> None:
    break_for(monkeypatch, module, place, "labels/case1")
    problems = take_survey(volumes("skip"), threads=1).problems
    assert [(problem.case_id, problem.path.name) for problem in problems] == [("case1", "case1.nii.gz")]
    assert problems[0].reason == "cannot be read (ZeroDivisionError: injected); restore the file from its origin"


def test_what_is_done_with_the_voxels(volumes: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch) -> None:
    from data.prepare import volumes as preparing

    def broken(volume: np.ndarray, *_: Any) -> list[str]:
        raise ZeroDivisionError("injected")

    config = volumes("skip")
    data = open_data(config)
    monkeypatch.setattr(preparing, "normalise", broken)
    with pytest.raises(ValueError, match="no case is left after skipping 5"):
        data.prepare_all()
    with pytest.raises(FileProblem, match=rf"images/case\d\.nii\.gz: {SAID}"):
        data.load(open_data(config).cases("train")[0])


def test_images_to_predict(volumes: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = volumes("skip")
    statistics = open_data(config).statistics
    break_for(monkeypatch, stored, "read_content", "images/case1")
    data = open_images(tmp_path / "data" / "images", config, statistics)
    data.load("case0")
    with pytest.raises(FileProblem, match=rf"case1\.nii\.gz: {SAID}"):
        data.load("case1")


@pytest.mark.parametrize("place", ["_turn", "picture_of"])
def test_a_clip(clips: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    opened, sound = videos._opened, getattr(videos, place)
    current = {}

    def noting(path: Path) -> Any:
        current["path"] = path
        return opened(path)

    def broken(*arguments: Any) -> Any:
        if "up1" in current["path"].name:
            raise ZeroDivisionError("injected")
        return sound(*arguments)

    monkeypatch.setattr(videos, "_opened", noting)
    monkeypatch.setattr(videos, place, broken)
    monkeypatch.setattr("data.usable_cases.available_threads", lambda: 1)
    with pytest.raises(ValueError, match=rf"(?s)1 of 6 cases cannot be used:\n  \S*up1\.mp4: {SAID}"):
        open_data(clips("stop")).prepare_all()
    assert [case_id for case_id, _, _ in open_data(clips("skip")).skipped] == (["up1"] if place == "_turn" else [])
    problems = take_survey(clips("skip"), threads=1).problems
    assert [(problem.case_id, problem.path.name) for problem in problems] == [("up1", "up1.mp4")]
    assert "ZeroDivisionError: injected" in problems[0].reason


def test_an_array(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.ones((4, 5, 6)))
    break_for(monkeypatch, npy, "affine_problem", "a.npz")
    with pytest.raises(FileProblem, match=rf"a\.npz: {SAID}"):
        read_header(tmp_path / "a.npz")
    write_volume(tmp_path / "b.nii", np.ones((4, 5, 6)))
    assert np.all(read_image(tmp_path / "b.nii")[0] == 1)

from pathlib import Path
from typing import Any

import pytest

from engine.config import check_config
from engine.evaluation.ensemble import find_seen, join_config
from engine.runs.run_folder import RunFolder


def make_run(folder: Path, root: str = "data", **data: Any) -> RunFolder:
    tree = {"name": "x", "data": {"root": root, **data}, "train": {"steps": 1}}
    run = RunFolder(folder)
    folder.mkdir()
    run.write_config(check_config(tree, "test"))
    run.write_json("statistics", {"class_names": ["background", "organ"], "file_channels": 1, "num_channels": 1})
    run.write_json("splits", {"train": ["a", "b"], "val": ["c"]})
    return run


def config_of(run: RunFolder) -> Any:
    return check_config(run.read_config_tree(), "test")


def test_a_member_keeps_its_preparation_and_looks_where_the_first_looks(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", root="here")
    other = make_run(tmp_path / "b", root="there", normalisation="percentile", patch_size_voxels=[16, 16, 16])
    joined = join_config(config_of(first), other, config_of(other), first)
    assert joined.data.root == Path("here")
    assert joined.data.normalisation == "percentile"
    assert joined.data.patch_size_voxels == (16, 16, 16)


def test_a_member_reads_images_at_the_rate_of_the_first(tmp_path: Path) -> None:
    runs = []
    for name, clip in (("a", {"frames": 8, "image_frame_rate": 30}), ("b", {"frames": 4})):
        run = make_run(tmp_path / name)
        data = {"root": "data", "source": "classes", "clip": clip}
        tree = {"name": "x", "task": "classification", "data": data, "model": {"name": "cnn3d"}, "train": {"steps": 1}}
        run.write_config(check_config(tree, "test"))
        runs.append(run)
    first, other = runs
    clip = join_config(config_of(first), other, config_of(other), first).data.clip
    assert (clip.frames, clip.image_frame_rate) == (4, 30)


def test_members_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first, same = make_run(tmp_path / "a"), make_run(tmp_path / "c")
    other = make_run(tmp_path / "b", spacing_mm=[1.0, 1.0, 1.0])
    what = r"data\.spacing_mm is \(1.0, 1.0, 1.0\), that of .*a None"
    with pytest.raises(ValueError, match=rf"--run .*b: {what}; an ensemble's members predict the same classes"):
        join_config(config_of(first), other, config_of(other), first)
    same.write_json("statistics", {"class_names": ["background", "tumour"], "file_channels": 1, "num_channels": 1})
    with pytest.raises(ValueError, match=r"the list of classes is \['background', 'tumour'\], that of"):
        join_config(config_of(first), same, config_of(same), first)


def test_cases_that_a_member_was_trained_on_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path / "a")
    assert find_seen(["c", "d"], "val", run, Path("data"), "") == []
    with pytest.raises(ValueError, match="was trained on 1 of the 2 cases, b among them: its scores on the val split"):
        find_seen(["b", "c"], "val", run, Path("data"), "")
    assert not caplog.text
    assert find_seen(["b", "c"], "all", run, Path("data"), "") == ["b"]
    assert "was trained on 1 of the 2 cases" in caplog.text
    assert find_seen(["b", "c"], "val", run, Path("elsewhere"), "other") == []  # other cases of the same names
    run.write_json("environment", {"data_fingerprint": "same"})
    assert find_seen(["b", "c"], "all", run, Path("elsewhere"), "same") == ["b"]  # the same ones, moved

"""Clips from folder to batches."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import Config
from data.dataset import open_data
from data.files.errors import FileProblem
from engine.config import config_class
from tests.data.batches import assert_an_epoch_goes_on, assert_same, batches
from tests.data.clip_files import brightness, numbered, numbers_of, write_clip, write_frames


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: six clips that grow brighter, six that grow darker."""
    root = tmp_path_factory.mktemp("clips") / "data"
    for name, step in (("brighter", 1), ("darker", -1)):
        (root / name).mkdir(parents=True)
        for number in range(6):
            frames = numbered(12 + number)[::step]
            write_clip(root / name / f"{name}_{number}.mp4", frames, options={"g": "6"})
    (root / "notes.txt").touch()
    (root / "darker" / "list.csv").touch()
    return root


@pytest.fixture
def make_config(tmp_path: Path, shared_root: Path) -> Any:
    def make(clip: dict[str, Any] | None = None, root: Path = shared_root, **data: Any) -> Config:
        clip = {"frames": 4, "short_side_pixels": 16, "crop_pixels": (16, 16), **(clip or {})}
        settings = {"source": "classes", "root": root, "clip": clip, "cache": {"folder": tmp_path / "cache"}, **data}
        return config_class().model_validate(
            {
                "name": "t",
                "task": "classification",
                "run": {"dir": tmp_path / "runs"},
                "data": settings,
                "model": {"name": "cnn3d"},
                "train": {"steps": 1, "batch_size": 3},
            }
        )

    return make


def raw(x: np.ndarray) -> np.ndarray:
    """Undoes the default normalisation."""
    return (x * 0.225 + 0.45) * 255


def test_batches(make_config: Any) -> None:
    data = open_data(make_config())
    assert data.class_names == ("brighter", "darker")
    assert (data.num_channels, data.num_outputs, data.batches_per_epoch) == (3, 2, 3)
    found = batches(data)
    assert len(found) == 3
    for batch in found:
        assert batch["x"].shape == (3, 4, 16, 16, 3)
        assert [batch[key].dtype for key in ("x", "y", "index")] == [np.float32, np.int32, np.int64]
        for x, y, index in zip(batch["x"], batch["y"], batch["index"], strict=True):
            assert y == data.cases("train")[index].label
            assert np.diff(numbers_of(raw(x))).tolist() == [1 - 2 * y] * 3


def test_random_segments_differ_between_epochs(make_config: Any) -> None:
    data = open_data(make_config())
    starts = []
    for epoch in range(4):
        first = {int(i): x[0].mean() for b in batches(data, epoch) for i, x in zip(b["index"], b["x"], strict=True)}
        starts.append([round(float(first[i]), 1) for i in sorted(first)])
    assert len({tuple(row) for row in starts}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"workers": 3}, {"cache": {"limit_gb": 1e-5}}])
def test_neither_threads_nor_a_full_cache_change_batches(make_config: Any, tmp_path: Path, settings: Any) -> None:
    clip = {
        "crop_pixels": (12, 12),
        "frame_rate": 8,
        "augment": {"flip": 0.5, "zoom": (0.8, 1.3), "brightness": (0.5, 1)},
    }
    expected = batches(open_data(make_config(clip)), epoch=2)
    if "cache" in settings:
        settings["cache"]["folder"] = tmp_path / "small"
    data = open_data(make_config(clip, **settings))
    data.prepare_all()
    if "cache" in settings:
        assert not list((tmp_path / "small").glob("*/frames.npy"))
    assert_same(batches(data, epoch=2), expected)


def test_part_of_the_clips_is_stored(make_config: Any, tmp_path: Path) -> None:
    each = 16 * 24 * 3 * 12  # the first two clips' frames, or a little more
    data = open_data(make_config(cache={"folder": tmp_path / "part", "limit_gb": 2.5 * each / 1e9}))
    data.prepare_all()
    assert len(list((tmp_path / "part").glob("*/frames.npy"))) == 2
    assert len(list((tmp_path / "part").glob("*/times_s.npy"))) == 12


@pytest.mark.parametrize("limit_gb", [1, 1e-9, None])
def test_a_copy_in_another_split_is_found(
    make_config: Any, shared_root: Path, tmp_path: Path, limit_gb: float | None
) -> None:
    """Frames stored, of none, or of the first of the two alone."""
    shutil.copytree(shared_root, tmp_path / "data")
    whole = open_data(make_config())
    paths = {name: whole.cases(name)[0].images[0].relative_to(shared_root.resolve()) for name in ("train", "val")}
    shutil.copy(tmp_path / "data" / paths["val"], tmp_path / "data" / paths["train"])
    limit_gb = 2.5 * 16 * 24 * 3 * 12 / 1e9 if limit_gb is None else limit_gb
    config = make_config(root=tmp_path / "data", cache={"folder": tmp_path / "other", "limit_gb": limit_gb})
    with pytest.raises(ValueError, match=rf"{paths['train']}: a copy of case {whole.splits['val'][0]} \(.*put both"):
        open_data(config).prepare_all()


def test_an_interrupted_epoch_goes_on(make_config: Any) -> None:
    assert_an_epoch_goes_on(open_data(make_config()), 1, 2)


def test_views(make_config: Any) -> None:
    data = open_data(make_config({"clips": 3, "crops": 3, "crop_pixels": (16, 12)}))
    loaded = data.load("brighter_0")  # 12 frames
    assert loaded.views.shape == (9, 4, 16, 12, 3)
    assert loaded.views.dtype == np.float32
    assert (loaded.id, loaded.label, loaded.group) == ("brighter_0", 0, None)
    assert [numbers_of(raw(view))[0] for view in loaded.views] == [0, 0, 0, 4, 4, 4, 8, 8, 8]
    pictures = data.pictures("brighter_0")
    assert pictures.shape == loaded.views.shape
    assert pictures.dtype == np.uint8
    np.testing.assert_allclose(raw(loaded.views), pictures, atol=1e-3)


def test_differences_and_a_single_frame_without_motion(make_config: Any) -> None:
    settings = {"input": "differences", "colour": "grey", "std": (0.1,)}
    data = open_data(make_config(settings))
    assert data.num_channels == 1
    step = (brightness(1) - brightness(0)) / 255 / 0.1
    for name, sign in (("brighter_2", 1), ("darker_2", -1)):
        views = data.load(name).views
        assert views.shape == (1, 4, 16, 16, 1)
        np.testing.assert_allclose(views.mean(axis=(0, 2, 3, 4)), sign * step, atol=0.1)
        pictures = data.pictures(name)
        assert pictures.shape == (1, 4, 16, 16, 1)  # the later frame of each difference
        middle = numbers_of(pictures[0])
        assert np.diff(middle).tolist() == [sign] * 3
    data = open_data(make_config({"single_frame": True}))
    for batch in batches(data):
        assert (batch["x"] == batch["x"][:, :1]).all()
    views = data.load("darker_1").views
    assert (views == views[:, :1]).all()


def test_flips(make_config: Any, tmp_path: Path) -> None:
    picture = np.zeros((6, 16, 16, 3), np.uint8)
    picture[:, :, 8:] = 200  # bright on the right
    for name in ("a", "b"):
        (tmp_path / "sides" / name).mkdir(parents=True)
        for number in range(5):
            write_clip(tmp_path / "sides" / name / f"{name}{number}.mp4", picture)
    for probability in (0.0, 1.0):
        data = open_data(make_config({"augment": {"flip": probability}}, root=tmp_path / "sides"))
        for batch in batches(data):
            left, right = batch["x"][..., :8, :].mean(), batch["x"][..., 8:, :].mean()
            assert (left > right) == (probability == 1)
        assert data.load("a0").views[..., 8:, :].mean() > 0 > data.load("a0").views[..., :8, :].mean()


@pytest.fixture
def damaged_root(shared_root: Path, tmp_path: Path) -> Path:
    """One clip that does not open, and one whose frames do not all decode."""
    root = tmp_path / "damaged"
    shutil.copytree(shared_root, root)
    (root / "darker" / "darker_3.mp4").write_text("nothing")
    path = root / "brighter" / "brighter_4.mp4"
    content = path.read_bytes()
    start = content.index(b"mdat") + 900
    path.write_bytes(content[:start] + b"\xff" * 200 + content[start + 200 :])
    return root


def test_bad_clips_stop_or_are_skipped_by_name(make_config: Any, damaged_root: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)1 of 12 cases cannot be used:\n  .*darker_3\.mp4: no video"):
        open_data(make_config(root=damaged_root))
    data = open_data(make_config(root=damaged_root, on_error="skip"))
    data.prepare_all()
    assert [case_id for case_id, _, _ in data.skipped] == ["darker_3", "brighter_4"]
    assert data.skipped[1][1].endswith("brighter_4.mp4")
    assert len(data.cases("all")) == 10
    (damaged_root / "darker" / "darker_3.mp4").unlink()
    data = open_data(make_config(root=damaged_root))
    with pytest.raises(ValueError, match=r"(?s)1 of 11 cases cannot be used:\n  .*brighter_4\.mp4: damaged after"):
        data.prepare_all()
    ids = [f"brighter_{number}" for number in range(6)]
    data = open_data(make_config(root=damaged_root, split={"kind": "lists", "train": ids, "val": ["darker_0"]}))
    with pytest.raises(FileProblem, match=r"brighter_4\.mp4: damaged after") as caught:
        batches(data)
    assert any("case brighter_4" in note for note in caught.value.__notes__)


def test_short_clips_are_errors_on_request(make_config: Any) -> None:
    data = open_data(make_config({"frames": 13, "short": "error"}))
    with pytest.raises(ValueError, match=r"2 of 12 cases .*") as caught:
        data.prepare_all()
    assert "brighter_0.mp4: lasts 11 frame steps, a segment of 13 frames takes 12; take fewer frames" in str(
        caught.value
    )
    data = open_data(make_config({"frames": 13, "frame_rate": 10, "short": "error"}, on_error="skip"))
    data.prepare_all()
    assert data.skipped == []  # 1.2 seconds last as long as 13 frames at 10 a second
    data = open_data(make_config({"frames": 14, "frame_rate": 10, "short": "error"}, on_error="skip"))
    data.prepare_all()
    assert {reason.split(",")[0] for _, _, reason in data.skipped} == {"lasts 1.2 seconds"}


@pytest.mark.slow
def test_the_shared_clips(datasets: Path, make_config: Any) -> None:
    root = datasets / "fight"
    if not root.is_dir():
        pytest.skip(f"no clips at {root}")
    config = make_config({"frames": 8, "frame_rate": 8, "clips": 2}, root=root, source="csv")
    data = open_data(config)
    assert data.class_names == ("fight", "noFight")
    assert len(data.cases("all")) == 217
    groups = {name: {case.group for case in data.cases(name)} for name in ("train", "val")}
    assert not groups["train"] & groups["val"]
    loaded = data.load(data.cases("val")[0])
    assert loaded.views.shape == (2, 8, 16, 16, 3)
    assert loaded.views.std() > 0.1


def test_clips_of_images_and_of_video_together(make_config: Any, tmp_path: Path) -> None:
    for name, step in (("brighter", 1), ("darker", -1)):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_clip(tmp_path / "data" / name / f"{name}_video.mp4", numbered(12)[::step])
        write_frames(tmp_path / "data" / name / f"{name}_frames", numbered(12)[::step])
    clip = {"frame_rate": 5.0, "image_frame_rate": 10.0}
    data = open_data(make_config(clip, root=tmp_path / "data", split={"folds": 2}))
    for kind in ("video", "frames"):
        views = data.load(f"brighter_{kind}").views
        assert numbers_of(raw(views[0])) == [2, 4, 6, 8]
    untimed = make_config({"frame_rate": 5.0}, root=tmp_path / "data", split={"folds": 2})
    with pytest.raises(ValueError, match=r"brighter_frames: images have no times, which data\.clip\.frame_rate needs"):
        open_data(untimed)
    before = data.fingerprint
    write_frames(tmp_path / "more", numbered(1))
    shutil.move(tmp_path / "more" / "frame_1.png", tmp_path / "data" / "darker" / "darker_frames" / "frame_99.png")
    assert open_data(make_config(clip, root=tmp_path / "data", split={"folds": 2})).fingerprint != before


def test_classes_by_metadata_alone(make_config: Any, tmp_path: Path) -> None:
    for name, size in (("narrow", (32, 32)), ("wide", (32, 64))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(11):
            write_frames(tmp_path / "data" / name / f"{name}_{number}", numbered(2, size), ".bmp")
    data = open_data(make_config(root=tmp_path / "data"))
    asked = [data.roster.cases[name] for name in ("narrow_0", "wide_0")]
    training = [case.id for case in data.cases("all") if case not in asked]
    found = data.predict_by_metadata(training, asked)
    assert {name: p.tolist() for name, p in found.items()} == {"narrow_0": [1, 0], "wide_0": [0, 1]}
    assert data.predict_by_metadata([*training, "wide_0"], asked) == {}  # learnt from one of them


class TestSegments:
    """Three videos of 24 numbered frames, 100 ms apart, of which a table cuts segments of eight frames."""

    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        rows = ["file,start,end,label"]
        for number, video in enumerate("abc"):
            write_clip(tmp_path / f"{video}.mp4", numbered(24) + np.uint8(number), options={"g": "6"})
            rows += [f"{video}.mp4,0,0.8,early", f"{video}.mp4,1.6,2.4,late"]
        (tmp_path / "cases.csv").write_text("\n".join(rows))
        return tmp_path / "cases.csv"

    @pytest.mark.parametrize("limit_gb", [50.0, 1e-6])  # frames stored, and decoded when they are needed
    def test_are_clips(self, make_config: Any, table: Path, limit_gb: float) -> None:
        settings = {
            "source": "csv",
            "split": {"folds": 3},
            "cache": {"folder": table.parent / "c", "limit_gb": limit_gb},
        }
        data = open_data(make_config({"crops": 1}, table, **settings))
        data.prepare_all()
        assert data.class_counts == {"train": [2, 2], "val": [1, 1], "test": [0, 0]}
        assert len({case.group for case in data.cases("val")}) == 1  # segments of a video stay together
        for case in data.cases("all"):
            first = numbers_of(raw(data.load(case).views[0]))[0]
            assert first == (2, 18)[case.label]  # the middle four of 0 to 7, of 16 to 23

    def test_beyond_the_end(self, make_config: Any, table: Path) -> None:
        table.write_text(table.read_text() + "\nc.mp4,2,9,late\n")
        with pytest.raises(
            ValueError, match=r"c\.mp4: lasts 2\.40 seconds, the interval is from 2 to 9; correct the int"
        ):
            open_data(make_config(None, table, source="csv", split={"folds": 3})).prepare_all()

    def test_fingerprint_and_cache_follow_the_interval(self, make_config: Any, table: Path) -> None:
        found = []
        for end in (0.8, 0.6):
            table.write_text(f"id,file,start,end,label\nx,a.mp4,0,{end},one\ny,b.mp4,0,0.8,two\n")
            data = open_data(make_config({"short": "loop"}, table, source="csv", split={"folds": 2}))
            data.prepare_all()
            found.append((data.fingerprint, numbers_of(raw(data.load("x").views[0]))))
        assert found[0][0] != found[1][0]
        assert [numbers for _, numbers in found] == [[2, 3, 4, 5], [1, 2, 3, 4]]

"""Volumes with classes, from folder to batches."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from configs import Config
from data.dataset import open_data, open_images
from engine.config import config_class
from tests.data.batches import (
    assert_an_epoch_goes_on,
    assert_processes_share_batches_of_four,
    assert_too_few_cases,
    batches,
)

CASES = {"bright": 8, "dark": 4}


def write_volume(path: Path, value: float, shape: tuple[int, int, int] = (12, 10, 8), seed: int = 0) -> None:
    """Noise about a mean, (X, Y, Z); the centre voxel stands out."""
    volume = np.random.default_rng(seed).normal(value, 1, shape).astype(np.float32)
    volume[tuple(n // 2 for n in shape)] += 1000
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volumes") / "data"
    for name, count in CASES.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            write_volume(root / name / f"{name}{number}.nii.gz", 100 if name == "bright" else -100, seed=number)
    return root


@pytest.fixture
def make_config(tmp_path: Path, shared_root: Path) -> Any:
    def make(batch_size: int = 3, root: Path = shared_root, **data: Any) -> Config:
        settings = {
            "source": "classes",
            "root": root,
            "patch_size_voxels": (8, 10, 12),
            "normalisation": "none",
            "cache": {"folder": tmp_path / "cache"},
            "split": {"folds": 4},
            **data,
        }
        return config_class().model_validate(
            {
                "name": "t",
                "task": "classification",
                "run": {"dir": tmp_path / "runs"},
                "data": settings,
                "model": {"name": "cnn3d"},
                "loss": {"name": "binary_cross_entropy"} if "columns" in data else {},
                "train": {"steps": 1, "batch_size": batch_size},
            }
        )

    return make


def test_facts(make_config: Any) -> None:
    data = open_data(make_config())
    assert data.class_names == ("bright", "dark")
    assert (data.num_channels, data.num_outputs, data.multi_label) == (1, 2, False)
    assert data.class_counts == {"train": [6, 3], "val": [2, 1], "test": [0, 0]}
    assert data.batches_per_epoch == 3
    assert json.loads(json.dumps(data.statistics)) == data.statistics
    assert data.fingerprint == open_data(make_config()).fingerprint
    assert data.fingerprint != open_data(make_config(normalisation="zscore")).fingerprint
    assert_too_few_cases(make_config(20), "20 is more than the 9 training cases")


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [False, True])
def test_batches(make_config: Any, prepared: bool) -> None:
    data = open_data(make_config(workers=2))
    if prepared:
        data.prepare_all()
    found = batches(data)
    assert len(found) == 3
    seen = []
    for batch in found:
        assert batch["x"].shape == (3, 8, 10, 12, 1)
        assert [batch[key].dtype for key in ("x", "y", "index")] == [np.float32, np.int32, np.int64]
        for x, y, index in zip(batch["x"], batch["y"], batch["index"], strict=True):
            case = data.cases("train")[index]
            assert y == case.label
            assert np.median(x) == pytest.approx(100 - 200 * y, abs=1)
            np.testing.assert_array_equal(x, data.load(case).views[0])  # the patch holds the whole volume
            seen.append(int(index))
    assert sorted(seen) == list(range(9))


def test_patches_are_random_in_training_and_central_in_evaluation(make_config: Any) -> None:
    data = open_data(make_config(patch_size_voxels=(4, 4, 4)))
    assert data.load("bright0").views.shape == (1, 4, 4, 4, 1)
    assert data.load("bright0").views[0, 2, 2, 2, 0] > 900  # index 8 // 2 of D, less the offset (8 - 4) // 2
    first = [batches(data, epoch)[0]["x"] for epoch in (0, 1)]
    assert not np.array_equal(*first)
    with_outlier = [(x > 900).any() for epoch in range(6) for b in batches(data, epoch) for x in b["x"]]
    assert 0 < sum(with_outlier) < len(with_outlier)


def test_small_volumes_are_padded_on_all_sides(make_config: Any) -> None:
    views = open_data(make_config(patch_size_voxels=(12, 12, 14))).load("dark0").views
    assert views.shape == (1, 12, 12, 14, 1)
    filled = np.argwhere(views[0, ..., 0] != 0)
    assert filled.min(axis=0).tolist() == [2, 1, 1]
    assert filled.max(axis=0).tolist() == [9, 10, 12]


def test_augmentation(make_config: Any) -> None:
    flip = {"flip": {"probability": 1.0, "axes": [2]}}
    plain, flipped = (batches(open_data(make_config(augment=a)))[0] for a in ({}, flip))
    np.testing.assert_array_equal(flipped["x"], plain["x"][:, :, :, ::-1])
    assert not np.array_equal(
        batches(open_data(make_config(augment={"noise": {"probability": 1}})))[0]["x"], plain["x"]
    )


def test_a_crop_is_warned_of(make_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        open_data(make_config(patch_size_voxels=(8, 10, 11)))
    assert "patch_size_voxels=[8, 10, 11] is less than the largest volume, [8, 10, 12]" in caplog.text


def test_normalisation_and_spacing(make_config: Any) -> None:
    views = open_data(make_config(normalisation="zscore", spacing_mm=(2, 2, 2))).load("bright1").views
    assert (views != 0).sum() == 4 * 5 * 6
    assert views[views != 0].mean() == pytest.approx(0, abs=1e-5)
    assert views[views != 0].std() == pytest.approx(1, abs=1e-4)


def test_balanced_epochs(make_config: Any) -> None:
    data = open_data(make_config(1, balance="classes", patch_size_voxels=(4, 4, 4)))
    for epoch in range(3):
        found = batches(data, epoch)
        counts = np.bincount([int(batch["y"][0]) for batch in found])
        assert sorted(counts.tolist()) == [4, 5]
        dark = [batch for batch in found if batch["y"][0] == 1]
        again = [b for b in dark if b["index"][0] == dark[0]["index"][0]]
        if len(again) > 1:
            assert not np.array_equal(again[0]["x"], again[1]["x"])  # another patch of the same case
    assert_an_epoch_goes_on(data, 1, 4)


def test_processes_share_each_batch(make_config: Any) -> None:
    assert_processes_share_batches_of_four(make_config(4))


def test_prepared_once(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []
    data = open_data(make_config())
    data.prepare_all(progress=lambda done, total: steps.append((done, total)))
    assert steps == [(n, 12) for n in range(1, 13)]
    held = {name: entry.arrays["volume"] for name, entry in data._store._memory.items()}
    assert sorted(held) == data.splits["train"]
    assert not any(isinstance(volume, np.memmap) for volume in held.values())
    monkeypatch.setattr("data.volume_input.prepare", None)  # would raise if anything were prepared again
    open_data(make_config()).prepare_all()


def test_bad_volumes(make_config: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        for number in range(4):
            write_volume(tmp_path / "bad" / name / f"{name}{number}.nii.gz", 0, seed=10 * number + ord(name))
    (tmp_path / "bad" / "a" / "a1.nii.gz").write_bytes(b"nothing")
    nan = np.full((4, 4, 4), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(nan, np.eye(4)), tmp_path / "bad" / "b" / "b2.nii.gz")
    with pytest.raises(ValueError, match=r"(?s)1 of 8 cases cannot be used.*a1\.nii\.gz"):
        open_data(make_config(root=tmp_path / "bad"))
    data = open_data(make_config(root=tmp_path / "bad", on_error="skip"))
    data.prepare_all()
    assert [(case_id, Path(file).name) for case_id, file, _ in data.skipped] == [
        ("a1", "a1.nii.gz"),
        ("b2", "b2.nii.gz"),
    ]
    assert len(data.cases("all")) == 6


def test_a_copy_in_another_split_is_found(make_config: Any, shared_root: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_root, tmp_path / "data")
    whole = open_data(make_config())
    paths = {name: whole.cases(name)[0].images[0].relative_to(shared_root.resolve()) for name in ("train", "val")}
    shutil.copy(tmp_path / "data" / paths["val"], tmp_path / "data" / paths["train"])
    with pytest.raises(ValueError, match=rf"{paths['train']}: a copy of case {whole.splits['val'][0]} \(.*put both"):
        open_data(make_config(root=tmp_path / "data")).prepare_all()


def test_classes_that_may_coincide(make_config: Any, shared_root: Path, tmp_path: Path) -> None:
    rows = [f"{shared_root}/bright/bright{n}.nii.gz,{int(n % 2 == 0)},{int(n < 3)}" for n in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["path,even,small", *rows, f"{shared_root}/dark/dark0.nii.gz,,"]))
    config = make_config(2, root=tmp_path / "t.csv", source="csv", columns={"label": ["even", "small"]})
    data = open_data(config)
    assert (data.multi_label, data.class_names) == (True, ("even", "small"))
    assert data.splits["test"] == ["dark0"]  # no label
    for batch in batches(data):
        assert batch["y"].shape == (2, 2)
        assert batch["y"].dtype == np.float32
        for y, index in zip(batch["y"], batch["index"], strict=True):
            assert tuple(y) == data.cases("train")[index].label
    assert data.load("bright2").label.tolist() == [1, 1]
    assert data.load("dark0").label is None
    assert np.sum(list(data.class_counts.values()), axis=0).tolist() == [4, 3]
    with pytest.raises(ValueError, match=r"data\.balance=classes needs one class a case"):
        open_data(
            make_config(root=tmp_path / "t.csv", source="csv", columns={"label": ["even", "small"]}, balance="classes")
        )


def test_other_data_with_a_run_s_classes(make_config: Any, tmp_path: Path) -> None:
    trained = open_data(make_config())
    (tmp_path / "other" / "dark").mkdir(parents=True)
    write_volume(tmp_path / "other" / "dark" / "x.nii", -100)
    data = open_data(make_config(root=tmp_path / "other"), statistics=trained.statistics, splits={})
    assert data.class_names == ("bright", "dark")
    assert data.load("x").label == 1
    (tmp_path / "other" / "grey").mkdir()
    with pytest.raises(ValueError, match="grey: not one of the classes bright, dark"):
        open_data(make_config(root=tmp_path / "other"), statistics=trained.statistics, splits={})


def test_unlabelled_volumes(make_config: Any, shared_root: Path) -> None:
    trained = open_data(make_config())
    data = open_images(shared_root / "dark", make_config(), trained.statistics)
    assert data.splits == {"images": ["dark0", "dark1", "dark2", "dark3"]}
    assert data.class_names == ("bright", "dark")
    loaded, known = data.load("dark2"), trained.load("dark2")
    assert loaded.label is None
    np.testing.assert_array_equal(loaded.views, known.views)


def test_pictures(make_config: Any) -> None:
    pictures = open_data(make_config()).pictures("bright0")
    assert pictures.shape == (1, 8, 10, 12, 1)
    assert pictures.dtype == np.uint8
    assert pictures.min() == 0
    assert pictures.max() == 255


class TestMedMnist:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        arrays: dict[str, np.ndarray] = {}
        for name, count in (("train", 8), ("val", 4)):
            arrays[f"{name}_images"] = rng.integers(0, 255, (count, 6, 7, 8)).astype(np.uint8)
            arrays[f"{name}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
        np.savez_compressed(tmp_path / "tinymnist3d.npz", **arrays)
        return tmp_path / "tinymnist3d.npz"

    def test_rows(self, make_config: Any, archive: Path) -> None:
        config = make_config(
            4,
            root=archive,
            source="medmnist",
            split={"kind": "given"},
            patch_size_voxels=(6, 7, 8),
            class_names=["no", "yes"],
        )
        data = open_data(config)
        assert {name: len(ids) for name, ids in data.splits.items()} == {"train": 8, "val": 4, "test": 0}
        data.prepare_all()
        images = np.load(archive)["val_images"]
        np.testing.assert_array_equal(data.load("val_2").views[0, ..., 0], images[2])
        assert [data.load(case).label for case in data.cases("val")] == [0, 1, 0, 1]
        batch = batches(data)[0]
        train = np.load(archive)["train_images"]
        for x, index in zip(batch["x"], batch["index"], strict=True):
            np.testing.assert_array_equal(x[..., 0], train[index])

    def test_a_copied_row_is_found(self, make_config: Any, archive: Path) -> None:
        arrays = dict(np.load(archive))
        arrays["train_images"][3] = arrays["val_images"][1]
        np.savez_compressed(archive, **arrays)
        split = {"kind": "given"}
        config = make_config(root=archive, source="medmnist", split=split, patch_size_voxels=(6, 7, 8))
        with pytest.raises(ValueError, match=r"tinymnist3d\.npz: a copy of case val_1 \(.*\), which is in val"):
            open_data(config).prepare_all()

    def test_normalised(self, make_config: Any, archive: Path) -> None:
        config = make_config(root=archive, source="medmnist", normalisation="zscore", patch_size_voxels=(6, 7, 8))
        views = open_data(config).load("train_3").views
        assert views.mean() == pytest.approx(0, abs=1e-5)
        assert views.std() == pytest.approx(1, abs=1e-4)

    def test_an_unused_split_of_the_archive_is_warned_of(
        self, make_config: Any, archive: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "mlx_volumes"):
            open_data(make_config(root=archive.parent, source="medmnist", patch_size_voxels=(6, 7, 8)))
        assert "the source's own needs data.split.kind=given" in caplog.text

    def test_no_spacing(self, make_config: Any, archive: Path) -> None:
        with pytest.raises(ValueError, match=r"data\.spacing_mm: MedMNIST's volumes have no spacing"):
            open_data(make_config(root=archive, source="medmnist", spacing_mm=(1, 1, 1)))

    def test_the_shared_archive(self, datasets: Path, make_config: Any) -> None:
        root = datasets / "adrenal"
        if not root.is_dir():
            pytest.skip(f"no archive at {root}")
        listing = make_config(root=root, source="medmnist", split={"kind": "given"})
        from data.layouts.registry import find_labelled

        cases = find_labelled(listing.data).cases
        labels = {name: [case.label for case in cases if case.split == name] for name in ("train", "val", "test")}
        assert {name: (len(found), sum(found)) for name, found in labels.items()} == {
            "train": (1188, 259),
            "val": (98, 22),
            "test": (0, 0),
        }

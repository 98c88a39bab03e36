"""A config's data, from folder to batches."""

import json

import nibabel
import numpy as np
import pytest

from data.dataset import open_data, open_images
from data.files.volumes import read_label
from tests.data.batches import (
    assert_an_epoch_goes_on,
    assert_processes_share_batches_of_four,
    assert_same,
    assert_too_few_cases,
    batches,
)
from tests.data.boxes import boxes_config, put_nan, write_boxes


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory):
    return write_boxes(tmp_path_factory.mktemp("boxes") / "data")


@pytest.fixture
def root(tmp_path):
    """A data set that the test may damage."""
    return write_boxes(tmp_path / "data")


def test_facts_of_a_data_set(shared_root):
    data = open_data(boxes_config(shared_root))
    assert data.class_names == ("background", "bright", "dark")
    assert (data.num_channels, data.num_outputs) == (1, 3)
    assert {name: len(ids) for name, ids in data.splits.items()} == {"train": 8, "val": 3, "test": 0}
    assert data.batches_per_epoch == 4
    assert data.skipped == []
    assert len(data.cases("all")) == 11
    assert json.loads(json.dumps(data.statistics)) == data.statistics
    with pytest.raises(ValueError, match="no split 'dev'; there are train, val, test and all"):
        data.cases("dev")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"workers": 2}, {"workers": 4}, {"cache": {"memory_gb": 0}}])
def test_batches_depend_on_seed_and_epoch_alone(shared_root, settings):
    expected = batches(open_data(boxes_config(shared_root)), epoch=1)
    data = open_data(boxes_config(shared_root, **settings))
    data.prepare_all()
    assert_same(batches(data, epoch=1), expected)


def test_batch_contents(shared_root):
    data = open_data(boxes_config(shared_root, batch_size=3))
    found = batches(data)
    assert len(found) == 2
    assert found[0]["x"].shape == (3, 8, 8, 8, 1)
    assert found[0]["y"].shape == (3, 8, 8, 8)
    assert [found[0][key].dtype for key in ("x", "y", "index")] == [np.float32, np.uint8, np.int64]
    seen = np.concatenate([batch["index"] for batch in found])
    assert len(set(seen.tolist())) == 6
    assert set(seen.tolist()) <= set(range(8))


def test_epochs_seeds_and_samples_differ(shared_root) -> None:
    data = open_data(boxes_config(shared_root))
    orders = [np.concatenate([b["index"] for b in batches(data, epoch)]).tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8))
    other = np.concatenate([b["index"] for b in batches(open_data(boxes_config(shared_root, seed=1)))])
    assert other.tolist() != orders[0]
    first = {int(i): x for b in batches(data, 0) for i, x in zip(b["index"], b["x"], strict=True)}
    second = {int(i): x for b in batches(data, 1) for i, x in zip(b["index"], b["x"], strict=True)}
    assert all(not np.array_equal(first[i], second[i]) for i in first)
    data = open_data(boxes_config(shared_root, augment={}, normalisation="none"))
    for batch in batches(data):
        for x, index in zip(batch["x"], batch["index"], strict=True):
            volume = data.load(data.splits["train"][index]).volume
            windows = np.lib.stride_tricks.sliding_window_view(volume[..., 0], (8, 8, 8))
            assert (windows == x[..., 0]).all(axis=(-1, -2, -3)).any()


@pytest.mark.parametrize("first_batch", [1, 3, 4])
def test_resumed_epoch_goes_on_where_it_stopped(shared_root, first_batch):
    assert_an_epoch_goes_on(open_data(boxes_config(shared_root, workers=2)), 2, first_batch)


def test_processes_share_each_batch_and_batches_fit_the_cases(shared_root) -> None:
    assert_processes_share_batches_of_four(boxes_config(shared_root, batch_size=4))
    assert_too_few_cases(boxes_config(shared_root, batch_size=9), "9 is more than the 8 training cases")


def test_whole_volumes_are_padded(shared_root):
    data = open_data(boxes_config(shared_root, sampling="whole", patch_size_voxels=(16, 16, 16), augment={}))
    for batch in batches(data):
        assert batch["x"].shape[1:] == (16, 16, 16, 1)
        for y, index in zip(batch["y"], batch["index"], strict=True):
            label = data.load(data.splits["train"][index]).label
            assert np.bincount(y.ravel())[1:].tolist() == np.bincount(label.ravel())[1:].tolist()
    with pytest.raises(
        ValueError, match=r"data\.sampling=whole needs data\.patch_size_voxels of at least \[11, 12, 16\]"
    ):
        open_data(boxes_config(shared_root, sampling="whole"))


def test_grid_patches(shared_root):
    data = open_data(boxes_config(shared_root, sampling="grid", augment={}))
    assert batches(data)[0]["x"].shape == (2, 8, 8, 8, 1)


def test_prepared_once(shared_root, monkeypatch):
    config = boxes_config(shared_root, cache={"folder": None})  # below run.dir
    steps = []
    open_data(config).prepare_all(progress=lambda done, total: steps.append((done, total)))
    assert steps == [(n, 11) for n in range(1, 12)]
    assert len(list((shared_root.parent / "runs" / ".cache").glob("*/facts.json"))) == 11
    monkeypatch.setattr("data.volume_input.prepare", None)  # would raise if anything were prepared again
    open_data(config).prepare_all()
    with pytest.raises(TypeError):
        open_data(boxes_config(shared_root, percentiles=(1, 2), cache={"folder": None})).prepare_all()


def test_memory_holds_the_training_cases_when_they_fit(shared_root):
    data = open_data(boxes_config(shared_root))
    data.prepare_all()
    assert not isinstance(data.load(data.splits["train"][0]).volume, np.memmap)
    assert isinstance(data.load(data.splits["val"][0]).volume, np.memmap)
    mapped = open_data(boxes_config(shared_root, cache={"memory_gb": 1e-6}))
    mapped.prepare_all()
    assert isinstance(mapped.load(mapped.splits["train"][0]).volume, np.memmap)


def test_ct_statistics_come_from_training_alone_and_are_reused(root):
    config = boxes_config(root, normalisation="ct", percentiles=(10, 90))
    data = open_data(config)
    voxels = []
    for case in data.cases("train"):
        label, _, _ = read_label(case.label)
        image = np.asarray(nibabel.load(case.images[0]).dataobj).transpose(2, 1, 0)
        voxels.append(image[label > 0])
    known = data.statistics["intensities"][0]
    joined = np.concatenate(voxels)
    # 10,000 voxels of each case were drawn.
    means, spread = [values.mean() for values in voxels], joined.std()
    assert known["mean"] == pytest.approx(np.mean(means), abs=0.03 * spread)
    assert known["std"] == pytest.approx(spread, rel=0.05)
    assert (known["low"], known["high"]) == pytest.approx(tuple(np.percentile(joined, (10, 90))), abs=0.1 * spread)

    for case in data.cases("train"):  # without training files nothing could be measured again
        case.label.rename(case.label.with_suffix(".away"))
    stored = json.loads(json.dumps(data.statistics))
    again = open_data(boxes_config(root, normalisation="ct", on_error="skip"), statistics=stored, splits={})
    assert again.statistics == data.statistics
    val = data.splits["val"][0]
    np.testing.assert_array_equal(again.load(val).volume, data.load(val).volume)
    with pytest.raises(ValueError, match=r"data\.normalisation=zscore, but the run's statistics are for ct"):
        open_data(boxes_config(root, on_error="skip"), statistics=stored, splits={})


def test_splits_and_classes_of_a_run_are_kept(shared_root) -> None:
    config = boxes_config(shared_root)
    splits = {"train": ["case_02", "case_00"], "val": ["case_09"], "test": []}
    data = open_data(config, splits=splits)
    assert data.splits == splits
    assert [case.id for case in data.cases("train")] == ["case_02", "case_00"]
    with pytest.raises(ValueError, match=r"split val: data\.root=.* does not hold other \(1 of 1 cases\)"):
        open_data(config, splits={"train": ["case_00"], "val": ["other"]})
    statistics = open_data(boxes_config(shared_root)).statistics
    with pytest.raises(ValueError, match=r"classes are \['a', 'b', 'c'\], the run was trained with \['background'"):
        open_data(boxes_config(shared_root, class_names=("a", "b", "c")), statistics=statistics)


def test_fingerprint_follows_files_and_preparation(root):
    first = open_data(boxes_config(root)).fingerprint
    assert open_data(boxes_config(root, workers=2, augment={})).fingerprint == first
    assert open_data(boxes_config(root, spacing_mm=(1, 1, 1))).fingerprint != first
    moved = root.rename(root.parent / "moved")
    assert open_data(boxes_config(moved)).fingerprint == first
    put_nan(moved / "imagesTr" / "case_01.nii.gz")
    assert open_data(boxes_config(moved)).fingerprint != first


def test_prediction_returns_to_the_untouched_label(shared_root):
    data = open_data(boxes_config(shared_root, spacing_mm=(0.75, 0.5, 0.5)))
    case = data.cases("val")[0]
    prepared = data.load(case)
    assert prepared.grid.spacing_mm == pytest.approx((0.75, 0.5, 0.5))
    probabilities = np.eye(3, dtype=np.float32)[prepared.label]
    label, spacing_mm = data.read_label(case)
    assert spacing_mm == pytest.approx((1.5, 1.0, 1.0))
    np.testing.assert_array_equal(data.restore(prepared, probabilities), label)
    slabs = [slab for _, slab in data.restore_slabs(prepared, probabilities)]
    np.testing.assert_array_equal(np.concatenate(slabs).argmax(-1), label)


def test_pictures_show_the_centre(shared_root):
    pictures = open_data(boxes_config(shared_root)).pictures("case_00")
    assert (pictures.shape, pictures.dtype) == ((1, 8, 8, 8, 1), np.uint8)
    assert (pictures.min(), pictures.max()) == (0, 255)


def test_merged_labels_train_and_score(shared_root):
    plain, merged = (
        open_data(boxes_config(shared_root, **settings))
        for settings in ({}, {"label_map": {2: 1}, "class_names": ("background", "box")})
    )
    assert (plain.num_outputs, merged.num_outputs) == (3, 2)
    assert plain.fingerprint != merged.fingerprint
    case = merged.cases("val")[0]
    label, _ = merged.read_label(case)
    np.testing.assert_array_equal(label, plain.read_label(case)[0] > 0)
    np.testing.assert_array_equal(merged.load(case).label, label)
    assert {int(batch["y"].max()) for batch in batches(merged)} <= {0, 1}


class TestTrainLabels:
    @pytest.fixture
    def scribbled(self, root):
        """Beside the labels some whose voxels are unmarked, 3, but for a line of each class."""
        (root / "weak").mkdir()
        for path in (root / "labelsTr").iterdir():
            image = nibabel.load(path)
            label = np.asarray(image.dataobj)
            weak = np.full_like(label, 3)
            weak[:, 5, 5], weak[:, 8, 5] = label[:, 5, 5], label[:, 8, 5]
            nibabel.save(nibabel.Nifti1Image(weak, image.affine), root / "weak" / path.name)
        config = boxes_config(root, sampling="whole", patch_size_voxels=(16, 12, 16), train_labels="weak", augment={})
        return config.model_copy(update={"loss": config.loss.model_copy(update={"ignore_label": 3})})

    def test_train_and_the_others_score(self, scribbled):
        data = open_data(scribbled)
        data.prepare_all()
        for batch in batches(data):
            for y, index in zip(batch["y"], batch["index"], strict=True):
                (k, j, i), _ = data.shapes(data.cases("train")[index])
                assert np.count_nonzero(y == 3) == i * (j * k - 2)  # all but two lines along i
        assert set(np.unique(data.load(data.cases("train")[0]).label)) == {0, 1, 2, 3}
        for case in data.cases("val"):
            assert np.count_nonzero(data.load(case).label == 1) == 64
        again = open_data(scribbled, statistics=data.statistics, splits=data.splits, scoring=True)
        assert all(np.count_nonzero(again.load(case).label == 1) == 64 for case in again.cases("train"))

    def test_fingerprint_files_and_checks(self, scribbled, root):
        data = open_data(scribbled)
        plain = scribbled.model_copy(update={"data": scribbled.data.model_copy(update={"train_labels": None})})
        assert open_data(plain).fingerprint == data.fingerprint  # so that runs of both know each other's cases
        assert len(data.files) == 33
        path = root / "weak" / "case_00.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
        with pytest.raises(ValueError, match=r"weak/case_00\.nii\.gz: shape \(4, 4, 4\) differs from"):
            open_data(scribbled)


def test_unlabelled_images_of_a_folder(shared_root, tmp_path):
    config = boxes_config(shared_root, cache={"folder": tmp_path / "new"})
    trained = open_data(config)
    images = open_images(shared_root / "imagesTr", config, trained.statistics)
    assert images.splits == {"images": [f"case_{n:02d}" for n in range(11)]}
    assert images.class_names == trained.class_names
    prepared = images.load("case_03")
    assert prepared.label is None
    assert not (tmp_path / "new").exists()
    np.testing.assert_array_equal(prepared.volume, trained.load("case_03").volume)
    with pytest.raises(ValueError, match="case case_03 has no label file"):
        images.read_label("case_03")


@pytest.mark.slow
def test_hippocampus_is_read_whole(datasets, tmp_path):
    cache = {"folder": tmp_path}
    data = open_data(boxes_config(datasets / "hippocampus", 4, cache=cache, patch_size_voxels=(40, 56, 40)))
    assert data.class_names == ("background", "Anterior", "Posterior")
    assert sum(len(ids) for ids in data.splits.values()) == 208
    for split in ("train", "val"):
        data.splits[split][:] = data.splits[split][:6]
    data.prepare_all()
    (batch,) = batches(data)
    assert batch["x"].shape == (4, 40, 56, 40, 1)
    assert set(np.unique(batch["y"])) == {0, 1, 2}

"""plan.py: configs that load, train as they are, and follow from what was measured."""

import gzip
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import nibabel
import numpy as np
import pytest
import yaml

import plan
import train
from configs import Config
from configs.schema.data import Columns
from data.dataset import open_data
from engine.config import load_config
from ops import memory
from tests.data.write_layouts import write_folders, write_layout, write_volume
from tests.planning.take import config_of, planned, why
from tests.runs import Capture, refused

pytestmark = pytest.mark.slow


def test_a_planned_config_trains_as_it_is(tmp_path: Path, capsys: Capture) -> None:
    file = planned(write_folders(tmp_path / "data"), capsys)
    assert train.main(["--config", str(file), "--dry-run", "ops=mlx", f"run.dir={tmp_path / 'runs'}"]) == 0
    assert (tmp_path / "runs" / "data" / "batch.png").stat().st_size > 10_000
    assert "gradient norm" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["msd", "nnunet", "folders", "csv"])
def test_every_layout_gives_batches(tmp_path: Path, kind: str, capsys: Capture) -> None:
    file = planned(write_layout(kind, tmp_path / "data"), capsys)
    config = load_config(file, [f"run.dir={tmp_path / 'runs'}"])
    assert config.data.source == kind
    batch = first_batch(config)
    assert batch["x"].shape == (2, *config.data.patch_size_voxels, 1)
    assert set(np.unique(batch["y"])) <= {0, 1, 2, 3}


def first_batch(config: Config) -> dict[str, np.ndarray]:
    data = open_data(config)
    data.prepare_all()
    with data.train_stream(0) as stream:
        batch = stream.next()
    assert batch is not None
    return batch


def test_every_decision_is_in_the_file(tmp_path: Path, capsys: Capture) -> None:
    file = planned(write_folders(tmp_path / "data", cases=6, spacing_mm=(3, 1, 0.5)), capsys)
    config = load_config(file)
    assert config.name == "data"
    assert config.data.class_names == ("background", "class_1")
    assert config.data.spacing_mm == (3, 1, 0.5)
    assert config.data.patch_size_voxels == (8, 8, 10)
    assert config.model.args.strides == ((1, 1, 1), (1, 2, 2))
    assert config.model.args.kernels == ((1, 3, 3), (1, 3, 3))
    assert (config.data.foreground_rate, config.data.normalisation) == (0.0, "zscore")
    assert config.data.augment.rotate.degrees == ((-20, 20), (0, 0), (0, 0))
    assert config.evaluate.nsd_tolerance_mm == 0.5
    assert (config.train.steps, config.train.batch_size, config.train.precision) == (1000, 2, "auto")
    assert why(file, "folds") == "kind: kfold"
    assert why(file, "kind") == "# fold 0 trains on 4 cases, validates on 2"
    assert why(file, "spacing_mm") == "# (D, H, W): that of all 6 cases"
    assert why(file, "foreground_rate") == "# patches hold whole cases; 3.7 % of the voxels are foreground"
    assert "6 times as thick as wide" in why(file, "rotate").replace(".0", "")


def test_a_small_memory_crops_the_volume(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "data"
    for case in range(3):
        label = np.zeros((64, 64, 64), np.uint8)
        label[30, 30, 30:34] = 1
        noise = np.random.default_rng(case).integers(1, 99, label.shape).astype(np.uint8)
        write_volume(root / "images" / f"{case}.nii.gz", noise)
        write_volume(root / "labels" / f"{case}.nii.gz", label)
    file = planned(root, capsys, "--memory", "0.6")
    config = load_config(file)
    assert max(config.data.patch_size_voxels) <= 48
    assert config.data.foreground_rate == 0.5  # 4 voxels of 262 144
    assert "of the 0.6 GB allowed" in file.read_text()
    assert config_of(root, capsys, "--memory", "4").data.patch_size_voxels == (64, 64, 64)


def rewrite(root: Path, **facts: Any) -> Path:
    file = root / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))
    return root


@pytest.mark.parametrize("names", [("left kidney", "right kidney"), ("lung_L", "lung_R"), ("LeftAtrium", "aorta")])
def test_sides_are_not_mirrored(tmp_path: Path, names: tuple[str, str], capsys: Capture) -> None:
    root = write_layout("msd", tmp_path / "data", cases=2)
    labels = dict(zip("0123", ("background", *names, "lobe"), strict=True))
    file = planned(rewrite(root, labels=labels), capsys)
    assert load_config(file).data.augment.flip.probability == 0
    assert names[0] in why(file, "flip")


def test_names_without_sides_are_mirrored_across_w_and_ct_is_normalised_as_ct(tmp_path: Path, capsys: Capture) -> None:
    root = write_layout("msd", tmp_path / "data", cases=2)
    labels = dict(zip("0123", ("background", "brightness", "leftover", "L1"), strict=True))
    file = planned(rewrite(root, labels=labels, modality={"0": "CT"}), capsys)
    data = load_config(file).data
    assert (data.augment.flip.probability, data.augment.flip.axes) == (0.5, (2,))
    assert data.normalisation == "ct"
    assert why(file, "normalisation").startswith("# the modality is CT")


def test_an_empty_border_is_cropped(tmp_path: Path, capsys: Capture) -> None:
    root = write_folders(tmp_path / "data", cases=3)
    for path in (root / "images").iterdir():
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj)
        voxels[:3] = 0  # W: 7 of 10 are left
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    file = planned(root, capsys)
    data = load_config(file).data
    assert (data.crop_nonzero, data.normalisation, data.patch_size_voxels) == (True, "zscore_nonzero", (8, 8, 7))
    assert why(file, "crop_nonzero") == "# 70 % of the median volume is left without its empty border"


def test_the_source_s_own_split(tmp_path: Path, capsys: Capture) -> None:
    root = write_folders(tmp_path / "data")
    splits = ("train", "train", "val", "test")
    rows = [f"images/case{n}.nii.gz,labels/case{n}.nii.gz,{split}" for n, split in enumerate(splits)]
    (root / "cases.csv").write_text("\n".join(["image,label,split", *rows]))
    file = planned(root / "cases.csv", capsys)
    assert load_config(file).data.split.kind == "given"
    assert why(file, "kind") == "# the source's own: 2 cases train, 1 validate"
    (root / "cases.csv").write_text("\n".join(["t1,seg,split", *rows]))
    config = config_of(root / "cases.csv", capsys, "data.columns.image=t1", "data.columns.label=seg")
    assert config.data.columns.image == "t1"


def test_folds_of_a_table(tmp_path: Path, capsys: Capture) -> None:
    root = write_folders(tmp_path / "data")
    rows = [f"case{number},{'abca'[number]}" for number in range(4)]
    (root / "cases.csv").write_text("\n".join(["case,fold", *rows]))
    patterns = ("data.columns.image=images/{case}.nii.gz", "data.columns.label=labels/{case}.nii.gz")
    config = config_of(root, capsys, *patterns)
    assert (config.data.split.kind, config.data.split.folds) == ("kfold", 3)
    assert config.data.columns == Columns(image="images/{case}.nii.gz", label="labels/{case}.nii.gz")


def test_columns_that_are_channels(tmp_path: Path, capsys: Capture) -> None:
    root = write_folders(tmp_path / "data")
    rows = [f"images/case{n}.nii.gz,images/case{(n + 1) % 4}.nii.gz,labels/case{n}.nii.gz" for n in range(4)]
    (root / "cases.csv").write_text("\n".join(["t1,t2,seg", *rows]))
    columns = ("data.columns.image=[t1, t2]", "data.columns.label=seg", "data.class_names=[background,box]")
    file = planned(root / "cases.csv", capsys, *columns)
    config = load_config(file, [f"run.dir={tmp_path / 'runs'}"])
    assert config.data.class_names == ("background", "box")
    assert first_batch(config)["x"].shape == (2, 8, 8, 10, 2)


def test_bad_cases_are_left_out_aloud(tmp_path: Path, capsys: Capture) -> None:
    root = write_folders(tmp_path / "data", cases=5)
    (root / "images" / "case4.nii.gz").write_bytes(b"no volume")
    assert plan.main([str(root), "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert "plan.py: left out case4: " in captured.err
    tree = yaml.safe_load(captured.out)
    assert tree["data"]["on_error"] == "skip"
    (tmp_path / "mine.yaml").write_text(captured.out)
    assert why(tmp_path / "mine.yaml", "on_error").startswith("# 1 cases cannot be used (case4)")
    config = load_config(tmp_path / "mine.yaml", [f"run.dir={tmp_path / 'runs'}"])
    assert first_batch(config)["x"].shape == (2, 8, 8, 10, 1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("clips", "video clips (clip.mp4) without classes; move those of each class to a folder of its own"),
        ("unlabelled", "0 usable labelled cases, and planning needs at least 2; python -m planning.inspect"),
        ("values", "cannot be classes: renumber them 0 (background), 1, 2 …; set 'data.label_map={255: 1}'"),
        ("group", "cases.csv: 1 group of labelled cases to train and validate on, and planning needs at least 2"),
        ("nothing", "no such file or folder"),
    ],
)
def test_mistakes_exit_with_2(tmp_path: Path, kind: str, message: str, capsys: Capture) -> None:
    root = tmp_path / "data"
    if kind == "clips":
        root.mkdir()
        (root / "clip.mp4").write_bytes(b"")
    elif kind == "unlabelled":
        write_volume(root / "a.nii.gz", np.ones((4, 4, 4), np.uint8))
    elif kind == "values":
        for case in "ab":
            write_volume(root / "images" / f"{case}.nii.gz", np.arange(64, dtype=np.uint8).reshape(4, 4, 4))
            write_volume(root / "labels" / f"{case}.nii.gz", np.eye(4, dtype=np.uint8)[..., None].repeat(4, 2) * 255)
    elif kind == "group":
        write_folders(root, cases=3)
        rows = [f"images/case{n}.nii.gz,labels/case{n}.nii.gz,a" for n in range(3)]
        (root / "cases.csv").write_text("\n".join(["image,label,group", *rows]))
    assert message in refused(plan, capsys, root, "--threads", "1")


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "much"])
def test_memory_must_be_a_number(value: str, tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        plan.main([str(tmp_path), f"--memory={value}"])
    assert stopped.value.code == 2
    assert "argument --memory: " in capsys.readouterr().err


def test_the_memory_is_the_devices_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "on_gpu", lambda: False)
    monkeypatch.setattr(memory, "physical_memory", lambda: 24 * 10**9)
    monkeypatch.setattr(memory, "cgroup_memory", lambda: None)
    assert plan.default_memory_gb() == 4.0
    monkeypatch.setattr(memory, "cgroup_memory", lambda: 3 * 10**9)
    assert plan.default_memory_gb() == 2.4
    monkeypatch.setattr(memory, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 18 * 10**9})
    assert plan.default_memory_gb() == 16.2


@pytest.mark.parametrize("memory_gb", ["0", "-1", "nan", "inf", "1e7", "much"])
def test_memory_that_no_machine_has_is_refused(tmp_path: Path, memory_gb: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        plan.main([str(tmp_path), f"--memory={memory_gb}"])
    assert "expected GB, above 0 and at most a million, got '" in capsys.readouterr().err


def test_spacings_that_training_refuses_end_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    folder = write_folders(tmp_path / "data", spacing_mm=(1, 1, 1e-5))
    message = refused(plan, capsys, str(folder)).strip()
    assert message.startswith(
        f"plan.py: {folder}: its files would need a config that training refuses: data.spacing_mm["
    )
    assert message.endswith("got 1e-05")
    assert "\n" not in message


def test_a_header_of_more_voxels_than_there_are_is_left_out(tmp_path: Path, capsys: Capture) -> None:
    folder = write_folders(tmp_path / "data", cases=4)
    path = sorted((folder / "images").iterdir())[0]
    header = nibabel.load(path).header
    header.set_data_shape((4096, 4096, 4096))
    path.write_bytes(
        gzip.compress(header.binaryblock + bytes(4 + 1000)) if path.suffix == ".gz" else header.binaryblock
    )
    mx.reset_peak_memory()
    assert plan.main([str(folder)]) == 0
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "left out" in line and str(path) in line]
    assert "4096" in line or "bytes" in line
    assert "on_error: skip" in printed.out

"""plan.py for cases with classes, and for beginning with a run's weights: configs that train as they are."""

from pathlib import Path

import numpy as np
import pytest

import plan
import train
from configs import Config
from data.dataset import open_data
from engine.config import load_config
from engine.runs.run_folder import RunFolder
from tests.data.clip_files import numbered, write_clip
from tests.data.write_layouts import write_folders, write_volume
from tests.planning.take import config_of, planned
from tests.runs import Capture, refused

QUICK = ("train.epochs=null", "train.steps=2", "train.validate_every_steps=2", "optim.warmup_steps=1")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]


def write_volumes(root: Path, cases: int, shape: tuple[int, int, int] = (8, 8, 10), rare: int = 2) -> Path:
    for number in range(cases):
        noise = np.random.default_rng(number).integers(1, 99, shape).astype(np.uint8)
        write_volume(root / ("ill" if number % rare else "healthy") / f"case{number:02d}.nii.gz", noise)
    return root


def write_clips(root: Path, clips: int, names: tuple[str, str] = ("fight", "peace")) -> Path:
    for number in range(clips):
        folder = root / names[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_clip(folder / f"clip{number:02d}.mp4", np.roll(numbered(16, (24, 32)), number, axis=0))
    rows = [f"{path.relative_to(root)},{path.parent.name},{path.stem[-1]}" for path in sorted(root.glob("*/*.mp4"))]
    (root / "groups.csv").write_text("\n".join(["file,label,group", *rows]))
    return root


def trains(file: Path, tmp_path: Path) -> Config:
    """Train two steps of the config as it is; returns it."""
    runs = f"run.dir={tmp_path / 'runs'}"
    assert train.main(["--config", str(file), *QUICK, runs]) == 0
    return load_config(file, [runs])


def pretend(config: Config, num_channels: int = 1) -> RunFolder:
    """A run of the config, as far as planning looks at it."""
    run = RunFolder.create(config)
    facts = {"class_names": config.data.class_names, "file_channels": num_channels, "num_channels": num_channels}
    run.write_json("statistics", facts)
    return run


def test_volumes_train_as_planned(tmp_path: Path, capsys: Capture) -> None:
    file = planned(write_volumes(tmp_path / "data", cases=20, rare=4), capsys)
    config = trains(file, tmp_path)
    assert (config.name, config.task, config.data.source) == ("data", "classification", "classes")
    assert config.data.class_names == ("healthy", "ill")
    assert config.data.patch_size_voxels == (8, 8, 10)
    assert (config.data.balance, config.data.augment.flip.probability) == ("classes", 0)
    assert (config.data.split.kind, config.data.split.folds) == ("kfold", 5)
    assert (config.model.name, config.train.batch_size, config.train.precision) == ("resnet3d", 4, "auto")
    assert "# an epoch draws as many of each; training has healthy 4, ill 12" in file.read_text()
    assert (tmp_path / "runs" / "data" / "report.html").exists()


def test_an_archive_trains_as_planned(tmp_path: Path, capsys: Capture) -> None:
    images = np.random.default_rng(0).integers(1, 99, (24, 24, 24, 24)).astype(np.uint8)
    labels = np.arange(24)[:, None] % 2
    arrays = {"train_images": images[:16], "train_labels": labels[:16]}
    np.savez(tmp_path / "organ.npz", **arrays, val_images=images[16:], val_labels=labels[16:])
    file, runs = planned(tmp_path / "organ.npz", capsys), f"run.dir={tmp_path / 'runs'}"
    assert train.main(["--config", str(file), "--dry-run", runs]) == 0
    assert "gradient norm" in capsys.readouterr().out
    config = load_config(file)
    assert config.data.split.kind == "given"
    assert (config.data.spacing_mm, config.data.patch_size_voxels) == (None, (24, 24, 24))
    assert config.data.balance == "none"
    assert config.model.args.stem_stride == (1, 1, 1)


def test_clips_train_as_planned(tmp_path: Path, capsys: Capture) -> None:
    file = planned(write_clips(tmp_path / "data", clips=20), capsys)
    config = trains(file, tmp_path)
    assert (config.name, config.data.source) == ("data_groups", "csv")
    clip = config.data.clip
    assert (clip.frames, clip.frame_rate, clip.input, clip.colour) == (16, 10, "differences", "grey")
    assert (clip.short_side_pixels, clip.crop_pixels, clip.clips, clip.crops) == (24, (16, 16), 1, 3)
    assert clip.augment.flip == 0.5
    assert "fold 0 trains on 16 cases, validates on 4; 10 groups stay whole" in file.read_text()
    splits = open_data(config).splits
    assert not {i[-1] for i in splits["train"]} & {i[-1] for i in splits["val"]}


def test_directions_are_not_flipped(tmp_path: Path, capsys: Capture) -> None:
    file = planned(write_clips(tmp_path / "data", clips=20, names=("turn_left", "turnRight")), capsys)
    clip = load_config(file).data.clip
    assert clip.augment.flip == 0
    assert "# off: turnRight, turn_left name a side or a direction" in file.read_text()


def test_classes_that_may_coincide(tmp_path: Path, capsys: Capture) -> None:
    labels = np.array([[1, 1, 0], [0, 1, 1]] * 10)
    images = np.random.default_rng(0).integers(1, 99, (20, 8, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "organ.npz", train_images=images, train_labels=labels, val_images=images, val_labels=labels)
    config = load_config(planned(tmp_path / "organ.npz", capsys), [f"run.dir={tmp_path / 'runs'}"])
    assert open_data(config).class_counts["train"] == [10, 20, 10]
    assert (config.loss.name, config.data.balance) == ("binary_cross_entropy", "none")


def test_volumes_that_do_not_fit_are_made_coarser(tmp_path: Path, capsys: Capture) -> None:
    root = write_volumes(tmp_path / "data", cases=4, shape=(64, 64, 64))
    assert config_of(root, capsys).data.patch_size_voxels == (56, 56, 56)
    config = config_of(root, capsys, "--memory", "0.34")
    assert min(config.data.spacing_mm) > 1
    assert max(config.data.patch_size_voxels) * config.data.spacing_mm[0] == pytest.approx(56, abs=8)


@pytest.mark.parametrize(
    ("cases", "arguments", "message"),
    [
        (2, (), "2 usable labelled cases, and planning needs at least 4"),
        (6, ("--memory", "0.1"), "--memory 0.1: the smallest volumes need about 0.3 GB"),
        (6, ("--from", "nowhere"), "nowhere: not a run"),
    ],
)
def test_mistakes_exit_with_2(tmp_path: Path, cases: int, arguments, message: str, capsys: Capture) -> None:
    root = write_volumes(tmp_path / "data", cases=max(cases, 4))
    for path in sorted(root.glob("*/*"))[cases:]:
        path.write_bytes(b"no volume")
    assert message in refused(plan, capsys, root, "--threads", "1", *arguments)


def test_fine_tuning_begins_with_the_run(tmp_path: Path, capsys: Capture) -> None:
    runs = f"run.dir={tmp_path / 'runs'}"
    settled = [runs, "train.precision=bfloat16"]
    first = load_config(planned(write_folders(tmp_path / "first", spacing_mm=(2, 1, 1)), capsys), settled)
    pretend(first)
    root = write_folders(tmp_path / "second", cases=6, spacing_mm=(1, 1, 1))
    file = planned(root, capsys, "--from", str(first.run_folder))
    text = file.read_text()
    config = load_config(file)
    assert config.name == "second_from_first"
    assert config.model == first.model
    assert (config.data.spacing_mm, config.data.patch_size_voxels) == ((2, 1, 1), first.data.patch_size_voxels)
    assert config.data.root == root
    assert (config.init.source, config.init.input, config.init.head) == (first.run_folder, None, None)
    assert config.optim.learning_rate == pytest.approx(first.optim.learning_rate / 5)
    assert (config.train.steps, config.train.batch_size) == (300, first.train.batch_size)
    assert config.train.precision == "auto"
    assert "# 1000 are planned for drawn weights; fewer will do" in text
    assert "# kept: at another spacing things look larger or smaller to the network" in text


def test_fine_tuning_takes_over_classes_and_channels(tmp_path: Path, capsys: Capture) -> None:
    first = trains(planned(write_folders(tmp_path / "first"), capsys), tmp_path)
    root = tmp_path / "second"
    for case in range(4):
        image = np.random.default_rng(case).integers(1, 50, (8, 8, 10)).astype(np.uint8)
        label = np.zeros((8, 8, 10), np.uint8)
        label[2:4, 3:6, 4:8], label[5:7] = 1, 2
        for kind, array in (("a", image), ("b", 50 - image), ("seg", label)):
            write_volume(root / f"{case}{kind}.nii.gz", array)
    (root / "cases.csv").write_text("a,b,seg\n" + "".join(f"{n}a.nii.gz,{n}b.nii.gz,{n}seg.nii.gz\n" for n in range(4)))
    columns = ("data.columns.image=[a,b]", "data.columns.label=seg", "data.class_names=[background,organ,class_1]")
    file = planned(root / "cases.csv", capsys, *columns, "--from", str(first.run_folder))
    config = trains(file, tmp_path)
    assert (config.init.input, config.init.head) == ("repeat", "by_name")
    assert "# outputs of background, class_1 are taken over, others drawn" in file.read_text()


def test_fine_tuning_clips(tmp_path: Path, capsys: Capture) -> None:
    first = load_config(planned(write_clips(tmp_path / "first", clips=8), capsys), [f"run.dir={tmp_path / 'runs'}"])
    pretend(first)
    root = write_clips(tmp_path / "second", clips=8, names=("run", "walk"))
    file = planned(root, capsys, "--from", str(first.run_folder))
    config = load_config(file)
    assert first.data.clip is not None
    assert config.data.clip == first.data.clip
    assert (config.init.head, config.init.input) == ("new", None)
    assert config.train.epochs == 12
    volumes = write_volumes(tmp_path / "volumes", cases=8)
    said = refused(plan, capsys, volumes, "--threads", "1", "--from", first.run_folder)
    assert "a run for classification of clips, and the data are for classification of volumes" in said
    said = refused(plan, capsys, write_folders(tmp_path / "labels"), "--threads", "1", "--from", first.run_folder)
    assert "a run for classification of clips, and the data are for segmentation of volumes" in said

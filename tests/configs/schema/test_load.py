"""The loader: bases, overrides and messages a person can act on."""

from pathlib import Path

import pytest

from configs import ConfigError
from configs.schema.load import apply_overrides, merge, rename_old_keys
from engine.config import SCHEMA_FILE, config_class, load_config, schema_text

MINIMAL = "name: run\ndata: {root: somewhere, patch_size_voxels: [40, 56, 40]}\ntrain: {steps: 100}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(MINIMAL)
    return file


def test_defaults_and_overrides_and_a_config_that_loads_to_itself(path: Path) -> None:
    config = load_config(path, ["optim.learning_rate=1e-3", "model.args.widths=[8, 16]", "train.steps=7"])
    assert config.optim.learning_rate == 0.001  # PyYAML alone reads 1e-3 as a string
    assert config.model.args.widths == (8, 16)
    assert config.train.steps == 7
    assert config.data.patch_size_voxels == (40, 56, 40)
    values = {"optim.learning_rate": 1e-3, "model.args.widths": (8, 16), "train.steps": 7}
    assert load_config(path, {**values, "data.root": config.data.root}) == config
    config = load_config(path)
    assert config_class().model_validate(config.model_dump(mode="json")) == config


def test_base_is_merged_below(path: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("base: run.yaml\nname: child\ntrain: {batch_size: 5}\n")
    config = load_config(child)
    assert (config.name, config.train.steps, config.train.batch_size) == ("child", 100, 5)


def test_arguments_of_another_model_are_not_mixed() -> None:
    below = {"model": {"name": "a", "args": {"widths": [1]}}}
    assert merge(below, {"model": {"name": "b"}}) == {"model": {"name": "b"}}
    assert merge(below, {"model": {"name": "a"}}) == below


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rat=3", r"optim\.learning_rat: unknown key; did you mean learning_rate\?"),
        ("optim.lr=3", r"optim\.lr: unknown key; did you mean learning_rate\?"),
        ("model.args.width=[1]", r"model\.args\.width: unknown key; did you mean widths\?"),
        ("data.augment.flp.probability=1", r"data\.augment\.flp: unknown key; did you mean flip\?"),
        (
            "data.augment.elastic.displacement_voxels=[1, 2]",
            r"data\.augment\.elastic\.displacement_voxels: unknown key; did you mean displacement_mm\?",
        ),
        ("data.zzzz=1", r"data\.zzzz: unknown key; known: .*spacing_mm"),
        ("optim.learning_rate=fast", r"optim\.learning_rate: input should be a valid number.*got 'fast'"),
        ("model.args.dropout.rate=1.0", r"model\.args\.dropout\.rate: input should be less than 1; got 1\.0"),
        ("train.epochs=3", r"train: set exactly one of steps and epochs"),
        ("data.fold=7", r"data: fold=7 must be below split\.folds=5"),
        (
            "data.patch_size_voxels=[90,56,40]",
            r"data\.patch_size_voxels\[0\]=90 must be divisible by 4 "
            r"\(model unet3d has 2 downsamplings\); use 88 or 92",
        ),
        ("evaluate.mirror_axes=[0]", r"evaluate\.mirror_axes holds 0, which training does not flip"),
        ("loss.class_weights=[1,2]", r"loss\.class_weights has 2 entries; data\.class_names has 3"),
        ("data.label_map={2: 3}", r"data\.label_map\[2\]=3: data\.class_names has 3 classes, 0 to 2"),
        ("init.form=runs/a", r"init\.form: unknown key; did you mean from\?"),
        ("init.head=new", r"init\.from: required, but not set"),
        ("name=../elsewhere", r"name: string should match pattern"),
        ("model.name=unet", r"model\.name: unknown, 'unet'; did you mean unet3d\?"),
        (
            "loss.supervise_coarsest=false",
            r"loss\.supervise_coarsest=false needs deep supervision, .*; set model\.args\.deep_supervision=true",
        ),
        ("model.args.dropout.position=first", r"position: input should be 'after_activation', 'before_norm' or"),
        ("model.name=vit", r"model\.name: unknown, 'vit'; known: unet3d, cnn3d, resnet3d, r3d_18"),
        ("model.name=cnn3d", r"model\.name=cnn3d classifies; use unet3d, or set task=classification"),
        ("data.source=classes", r"data\.source=classes gives a class for each case; set task=classification"),
        ("data.clip.frames=8", r"data\.clip gives a class for each case; set task=classification"),
        ("data.balance=classes", r"data\.balance is for task=classification; see data\.foreground_rate"),
        ("seed", r"override 'seed': expected key\.path=value"),
        ("seed=[", r"override 'seed=\[': the value is not YAML"),
    ],
)
def test_mistakes_name_path_and_mend(path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(path, ["data.class_names=[background, a, b]", override])


def test_a_label_map_is_kept_and_every_problem_is_listed(path: Path) -> None:
    config = load_config(path, ["data.label_map={2: 1}", "data.class_names=[background, organ]"])
    assert config.data.label_map == {2: 1}
    assert config_class().model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match=r"(?s)2 problem\(s\).*seed.*data\.workers"):
        load_config(path, ["seed=-1", "data.workers=0"])


def test_init_keeps_its_keys_through_the_resolved_config(path: Path) -> None:
    config = load_config(path, ["init.from=runs/a", "init.head=by_name"])
    assert config.init is not None
    assert (config.init.source, config.init.weights) == (Path("runs/a"), "ema")
    tree = config.model_dump(mode="json")
    assert tree["init"]["from"] == "runs/a"
    assert config_class().model_validate(tree) == config


CLASSIFIER = """
name: run
task: classification
data: {source: classes, root: somewhere, clip: {frames: 8}}
model: {name: cnn3d, args: {widths: [8, 16]}}
train: {steps: 100}
"""


def test_a_classifier(path: Path) -> None:
    path.write_text(CLASSIFIER)
    config = load_config(path, ["data.patch_size_voxels=[5,5,5]"])  # needs no divisibility
    assert (config.model.name, config.model.args.widths) == ("cnn3d", (8, 16))
    assert config.data.input_size == (8, 112, 112)
    assert load_config(path, ["data.clip=null"]).data.input_size == (48, 48, 48)
    assert config_class().model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.args.width=[1]", r"model\.args\.width: unknown key; did you mean widths\?"),
        ("data.clip.frame=1", r"data\.clip\.frame: unknown key; did you mean frames\?"),
        ("model.name=unet3d", r"model\.name=unet3d segments; task=classification needs cnn3d"),
        ("data.source=msd", r"data\.source=msd gives label volumes; .* takes classes, medmnist or csv"),
        ("data.source=medmnist", r"data\.clip is for video; data\.source=medmnist holds volumes, leave it out"),
        ("data.normalisation=ct", r"data\.normalisation=ct needs label volumes; use percentile or zscore"),
        ("data.clip.crop_pixels=[112,160]", r"data\.clip: short_side_pixels=128 must be at least 160"),
        ("data.clip.mean=[0,1]", r"data\.clip: mean has 2 values; colour=rgb needs 1 or 3"),
        ("data.clip.std=[0]", r"data\.clip: std must be above 0; got \[0\.0\]"),
        ("data.clip={frame_rate: 8, stride: 2}", r"data\.clip: set frame_rate or stride, not both; got 8\.0 and 2"),
        (
            "data.clip={single_frame: true, input: differences}",
            r"data\.clip: single_frame has no differences between frames; use input=frames",
        ),
        ("evaluate.mirror_axes=[2]", r"evaluate\.mirror_axes holds 2, which training does not flip"),
    ],
)
def test_mistakes_in_a_classifier(path: Path, override: str, message: str) -> None:
    path.write_text(CLASSIFIER)
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_broken_files(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rn\.yaml: no such config file; did you mean .*run\.yaml\?"):
        load_config(tmp_path / "rn.yaml")
    (tmp_path / "child.yaml").write_text("base: absent.yaml\n")
    with pytest.raises(ConfigError, match=r"absent\.yaml, the base of .*child\.yaml: no such config file"):
        load_config(tmp_path / "child.yaml")
    (tmp_path / "child.yaml").unlink()
    with pytest.raises(ConfigError, match=r"other: no such config file; found run\.yaml"):
        load_config(tmp_path / "other")
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path)
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="expected a mapping of config keys, got list"):
        load_config(path)
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: an empty file; write a config"):
        load_config(path)
    path.write_text("base: run.yaml\n")
    with pytest.raises(ConfigError, match="form a circle"):
        load_config(path)
    path.write_text("base: 3\n")
    with pytest.raises(ConfigError, match="base: expected one file name, got 3"):
        load_config(path)


def test_exported_schema_is_up_to_date() -> None:
    assert SCHEMA_FILE.read_text() == schema_text(), "run: python -m engine.config"


def test_keys_of_an_earlier_version_are_renamed() -> None:
    elastic = {"probability": 0.2, "displacement_voxels": [1.0, 4.0]}
    assert rename_old_keys({"data": {"augment": {"elastic": elastic}}}) == {
        "data": {"augment": {"elastic": {"probability": 0.2, "displacement_mm": [1.0, 4.0]}}}
    }
    for tree in ({}, {"data": None}, {"data": {"augment": []}}, None):
        assert rename_old_keys(tree) == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("*_img.nii.gz", "*_img.nii.gz"),
        ("[*/t1.nii.gz, */t2.nii.gz]", ["*/t1.nii.gz", "*/t2.nii.gz"]),
        ("'*_a.nii'", "*_a.nii"),
        ("sub-*/**/*_T1w.nii.gz", "sub-*/**/*_T1w.nii.gz"),
    ],
)
def test_a_pattern_in_an_override_is_no_alias(text: str, value: object) -> None:
    assert apply_overrides({}, [f"data.images={text}"]) == {"data": {"images": value}}


def test_a_pattern_in_a_file_is_quoted(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data: {images: *_img.nii.gz}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: not valid YAML \(.*\); quote a pattern: '\*_img\.nii\.gz'"):
        load_config(file)

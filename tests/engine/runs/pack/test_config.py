from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import Config
from engine.runs.pack.archive import PackError
from engine.runs.pack.config import NO_ROOT, neutral_config, read_config, write_config
from tests.engine.pack.packs import SECRET, make_config

WHERE = Path("model.zip")


def read(tree: Any) -> Config:
    return read_config(yaml.safe_dump(tree).encode(), WHERE)


def packed(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(write_config(make_config(tmp_path, **sections)))
    return tree


def test_paths_and_cases_are_left_out_and_the_rest_stays(tmp_path: Path) -> None:
    config = make_config(tmp_path, optim={"learning_rate": 0.5}, evaluate={"cases": 1}, ops="mlx", threads=3)
    text = write_config(config).decode()
    assert SECRET not in text
    found = read_config(text.encode(), WHERE)
    assert found.name == "small"
    assert found.model == config.model
    assert found.optim.learning_rate == 0.5
    assert found.evaluate.cases is None
    assert found.data.patch_size_voxels == (8, 8, 8)
    assert (found.init, found.ops, found.threads) == (None, "auto", None)
    assert str(found.data.root) == NO_ROOT
    assert found == neutral_config(config)


def test_what_is_the_machines_is_left_out_and_what_decides_the_weights_stays(tmp_path: Path) -> None:
    train = {"steps": 7, "batch_size": 3, "compile": "always", "log_every_steps": 1}
    checkpoint = {"keep": 9, "every_steps": 5, "metric": "dice.organ"}
    distributed = {"batch_norm": "local", "timeout_seconds": 5}
    found = neutral_config(make_config(tmp_path, train=train, checkpoint=checkpoint, distributed=distributed))
    assert (found.train.steps, found.train.batch_size, found.checkpoint.metric) == (7, 3, "dice.organ")
    assert (found.train.compile, found.train.log_every_steps) == ("auto", 10)
    assert (found.checkpoint.keep, found.checkpoint.every_steps) == (2, None)
    assert (found.distributed.batch_norm, found.distributed.timeout_seconds) == ("local", 600)


def test_labels_that_may_coincide_stay_such(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        task="classification",
        data={"source": "csv", "root": "x", "columns": {"label": ["cyst", "stone"], "image": SECRET}},
        model={"name": "cnn3d"},
    )
    found = neutral_config(config)
    assert found.data.columns.label == ("cyst", "stone")
    assert found.data.columns.image is None
    assert found.loss.name == "binary_cross_entropy"


def test_a_strangers_paths_are_never_used(tmp_path: Path) -> None:
    tree = packed(tmp_path)
    tree["run"] = {"dir": "/etc"}
    tree["name"] = "x/y/z"
    tree["resume"] = True
    tree["data"] |= {"root": "/etc", "images": "../../..", "labels": "/root", "cache": {"folder": "/etc/cron.d"}}
    tree["init"] = {"from": "/etc/shadow"}
    found = read(tree)
    assert (str(found.run.dir), found.name, found.resume, found.init) == ("runs", "z", False, None)
    assert (str(found.data.root), found.data.images, found.data.labels) == (NO_ROOT, "images", "labels")
    assert found.data.cache.folder is None


@pytest.mark.parametrize("name", ["../x", "/x", "x/../../y", "", "x\n", "x\x1b"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(PackError, match="name: "):
        read({**packed(tmp_path), "name": name})


BOMB = b"k0: &k0 [x, x]\n" + b"\n".join(b"k%d: &k%d [*k%d, *k%d]" % (i, i, i - 1, i - 1) for i in range(1, 40))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (BOMB, "aliases"),
        (b"a: &a\n  b: *a\n", "lies within what it stands for"),
        (b"!!python/object/apply:os.system ['touch owned']", "is not read; write a plain value"),
        (b"name: !!python/name:os.system", "is not read; write a plain value"),
        (b"[" * 5_000, "not plain YAML"),
        (b"a: " + b"9" * 10_000, "not plain YAML"),
        (b"\xff\xfe\x00", "not plain YAML"),
        (b"\x00", "not plain YAML"),
        (b"[1, 2]", "expected a mapping of config keys, got list"),
        (b"", "expected a mapping of config keys, got NoneType"),
        (b"a: 2001-99-99", "not plain YAML"),
        (b"name: x\nbase: /etc/passwd\n", "base: unknown key"),
        (b'"\\e[31mevil\\n": 1', "unknown key"),
    ],
)
def test_hostile_yaml(content: bytes, match: str) -> None:
    with pytest.raises(PackError, match=match) as caught:
        read_config(content, WHERE)
    assert str(caught.value).startswith("model.zip/config.yaml: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_control_characters_do_not_come_through(tmp_path: Path) -> None:
    tree = packed(tmp_path)
    tree["checkpoint"]["metric"] = "dice.\x1b[31mred"
    assert read(tree).checkpoint.metric == "dice.\ufffd[31mred"


@pytest.mark.parametrize(
    ("section", "key", "value", "match"),
    [
        ("data", "patch_size_voxels", [4096, 4096, 4096], "voxels of an input: 68,719,476,736"),
        ("data", "patch_size_voxels", [2**20, 4, 4], r"patch_size_voxels\[0\]: .*16384; got 1048576"),
        ("evaluate", "window_size_voxels", [2048, 2048, 2048], "voxels of an input"),
        ("evaluate", "window_batch", 10**9, r"window_batch: .*65536; got 1000000000"),
        ("train", "batch_size", 10**9, r"batch_size: .*65536; got 1000000000"),
        ("evaluate", "bootstrap_samples", 10**9, r"bootstrap_samples: .*100000; got 1000000000"),
    ],
)
def test_a_config_that_asks_for_absurd_memory(tmp_path: Path, section: str, key: str, value: Any, match: str) -> None:
    tree = packed(tmp_path)
    tree[section][key] = value
    with pytest.raises(PackError, match=match):
        read(tree)


@pytest.mark.parametrize(
    ("clip", "match"),
    [
        ({"frames": 10**6}, r"frames: .*16384; got 1000000"),
        ({"clips": 1000}, "views of a clip"),
        ({"stride": 10**4}, "frame steps of a clip"),
        ({"short_side_pixels": 10**6}, r"short_side_pixels: .*16384; got 1000000"),
    ],
)
def test_clips_that_ask_for_absurd_memory(tmp_path: Path, clip: dict[str, int], match: str) -> None:
    tree = packed(
        tmp_path, task="classification", data={"source": "classes", "root": "x", "clip": {}}, model={"name": "cnn3d"}
    )
    tree["data"]["clip"] |= clip
    with pytest.raises(PackError, match=match):
        read(tree)

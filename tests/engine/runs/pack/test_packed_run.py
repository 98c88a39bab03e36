import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import yaml
from mlx.utils import tree_flatten

from engine.runs.pack import Pack, PackedRun, load_packed, open_run, read_pack, read_weights
from engine.runs.pack import packed_run as pack_run
from engine.runs.pack.archive import PackError, write_archive
from engine.runs.pack.tensors import decode_tensors, encode_tensors
from models import build_model
from tests.engine.pack.packs import make_model, read_members, with_facts, with_members, write_pack


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return write_pack(tmp_path_factory.mktemp("pack"))


def load(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    found = read_pack(path)
    model, statistics = found.config.model, found.facts.statistics
    return load_packed(
        path, lambda: build_model(model.name, model.args, statistics.num_channels, len(statistics.class_names))
    )


def with_config(path: Path, section: str, **changes: Any) -> Path:
    def change(old: bytes) -> bytes:
        tree = yaml.safe_load(old)
        target = tree
        for key in section.split("."):
            target = target[key]
        target.update(changes)
        return yaml.safe_dump(tree).encode()

    return with_members(path, {"config.yaml": change})


def test_the_network_has_the_packs_weights(pack: Pack) -> None:
    model, facts = load(pack.path)
    assert facts == {"name": "best", "step": 3, "weights": "ema", "path": str(pack.path)}
    raw = dict(tree_flatten(make_model(pack.config).parameters()))
    for name, value in tree_flatten(model.parameters()):
        np.testing.assert_array_equal(np.array(value), 0.5 * np.array(raw[name]))


def test_weights_that_are_not_those_of_the_facts(tmp_path: Path, pack: Pack) -> None:
    members = read_members(pack.path)
    content = bytearray(members["model.safetensors"])
    content[-1] ^= 1
    write_archive(tmp_path / "a.zip", {**members, "model.safetensors": bytes(content)})
    with pytest.raises(PackError, match=r"model\.safetensors differs from its SHA-256 in pack\.json"):
        read_weights(tmp_path / "a.zip")


def test_weights_of_another_network(pack: Pack) -> None:
    def rename(content: bytes) -> bytes:
        tensors = decode_tensors(content, "")
        tensors["heads.0.other"] = tensors.pop("heads.0.bias")
        return encode_tensors(tensors)

    path = with_members(pack.path, {"model.safetensors": rename})
    with pytest.raises(PackError, match=r"heads\.0\.bias is None, the config's network has \(2,\)"):
        load(path)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("model.args", {"widths": [1_000_000_000, 2_000_000_000]}),
        ("model.args", {"widths": [100_000] * 2}),
        ("model.args", {"widths": [2] * 3_000}),
        ("model.args", {"convolutions": 1_000_000_000}),
        ("model.args", {"kernels": [[99_999, 99_999, 99_999]] * 2}),
        ("model.args", {"strides": [[1, 1, 1], [1, 4096, 1]], "residual": True}),
        ("data", {"channels": list(range(4000))}),
    ],
)
def test_a_config_of_a_huge_network_is_refused_before_anything_is_built(
    pack: Pack, section: str, changes: dict[str, Any]
) -> None:
    started = time.monotonic()
    with pytest.raises(PackError):
        load(with_config(pack.path, section, **changes))
    assert time.monotonic() - started < 20  # it would take terabytes, and days


def test_inputs_that_the_widest_layer_multiplies(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each within the config's limits; through 4 channels and more they are 2^33 values."""
    monkeypatch.setattr(pack_run, "_MAX_ACTIVATIONS", 1 << 32)
    changed = with_config(pack.path, "data", patch_size_voxels=[1 << 9] * 3, foreground_rate=0.5)
    with_batch = with_config(changed, "evaluate", window_batch=16)
    assert read_pack(with_batch).config.evaluate.window_batch == 16
    with pytest.raises(
        PackError, match=r"16 inputs of \(512, 512, 512\) through \d+ channels, [\d,]+ values, exceed the limit"
    ):
        load(with_batch)


def test_a_config_whose_network_is_larger_by_shapes_alone(pack: Pack) -> None:
    """Sizes that pass the first look: MLX is lazy, so that the network is compared before it takes memory."""
    with pytest.raises(PackError, match="weights and config differ: "):
        load(with_config(pack.path, "model.args", widths=[64, 64]))

    def with_a_long_one(content: bytes) -> bytes:
        return encode_tensors({**decode_tensors(content, ""), "long": mx.zeros(16_000)})

    path = with_members(pack.path, {"model.safetensors": with_a_long_one})
    long = path.rename(pack.path.with_name("long.zip"))
    counted = with_facts(long, parameters=pack.facts.parameters + 16_000).rename(pack.path.with_name("counted.zip"))
    with pytest.raises(PackError, match="weights and config differ: "):
        load(with_config(counted, "model.args", widths=[16_000, 16_000]))  # 55 GB
    with pytest.raises(PackError, match="weights and config differ: "):
        load(with_config(pack.path, "model.args", residual=True))


def test_numbers_that_the_facts_do_not_count(pack: Pack) -> None:
    with pytest.raises(PackError, match=r"pack\.json states 7 numbers, the weights hold "):
        load(with_facts(pack.path, parameters=7))


def test_what_cannot_be_built_is_one_line(pack: Pack) -> None:
    def build() -> nn.Module:
        raise OverflowError("too\nlarge")

    with pytest.raises(PackError, match=r"no network can be built from its config \(too large\)"):
        load_packed(pack.path, build)


def test_a_pack_reads_as_a_run_whose_folder_lies_beside_it(pack: Pack) -> None:
    run = open_run(pack.path)
    assert isinstance(run, PackedRun)
    assert run.path == pack.path.parent / "model"
    assert run.evaluation("val") == pack.path.parent / "model" / "eval" / "val"
    assert run.read_json("statistics")["class_names"] == ["background", "nucleus"]
    assert run.read_config_tree()["run"]["dir"] == str(run.path)
    assert "NOT-IN-THE-PACK" in run.read_config_text()
    assert run.read_metrics() == []
    assert run.checkpoint("best") == pack.path
    with pytest.raises(ValueError, match="a pack holds one checkpoint; leave out --checkpoint last"):
        run.checkpoint("last")
    with pytest.raises(ValueError, match=r"predict with --images FOLDER, or evaluate labelled data with --split all"):
        run.read_json("splits")
    assert not run.path.exists()


def test_temperatures_as_a_run_has_them(pack: Pack) -> None:
    run = PackedRun(with_facts(pack.path, temperatures={"plain": 1.5, "mc_dropout": 2}))
    fitted_on = {"step": 3, "weights": "ema"}
    assert run.has_json("temperature")
    assert run.read_json("temperature") == {
        "temperature": 1.5,
        "fitted_on": fitted_on,
        "mc_dropout": {"temperature": 2.0, "fitted_on": fitted_on},
    }
    assert not PackedRun(pack.path).has_json("temperature")


def test_a_pack_of_another_name(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "model").write_bytes(pack.path.read_bytes())
    with pytest.raises(PackError, match=r"a pack's name ends in \.zip"):
        open_run(tmp_path / "model")


def test_a_folder_is_still_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run: expected a folder with a config"):
        open_run(tmp_path)


def test_outputs_go_into_no_other_run_and_through_no_link(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "model.zip").write_bytes(pack.path.read_bytes())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "eval").symlink_to(tmp_path / "elsewhere")
    run = PackedRun(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="is a link to another place, where nothing is written"):
        run.evaluation("val")
    (tmp_path / "model" / "eval").unlink()
    (tmp_path / "model" / ".cache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link to another place"):
        PackedRun(tmp_path / "model.zip")
    (tmp_path / "model" / ".cache").unlink()
    (tmp_path / "model" / "config.yaml").write_text("name: x\n")
    with pytest.raises(ValueError, match="is another run: set --output FOLDER"):
        run.evaluation("val")


def test_nothing_is_written_by_reading(tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.zip").write_bytes(pack.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    run = open_run("model.zip")
    load(run.checkpoint("best"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_no_pickle_is_read(tmp_path: Path, pack: Pack) -> None:
    """The classic attack: weights as a pickle that runs a command when it is loaded."""
    import os
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    evil = pickle.dumps(Evil())
    for name in ("model.safetensors", "config.yaml"):
        with pytest.raises(PackError):
            load(with_members(pack.path, {name: evil}))
    members = {**read_members(pack.path), "pack.json": evil}
    write_archive(tmp_path / "a.zip", members)
    with pytest.raises(PackError):
        load(tmp_path / "a.zip")
    assert not (tmp_path / "owned").exists()

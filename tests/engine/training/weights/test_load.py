"""Start weights from a run, a checkpoint, a file and a pack."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from configs import Config
from configs.schema.weights import InitConfig
from engine.runs.pack import export_run
from engine.runs.run_folder import RunFolder
from engine.training.weights.load import Start, read_start
from tests.engine.pack.packs import CLASS_NAMES, make_model, write_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Config]:
    """A run with a checkpoint at step 3, whose averaged weights are half the raw ones."""
    return write_run(tmp_path_factory.mktemp("trained"))


def read(path: Path, **keys: object) -> Start:
    return read_start(InitConfig.model_validate({"from": str(path), **keys}))


def scale(start: Start, checkpoint: Path) -> float:
    """Return the ratio of the weights read to the raw ones."""
    name = "encoder.0.blocks.0.conv.weight"
    raw = mx.load(str(checkpoint / "model.safetensors"))[name]
    return float(np.mean(np.array(start.tensors[name]) / np.array(raw)))


@pytest.mark.parametrize("name", ["best", "last"])
@pytest.mark.parametrize(("weights", "factor"), [("ema", 0.5), ("raw", 1.0)])
def test_a_run(trained: tuple[RunFolder, Config], name: str, weights: str, factor: float) -> None:
    run, _ = trained
    start = read(run.path, checkpoint=name, weights=weights, head="by_name")
    assert scale(start, run.checkpoint("3")) == pytest.approx(factor)
    assert start.class_names == tuple(CLASS_NAMES)
    assert (start.facts["step"], start.facts["weights"]) == (3, weights)
    assert start.facts["file"].endswith(f"checkpoints/3/{'ema' if weights == 'ema' else 'model'}.safetensors")


def test_a_checkpoint_within_its_run_and_taken_out_of_it(trained: tuple[RunFolder, Config], tmp_path: Path) -> None:
    run, _ = trained
    start = read(run.checkpoints / "3")
    assert scale(start, run.checkpoint("3")) == pytest.approx(0.5)
    assert start.class_names == tuple(CLASS_NAMES)
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in (run.checkpoints / "3").iterdir():
        (alone / file.name).write_bytes(file.read_bytes())
    assert read(alone).class_names is None
    with pytest.raises(ValueError, match=r"init\.head=by_name: .* does not name its classes; use new"):
        read(alone, head="by_name")
    (alone / "ema.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"init\.from=.*alone: .*ema\.safetensors: expected \d+ bytes, found 0"):
        read(alone)


def test_a_pack_and_what_leaves_no_choice(trained: tuple[RunFolder, Config], tmp_path: Path) -> None:
    run, config = trained
    export_run(tmp_path / "model.zip", run, config, make_model(config), run.checkpoint("best"), "best", None)
    start = read(tmp_path / "model.zip", head="by_name")
    assert scale(start, run.checkpoint("3")) == pytest.approx(0.5)
    assert start.class_names == tuple(CLASS_NAMES)
    assert (start.facts["step"], start.facts["weights"]) == (3, "ema")
    checkpoint = run.checkpoints / "3"
    for path in (checkpoint / "model.safetensors", tmp_path / "model.zip"):
        with pytest.raises(ValueError, match=r"init\.weights=raw chooses within a run; init\.from names a single file"):
            read(path, weights="raw")
    for path in (checkpoint / "model.safetensors", tmp_path / "model.zip", checkpoint):
        with pytest.raises(ValueError, match=r"init\.from=.*: init\.checkpoint=last chooses within a run"):
            read(path, checkpoint="last")


def test_a_file_says_where_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    mx.save_safetensors(str(path), {"a": mx.ones((100,))}, {"architecture": "r3d_18", "source": "r3d.pth"})
    start = read(path)
    assert start.tensors["a"].tolist() == [1] * 100
    assert start.facts["metadata"] == {"architecture": "r3d_18", "source": "r3d.pth"}
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"init\.from=.*w\.safetensors: cannot be read"):
        read(path)


def test_other_files_are_refused_as_a_start(trained: tuple[RunFolder, Config], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"init\.from=runs/nowhere: no such file or folder; expected a run, a check"):
        read(Path("runs/nowhere"))
    with pytest.raises(ValueError, match=r"init\.from=.*: expected a run's folder, a checkpoint's, a \.safetensors"):
        read(tmp_path)
    (tmp_path / "w.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"init\.from=.*w\.pth: PyTorch's weights: convert them first, python -m eng"):
        read(tmp_path / "w.pth")
    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(ValueError, match=r"init\.from=.*: checkpoint 'best': no such checkpoint .*: none yet"):
        read(tmp_path)

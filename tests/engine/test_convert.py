"""Weights in PyTorch's names and layout become ours; what does not map is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import yaml
from mlx.utils import tree_flatten

from engine import convert as module
from engine.convert import Conversion, convert, describe_config, expected_shapes, main, strip_prefix, to_channels_last
from machine.terminal import printable
from models import build_model
from models.resnet3d import ResNet3dArgs
from models.weights.published import PUBLISHED
from tests.models import seeded

SMALLEST = "medicalnet_resnet10"


def published(architecture: str = SMALLEST, channels: int = 1, outputs: int = 2) -> dict[str, np.ndarray]:
    """Weights of the architecture as its library stores them."""
    known = PUBLISHED[architecture]
    state = {}
    for name, shape in expected_shapes({"name": known.model, "args": known.args}, channels, outputs).items():
        layout = (shape[0], shape[-1], *shape[1:-1]) if len(shape) == 5 else shape
        state[known.name_there(name)] = np.zeros(layout, np.float32)
    return state


@pytest.fixture(scope="module")
def state() -> Mapping[str, np.ndarray]:
    return published()


def test_layout_and_names() -> None:
    weight = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)  # (O, I, kD, kH, kW)
    ours = to_channels_last(weight)
    assert ours.shape == (2, 4, 5, 6, 3)
    assert ours[1, 2, 3, 4, 0] == weight[1, 0, 2, 3, 4]
    assert ours.flags.c_contiguous
    fc = np.ones((4, 5))
    assert to_channels_last(fc).shape == (4, 5)
    assert strip_prefix({"module.model.a": np.ones(1), "module.model.b": np.ones(2)}).keys() == {"a", "b"}
    assert strip_prefix({"module.a": np.ones(1), "b": np.ones(2)}).keys() == {"module.a", "b"}
    assert strip_prefix({}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", PUBLISHED)
def test_every_architecture_maps_whole(architecture: str) -> None:
    channels = 3 if PUBLISHED[architecture].model != "resnet3d" else 1
    weights = published(architecture, channels, outputs=7)
    weights["bn1.num_batches_tracked"] = np.zeros(())
    conversion = convert(weights, architecture)
    assert conversion.is_whole
    assert module.describe(conversion) == ""
    assert conversion.in_channels == channels
    assert conversion.tensors["head.fc.weight"].shape[0] == 7
    assert len(conversion.tensors) == len(weights) - 1


def test_only_the_classifier_may_be_absent(state) -> None:
    headless = {name: array for name, array in state.items() if not name.startswith("fc.")}
    conversion = convert({**headless, "conv_seg.0.weight": np.zeros((1, 1, 2, 2, 2))}, SMALLEST)
    assert conversion.is_whole
    assert conversion.missing_head == ("head.fc.weight <- fc.weight", "head.fc.bias <- fc.bias")
    assert conversion.ignored == ("conv_seg.0.weight",)
    assert not any(name.startswith("head.") for name in conversion.tensors)


def test_what_does_not_map_is_listed(state) -> None:
    changed = {**state, "layer5.0.conv1.weight": np.zeros((1, 1, 1, 1, 1)), "layer1.0.bn1.bias": np.zeros(63)}
    del changed["layer2.0.downsample.0.weight"]
    conversion = convert(changed, SMALLEST)
    assert not conversion.is_whole
    assert conversion.missing == ("layer2.0.shortcut.conv.weight <- layer2.0.downsample.0.weight",)
    assert conversion.unused == ("layer5.0.conv1.weight",)
    assert conversion.other_shapes == ("layer1.0.conv1.norm.bias (64,) <- layer1.0.bn1.bias (63,)",)
    assert module.describe(conversion).split("\n")[:2] == [
        "missing in the file:",
        "  layer2.0.shortcut.conv.weight <- layer2.0.downsample.0.weight",
    ]
    with pytest.raises(ValueError, match=r"no stem\.0\.weight .* among \d+ tensors: not a r3d_18"):
        convert(state, "r3d_18")


@pytest.mark.slow
def test_monais_kernels_and_shortcuts_are_read_off_the_weights() -> None:
    weights = published("monai_resnet18")
    assert convert(weights, "monai_resnet18").model["args"] == {"depth": 18, "stem_stride": [1, 1, 1], "shortcut": "B"}
    biased = {**weights, **{f"layer{i}.0.downsample.0.bias": np.zeros(64 << (i - 1)) for i in (2, 3, 4)}}
    biased["conv1.weight"] = np.zeros((64, 2, 3, 5, 7))
    conversion = convert(biased, "monai_resnet18")
    assert conversion.model["args"]["shortcut_bias"] is True
    assert conversion.model["args"]["stem_kernel"] == [3, 5, 7]
    assert (conversion.in_channels, conversion.is_whole) == (2, True)
    plain = {name: array for name, array in weights.items() if ".downsample." not in name}
    assert convert(plain, "monai_resnet18").model["args"]["shortcut"] == "A"


@pytest.mark.parametrize(("depth", "shortcut"), [(10, "B"), (18, "A"), (34, "A"), (50, "B")])
def test_medicalnets_table_of_shortcuts(depth: int, shortcut: str) -> None:
    args = PUBLISHED[f"medicalnet_resnet{depth}"].args
    assert args["shortcut"] == shortcut
    assert ResNet3dArgs(**args).layer_dilations == (1, 1, 2, 4)


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")


def save(torch: Any, path: Path, tensors: Mapping[str, np.ndarray], wrap: bool = True) -> Path:
    state = {f"module.{n}" if wrap else n: torch.from_numpy(np.array(a)) for n, a in tensors.items()}
    torch.save({"epoch": 3, "state_dict": state} if wrap else state, path)
    return path


def test_a_wrapped_checkpoint_becomes_a_file_that_fits(torch: Any, tmp_path: Path, capsys) -> None:
    known = PUBLISHED[SMALLEST]
    weights = {n: seeded.array(n, a.shape) for n, a in published().items() if not n.startswith("fc.")}
    source = save(torch, tmp_path / "resnet_10.pth", weights)
    out = tmp_path / "out.safetensors"
    assert main([str(source), str(out), "--as", SMALLEST]) == 0
    printed = capsys.readouterr()
    assert "no classifier in the file (init.head=new draws one):\n  head.fc.weight <- fc.weight" in printed.err
    section = yaml.safe_load(printed.out)
    assert section["model"] == {"name": "resnet3d", "args": known.args}
    assert section["init"] == {"from": str(out), "head": "new"}
    arrays, metadata = mx.load(str(out), return_metadata=True)
    assert (metadata["architecture"], metadata["source"]) == (SMALLEST, "resnet_10.pth")
    model = build_model("resnet3d", ResNet3dArgs(**section["model"]["args"]), 1, 2)
    expected = {name for name, _ in tree_flatten(model.parameters()) if not name.startswith("head.")}
    assert arrays.keys() == expected
    np.testing.assert_array_equal(
        np.array(arrays["layer3.0.conv2.conv.weight"]),
        weights["layer3.0.conv2.weight"].transpose(0, 2, 3, 4, 1),
    )
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors"] == ["out.safetensors"]


@pytest.mark.parametrize("name", ["plain", "a: b #c", "two\nlines", "\x1b[31mred", "turned \u202egnp"])
def test_the_printed_config_names_any_file(name: str) -> None:
    conversion = Conversion({}, {"name": "resnet3d", "args": {"depth": 10}}, 1, (), (), (), (), ())
    text = describe_config(conversion, Path(name), variable=True)
    assert printable(text) == text
    assert yaml.safe_load(text)["init"] == {"from": name, "head": "new"}


def test_a_misfit_writes_nothing(torch: Any, tmp_path: Path, capsys) -> None:
    weights = published()
    del weights["layer4.0.bn2.weight"]
    source = save(torch, tmp_path / "w.pth", weights, wrap=False)
    assert main([str(source), str(tmp_path / "out.safetensors"), "--as", SMALLEST]) == 1
    error = capsys.readouterr().err
    assert "missing in the file:\n  layer4.0.conv2.norm.weight <- layer4.0.bn2.weight" in error
    assert f"does not fit {SMALLEST}; nothing is written" in error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Path("code"), r"holds more than tensors, which is not read; save the model's state_dict\(\)"),
        ([1, 2], r"expected a state_dict, \{name: tensor\}, got list"),
    ],
)
def test_files_of_something_else(torch: Any, tmp_path: Path, capsys, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        module.read_pytorch(tmp_path / "w.pth")
    assert main([str(tmp_path / "w.pth"), str(tmp_path / "o.safetensors"), "--as", SMALLEST]) == 2
    assert "engine.convert: " in capsys.readouterr().err


def test_files_cut_short_and_tensors_of_other_kinds(torch: Any, tmp_path: Path) -> None:
    path = save(torch, tmp_path / "w.pth", {"a": np.ones(1000)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"w\.pth: not a whole PyTorch file \("):
        module.read_pytorch(path)
    torch.save({"a": torch.zeros(3).to_sparse()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: holds tensors that are not dense"):
        module.read_pytorch(tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"no conv1\.weight .* among 1 tensors"):
        module.convert({"conv1.weight": np.zeros((64, 0, 7, 7, 7), np.float32)}, SMALLEST)


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04", b"\x80\x02."])
def test_bytes_that_are_no_weights(torch: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pth: (not a whole PyTorch file \(\w+|holds more than tensors)"):
        module.read_pytorch(tmp_path / "w.pth")


def test_mistakes_in_the_command(torch: Any, tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path / "none.pth"), str(tmp_path / "o.safetensors"), "--as", SMALLEST]) == 2
    assert "none.pth: no such file" in capsys.readouterr().err
    assert main([str(tmp_path / "none.pth"), str(tmp_path / "o.zip"), "--as", SMALLEST]) == 2
    assert "o.zip: the output's name must end in .safetensors" in capsys.readouterr().err
    assert main([str(tmp_path / "none.pth"), str(tmp_path / "no" / "o.safetensors"), "--as", SMALLEST]) == 2
    assert "o.safetensors: there is no folder" in capsys.readouterr().err

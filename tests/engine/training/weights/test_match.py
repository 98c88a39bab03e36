"""Weights of one network put into another: matched, adapted, or refused by name."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from configs.schema.train import OptimConfig, TrainConfig
from configs.schema.weights import InitConfig
from engine.training.losses import StandardLossArgs, build_loss
from engine.training.optim import build_optimizer
from engine.training.step import TrainStep
from engine.training.weights.load import Start
from engine.training.weights.match import (
    InitError,
    adapt_input,
    begin_from,
    begin_rare,
    format_start,
    initialise,
    input_weights,
)
from models import build_model
from models.cnn3d import CNN3dArgs
from models.resnet3d import ResNet3dArgs
from models.unet3d import Dropout, UNet3dArgs
from models.video_resnet import VideoResNetArgs
from tests.engine.doubles import assert_same, parameters_of

ORGANS = ("background", "liver", "spleen")
UNET = UNet3dArgs(widths=(2, 3, 4), convolutions=1, norm="batch", deep_supervision=True, dropout=Dropout(kind="none"))
RESIDUAL = UNET.model_copy(update={"residual": True})


def unet(seed: int, num_outputs: int = 3, channels: int = 1, args: UNet3dArgs = UNET) -> nn.Module:
    mx.random.seed(seed)
    return build_model("unet3d", args, channels, num_outputs)


def cnn(seed: int, num_outputs: int, channels: int = 1) -> nn.Module:
    mx.random.seed(seed)
    return build_model("cnn3d", CNN3dArgs(widths=(2, 3)), channels, num_outputs)


def weights(model: nn.Module, class_names: Sequence[str] | None = ORGANS) -> Start:
    """Return the model's tensors, with running statistics unlike their initial ones."""
    tensors = {name: a + 0.25 if "running" in name else mx.array(a) for name, a in tree_flatten(model.parameters())}
    return Start(tensors, None if class_names is None else tuple(class_names), {"file": "there.safetensors"})


def init(**keys: object) -> InitConfig:
    return InitConfig.model_validate({"from": "there", **keys})


def test_all_is_loaded_statistics_included() -> None:
    start, model = weights(unet(0)), unet(1)
    rows = initialise(model, start, init(), ORGANS)
    assert {row.what for row in rows} == {"loaded"}
    assert [row.name for row in rows] == sorted(start.tensors)
    assert any("running_var" in row.name for row in rows)
    assert_same(parameters_of(model), start.tensors)


def test_regions_begin_rare_at_every_level() -> None:
    model, drawn = unet(0), parameters_of(unet(0))
    begin_rare(model)
    for name, value in parameters_of(model).items():
        is_bias = name in ("heads.0.bias", "heads.1.bias")
        np.testing.assert_array_equal(value, np.full(3, -3.0) if is_bias else drawn[name], err_msg=name)
    assert {"heads.0.bias", "heads.1.bias"} <= drawn.keys()


def test_a_new_head_stays_as_drawn_at_every_level() -> None:
    start, model = weights(unet(0)), unet(1, num_outputs=5)
    drawn = parameters_of(model)
    rows = initialise(model, start, init(head="new"), ("a", "b", "c", "d", "e"))
    new = [row for row in rows if row.what == "new"]
    assert [row.name for row in new] == ["heads.0.bias", "heads.0.weight", "heads.1.bias", "heads.1.weight"]
    assert (new[1].network, new[1].weights, new[1].how) == ((5, 1, 1, 1, 2), (3, 1, 1, 1, 2), "init.head")
    now = parameters_of(model)
    np.testing.assert_array_equal(now["heads.1.weight"], drawn["heads.1.weight"])
    np.testing.assert_array_equal(now["up.0.weight"], np.array(start.tensors["up.0.weight"]))


@pytest.mark.parametrize("make", [unet, cnn])
def test_classes_are_taken_over_by_name(make) -> None:
    start, model = weights(make(0, 3)), make(1, 4)
    for name, value in start.tensors.items():  # biases are drawn as 0
        start.tensors[name] = value + 1 if name.endswith("bias") else value
    drawn = parameters_of(model)
    rows = initialise(model, start, init(head="by_name"), ("spleen", "kidney", "background", "tumour"))
    now = parameters_of(model)
    heads = [row for row in rows if row.what == "adapted"]
    assert len(heads) == (4 if make is unet else 2)
    for row in heads:
        assert row.how == "classes: spleen, background"
        there = np.array(start.tensors[row.name])
        np.testing.assert_array_equal(now[row.name][[0, 2]], there[[2, 0]])
        np.testing.assert_array_equal(now[row.name][[1, 3]], drawn[row.name][[1, 3]])


def test_heads_are_matched_by_the_names_of_their_classes() -> None:
    start, model = weights(cnn(0, 3), ("cyst", "tumour", "stone")), cnn(1, 1)
    initialise(model, start, init(head="by_name"), ("tumour",))
    name = "head.fc.weight"
    np.testing.assert_array_equal(parameters_of(model)[name], np.array(start.tensors[name])[[1]])
    message = r"heads\.0\.bias: the network's classes are background, liver, kidney, the weights' background, liver, sp"
    with pytest.raises(InitError, match=message):
        initialise(unet(1), weights(unet(0)), init(), ("background", "liver", "kidney"))
    rows = initialise(unet(1), weights(unet(0), class_names=None), init(), ("background", "liver", "kidney"))
    assert {row.what for row in rows} == {"loaded"}, "a file without names is taken by shape"
    message = r"no class of the network is one of the weights' \(background, liver, spleen\); init\.head=new allows it"
    with pytest.raises(InitError, match=message):
        initialise(unet(1, num_outputs=2), weights(unet(0)), init(head="by_name"), ("outside", "heart"))


@pytest.mark.parametrize(
    ("how", "channels", "expected"),
    [
        ("repeat", 4, [1, 2, 1, 2]),  # times 2 / 4
        ("repeat", 3, [4 / 3, 8 / 3, 4 / 3]),
        ("mean", 3, [2, 2, 2]),
        ("mean", 1, [6]),
        ("first", 3, [2, 4, 0]),
        ("first", 1, [4]),
    ],
)
def test_input_channels(how, channels: int, expected: list[float]) -> None:
    weight = mx.array([2.0, 4.0]).reshape(1, 1, 1, 1, 2)
    np.testing.assert_allclose(np.array(adapt_input(weight, channels, how)).flatten(), expected, rtol=1e-6)


@pytest.mark.parametrize(("how", "channels"), [("mean", 2), ("mean", 7), ("repeat", 6)])
def test_an_image_repeated_over_the_channels_gives_the_same_output(how: str, channels: int) -> None:
    before, after = unet(0, channels=3), unet(1, channels=channels)
    start = weights(before)
    initialise(before, start, init(), ORGANS)
    rows = initialise(after, start, init(input=how), ORGANS)
    assert [row.name for row in rows if row.what == "adapted"] == ["encoder.0.blocks.0.conv.weight"]
    grey = mx.random.normal((1, 4, 8, 4, 1))
    before.eval()
    after.eval()
    outputs = [model(mx.repeat(grey, n, axis=-1)) for model, n in ((before, 3), (after, channels))]
    np.testing.assert_allclose(np.array(outputs[1]), np.array(outputs[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("unet3d", UNET, ["encoder.0.blocks.0.conv.weight"]),
        ("unet3d", RESIDUAL, ["encoder.0.blocks.0.conv.weight", "encoder.0.shortcut.conv.weight"]),
        ("cnn3d", CNN3dArgs(), ["blocks.0.conv.weight"]),
        ("resnet3d", ResNet3dArgs(depth=10), ["conv1.conv.weight"]),
        ("r3d_18", VideoResNetArgs(), ["stem.0.conv.weight"]),
        ("r2plus1d_18", VideoResNetArgs(), ["stem.0.conv.weight"]),
    ],
)
def test_every_network_says_what_sees_the_image(name: str, args: object, expected: list[str]) -> None:
    model = build_model(name, args, 1, 2)
    assert sorted(input_weights(model)) == expected
    assert {dict(tree_flatten(model.parameters()))[name].shape[-1] for name in expected} == {1}


def test_all_that_does_not_fit_is_listed_and_the_network_left_alone() -> None:
    start = weights(unet(0, num_outputs=2, channels=2), ("background", "liver"))
    start.tensors["extra"] = mx.zeros((3,))
    del start.tensors["up.0.bias"]
    model = unet(1, args=UNET.model_copy(update={"widths": (2, 3, 5)}))
    drawn = parameters_of(model)
    with pytest.raises(InitError) as caught:
        initialise(model, start, init(), ORGANS)
    head, *lines = str(caught.value).split("\n")
    assert head == "init.from=there: 13 tensor(s) do not fit this network:"
    for line in (
        "  encoder.0.blocks.0.conv.weight: the network has (2, 3, 3, 3, 1), the weights (2, 3, 3, 3, 2); "
        "init.input=repeat, mean or first allows it",
        "  extra: the network has none, the weights (3); init.allow_unused allows it",
        "  up.0.bias: the network has (2), the weights none; init.allow_missing allows it",
        "  bottleneck.blocks.0.norm.running_mean: the network has (5), the weights (4); init.allow_missing allows it",
        "  heads.0.weight: the network has (3, 1, 1, 1, 2), the weights (2, 1, 1, 1, 2); "
        "init.head=new or by_name allows it",
    ):
        assert line in lines
    assert_same(parameters_of(model), drawn)


def test_patterns_allow_what_is_missing_and_what_is_unused_and_must_match() -> None:
    start = weights(unet(0))
    start.tensors = {n: a for n, a in start.tensors.items() if n.startswith("encoder")} | {"old.fc": mx.zeros((1,))}
    keys = {"allow_missing": ["decoder.*", "bottleneck.*", "up.*", "heads.*"], "allow_unused": ["old.*"]}
    model = unet(1)
    rows = {row.name: row for row in initialise(model, start, init(**keys), ORGANS)}
    assert rows["up.0.weight"].what == "new"
    assert rows["up.0.weight"].how == "init.allow_missing"
    assert (rows["old.fc"].what, rows["old.fc"].how) == ("unused", "init.allow_unused")
    with pytest.raises(InitError, match=r"up\.0\.bias: .*the weights none; init\.allow_missing allows it"):
        initialise(unet(1), start, init(**{**keys, "allow_missing": ["decoder.*", "bottleneck.*", "heads.*"]}), ORGANS)
    with pytest.raises(ValueError, match=r"allow_missing: 'encodr\.\*' matches no parameter of the model; did you"):
        initialise(unet(1), start, init(allow_missing=["encodr.*"]), ORGANS)
    with pytest.raises(ValueError, match=r"init\.allow_unused: 'conv_seg\.\*' matches no tensor of there; "):
        initialise(unet(1), start, init(allow_unused=["conv_seg.*"]), ORGANS)
    start = Start({"a": mx.zeros((1,))}, None, {})
    with pytest.raises(InitError, match="no tensor has a name and shape of this network; nothing to load"):
        initialise(unet(1), start, init(allow_missing=["*"], allow_unused=["*"]), ORGANS)


def test_a_first_level_may_be_missing_and_heads_that_one_side_lacks_are_the_heads_matter() -> None:
    start, model = weights(unet(0)), unet(1)
    start.tensors = {name: a for name, a in start.tensors.items() if not name.startswith("encoder.0")}
    drawn = parameters_of(model)
    initialise(model, start, init(allow_missing=["encoder.0.*"]), ORGANS)
    now = parameters_of(model)
    assert now.keys() == drawn.keys()
    np.testing.assert_array_equal(now["encoder.0.blocks.0.conv.weight"], drawn["encoder.0.blocks.0.conv.weight"])
    there = np.array(start.tensors["encoder.1.blocks.0.conv.weight"])
    np.testing.assert_array_equal(now["encoder.1.blocks.0.conv.weight"], there)
    shallow = UNET.model_copy(update={"deep_supervision": False})
    rows = initialise(unet(1, args=shallow), weights(unet(0)), init(head="by_name"), ORGANS)
    unused = [(row.name, row.network) for row in rows if row.what == "unused"]
    assert unused == [("heads.1.bias", None), ("heads.1.weight", None)]
    rows = initialise(unet(1), weights(unet(0, args=shallow)), init(head="by_name"), ORGANS)
    assert [row.name for row in rows if row.what == "new"] == ["heads.1.bias", "heads.1.weight"]


def test_training_and_its_moving_average_begin_there_but_for_a_run_that_goes_on() -> None:
    start, model = weights(unet(0)), unet(1)
    expected = {name: np.array(a) for name, a in start.tensors.items()}
    begin_from(model, start, init(), ORGANS)
    assert start.tensors == {}, "let go: the network holds them"
    optim, train = OptimConfig(ema_decay=0.9), TrainConfig(steps=10, precision="float32")
    step = TrainStep(model, build_optimizer(optim, 10), build_loss(StandardLossArgs(), 3), train, optim)
    for file in ("model", "ema"):
        assert_same(step.tensors()[file], expected)
    model = unet(1)
    drawn = parameters_of(model)
    begin_from(model, None, init(), ORGANS)
    assert_same(parameters_of(model), drawn)


def test_the_table() -> None:
    start = weights(cnn(0, 2, channels=2), ("no", "yes"))
    begin_from(cnn(1, 3), start, init(head="new", input="mean"), ("a", "b", "c"))
    lines = format_start(start).split("\n")
    assert lines[0].split() == ["tensor", "network", "weights"]
    assert lines[1].split("  ")[0] == "blocks.0.conv.weight"
    assert lines[1].endswith("adapted  (2, 3, 3, 3, 1)  (2, 3, 3, 3, 2)  channels: mean")
    assert lines[-2].split() == ["head.fc.weight", "new", "(3,", "3)", "(2,", "3)", "init.head"]
    assert lines[-1] == "init        9 loaded, 1 adapted, 2 new, 0 unused; weights of there.safetensors"
    shapes = {"network": (2, 3, 3, 3, 1), "weights": (2, 3, 3, 3, 2)}
    row = {"name": "blocks.0.conv.weight", "what": "adapted", **shapes, "how": "channels: mean"}
    assert start.to_json()["tensors"][0] == row

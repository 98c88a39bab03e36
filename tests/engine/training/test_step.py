"""The training step: gradients, accumulation, averaging, compilation, what it saves and loads."""

import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from engine.runs.checkpoints import CheckpointError
from engine.training.step import compute_dtype, random_key, set_random_key, should_compile
from models.layers.dropout import set_rate
from ops import backend, memory
from tests.conftest import out_of_memory
from tests.engine.doubles import (
    TinyData,
    TinyNet,
    assert_goes_on,
    needs_compiler,
    parameters_of,
    save,
    tiny_config,
    tiny_step,
)

DATA = TinyData()


def test_loss_falls_and_results_are_reported(tmp_path) -> None:
    step = tiny_step(tiny_config(tmp_path, optim={"schedule": "constant", "learning_rate": 0.05}))
    results = [step([DATA.batch(0, 0)]) for _ in range(40)]
    assert results[-1].loss < 0.6 * results[0].loss
    assert results[0].learning_rate == pytest.approx(0.05)
    assert results[0].grad_norm > 0
    assert results[0].loss == pytest.approx(sum(results[0].parts.values()))


def test_two_accumulated_halves_equal_the_whole_batch(tmp_path) -> None:
    loss = {"loss": {"name": "cross_entropy"}}
    whole, halves = tiny_step(tiny_config(tmp_path, **loss)), tiny_step(tiny_config(tmp_path, **loss))
    batch = DATA.batch(0, 0)
    for step in (whole, halves):
        step.model.drop = nn.Identity()
    one = whole([batch])
    two = halves([{key: value[i : i + 1] for key, value in batch.items()} for i in range(2)])
    assert one.loss == pytest.approx(two.loss, abs=1e-6)
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-5)


def test_the_average_grows_its_decay_and_is_applied_for_a_while_only(tmp_path) -> None:
    step = tiny_step(tiny_config(tmp_path, optim={"ema_decay": 0.15}))
    before = parameters_of(step.model)["head.weight"]
    step([DATA.batch(0, 0)])
    first = parameters_of(step.model)["head.weight"]
    step([DATA.batch(0, 1)])
    second = parameters_of(step.model)["head.weight"]
    after_first = before + 0.9 * (first - before)  # decay (1 + 0) / (10 + 0) = 0.1
    expected = after_first + 0.85 * (second - after_first)  # (1 + 1) / (10 + 1) is beyond 0.15
    with step.average.applied(step.model):
        np.testing.assert_allclose(parameters_of(step.model)["head.weight"], expected, atol=1e-6)
    np.testing.assert_array_equal(parameters_of(step.model)["head.weight"], second)
    with pytest.raises(RuntimeError, match="validation"), step.average.applied(step.model):
        raise RuntimeError("validation")
    np.testing.assert_array_equal(parameters_of(step.model)["head.weight"], second)


@needs_compiler
def test_compiled_step_equals_the_uncompiled_one(tmp_path, monkeypatch) -> None:
    """Also with a dropout rate that changes during the run, and an evaluation in between."""
    monkeypatch.setattr(backend, "_form", "mlx")
    losses = {}
    for compiled in ("never", "always"):
        step = tiny_step(tiny_config(tmp_path, train={"compile": compiled}))
        assert step.compiled == (compiled == "always")
        found = losses[compiled] = []
        for i in range(6):
            if i == 3:
                set_rate(step.model, 0.9)
                step.model.eval()
                x = mx.array(DATA.batch(9, 0)["x"])
                assert mx.array_equal(step.model(x), step.model(x))  # nothing is dropped
            step.model.train()
            found.append(step([DATA.batch(0, i)]).loss)
    assert losses["always"] == pytest.approx(losses["never"], rel=1e-5)

    unchanged = tiny_step(tiny_config(tmp_path, train={"compile": "never"}))
    kept = [unchanged([DATA.batch(0, i)]).loss for i in range(6)]
    assert kept[:3] == losses["never"][:3]
    assert kept[3:] != losses["never"][3:]  # so the rate had a part in the comparison


class _CastNet(TinyNet):
    """Records the dtype of what it is given."""

    def __call__(self, x: mx.array) -> mx.array:
        self.seen = str(x.dtype)
        return super().__call__(x)


def test_bfloat16_casts_the_input_and_keeps_float32_weights(tmp_path, monkeypatch, native_bfloat16) -> None:
    monkeypatch.setattr(backend, "_form", "mlx")
    config = tiny_config(tmp_path, train={"precision": "bfloat16"})
    step = tiny_step(config)
    step.model.__class__ = _CastNet
    result = step([DATA.batch(0, 0)])
    assert step.model.seen == "mlx.core.bfloat16"
    assert {a.dtype for _, a in tree_flatten(step.model.parameters())} == {mx.float32}
    assert result.loss == pytest.approx(tiny_step(tiny_config(tmp_path))([DATA.batch(0, 0)]).loss, rel=0.02)


def test_the_device_decides_under_auto(native_bfloat16) -> None:
    assert compute_dtype("auto") == compute_dtype("bfloat16") == mx.bfloat16
    assert compute_dtype("float32") == mx.float32


def test_bfloat16_without_hardware_is_refused(no_bfloat16) -> None:
    assert compute_dtype("auto") == compute_dtype("float32") == mx.float32
    with pytest.raises(ValueError, match=r"train\.precision=bfloat16: this CPU has no bfloat16 .* float32 here"):
        compute_dtype("bfloat16")


def test_compiling_what_cannot_be_compiled_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(backend, "_form", "onednn")
    with pytest.raises(ValueError, match=r"train\.compile=always: the onednn operators .* cannot be compiled"):
        should_compile("always")
    assert not should_compile("never")


def test_random_key_comes_back() -> None:
    mx.random.seed(2**40 + 7)
    mx.random.normal((3,))
    key = random_key()
    first = mx.random.normal((3,)).tolist()
    set_random_key(key)
    assert mx.random.normal((3,)).tolist() == first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_loaded_step_goes_on_bit_for_bit(tmp_path, name: str, decay: float) -> None:
    config = tiny_config(tmp_path, optim={"name": name, "weight_decay": decay})
    step = tiny_step(config)
    for i in range(3):
        step([DATA.batch(0, i)])
    other = tiny_step(config, seed=5)
    other([DATA.batch(3, 0)])
    assert_goes_on(step, other, tmp_path, [DATA.batch(0, i) for i in range(3, 6)])


@needs_compiler
def test_a_compiled_step_sees_what_was_loaded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(backend, "_form", "mlx")
    config = tiny_config(tmp_path, train={"compile": "always"})
    step, other = tiny_step(config), tiny_step(config, seed=5)
    for each in (step, other):
        each([DATA.batch(0, 0)])
    assert_goes_on(step, other, tmp_path, [DATA.batch(0, i) for i in range(1, 4)])


def test_loading_into_another_optimiser_names_every_tensor(tmp_path) -> None:
    step = tiny_step(tiny_config(tmp_path, optim={"name": "sgd", "weight_decay": 0}))
    save(step, tmp_path)
    other = tiny_step(tiny_config(tmp_path, optim={"name": "adamw", "weight_decay": 0}))
    expected = r"optimizer\.stem\.weight\.m: the model has \(4, 3, 3, 3, 1\), the file none"
    with pytest.raises(CheckpointError, match=expected):
        other.load(tmp_path)


def test_a_step_out_of_memory_says_what_it_was_and_what_to_make_smaller(tmp_path, monkeypatch) -> None:
    step = tiny_step(tiny_config(tmp_path))

    out_of_memory(monkeypatch)
    with pytest.raises(memory.OutOfMemory) as caught:
        step([DATA.batch(0, 0), DATA.batch(0, 1)])
    assert re.fullmatch(
        r"out of memory in a training step on 2 batches of \(2, 4, 4, 4, 1\) \(N, D, H, W, C\), float32: "
        r"\[malloc\] Unable to allocate 14495514624 bytes\. \(MLX held \d+\.\d GB at most\)\. Use a smaller "
        r"data\.patch_size_voxels \(of clips data\.clip\) or train\.batch_size, or set model\.args\.recompute=true; "
        r"a lower memory_limit_gb makes MLX queue less at a time",
        str(caught.value),
    )


@needs_compiler
def test_a_compiled_step_waits_for_the_device_once(tmp_path, monkeypatch) -> None:
    """Batches that accumulate are queued one after the other."""
    monkeypatch.setattr(backend, "_form", "mlx")
    results = {}
    for when in ("never", "always"):
        step = tiny_step(tiny_config(tmp_path, train={"compile": when}))
        results[when] = step([DATA.batch(0, 0), DATA.batch(0, 1)])
    waits = []
    own = mx.eval
    monkeypatch.setattr(mx, "eval", lambda *arrays: (waits.append(1), own(*arrays)))
    step([DATA.batch(0, 2), DATA.batch(0, 3)])
    assert len(waits) == 1
    assert results["always"].loss == pytest.approx(results["never"].loss, rel=1e-5)
    assert results["always"].grad_norm == pytest.approx(results["never"].grad_norm, rel=1e-4)

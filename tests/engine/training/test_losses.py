"""Losses against hand arithmetic."""

import math

import mlx.core as mx
import numpy as np
import pytest

from engine.training.losses import StandardLossArgs, balanced_weights, build_loss, sample_down


def _logits(probabilities: list[list[float]]) -> mx.array:
    """One sample per outer list would be (N, ...); here one sample of V voxels: (1, V, 1, 1, K)."""
    p = np.array(probabilities, np.float32)
    return mx.array(np.log(p)).reshape(1, len(p), 1, 1, -1)


def _labels(values: list[int]) -> mx.array:
    return mx.array(values, dtype=mx.uint8).reshape(1, -1, 1, 1)


TWO_VOXELS = _logits([[0.8, 0.2], [0.4, 0.6]])
LABELS = _labels([0, 1])


def _value(logits: mx.array, y: mx.array, **config: object) -> float:
    loss, _ = build_loss(StandardLossArgs(**config), logits.shape[-1])(logits, y)
    assert loss.dtype == mx.float32
    return loss.item()


DICE = 1 - 2 * 0.6 / 1.8  # class 1: overlap 0.6, predicted 0.2 + 0.6, reference 1
CROSS_ENTROPY = -(math.log(0.8) + math.log(0.6)) / 2
WEIGHTED = -(1 * math.log(0.8) + 3 * math.log(0.6))
UNIFORM = -(math.log(0.8) + math.log(0.4) + 3 * math.log(0.2) + 3 * math.log(0.6)) / 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "dice", "smooth": 0}, DICE),
        ({"name": "dice", "smooth": 0, "include_background": True}, 1 - (2 * 0.6 / 1.8 + 2 * 0.8 / 2.2) / 2),
        ({"name": "dice", "smooth": 1}, 1 - 2.2 / 2.8),  # added to numerator and denominator
        ({"name": "cross_entropy"}, CROSS_ENTROPY),
        ({"name": "cross_entropy", "class_weights": (1, 3)}, WEIGHTED / 4),  # divided by the weights of the voxels
        (
            {"name": "cross_entropy", "class_weights": (1, 3), "label_smoothing": 0.2},
            (0.8 * WEIGHTED + 0.2 * UNIFORM) / 4,
        ),
        ({"name": "focal"}, -(0.2**2 * math.log(0.8) + 0.4**2 * math.log(0.6)) / 2),
        ({"name": "focal", "focal_gamma": 0}, CROSS_ENTROPY),
    ],
)
def test_values_by_hand(config: dict[str, object], expected: float) -> None:
    assert _value(TWO_VOXELS, LABELS, **config) == pytest.approx(expected, abs=1e-6)


def test_batch_dice_counts_the_batch_as_one_volume() -> None:
    second = _logits([[0.9, 0.1], [0.5, 0.5]])
    logits, y = mx.concatenate([TWO_VOXELS, second]), mx.concatenate([LABELS, _labels([0, 0])])
    per_sample = 1 - (2 * 0.6 / 1.8 + 0) / 2
    whole = 1 - 2 * 0.6 / (0.8 + 0.6 + 1)
    assert _value(logits, y, name="dice", smooth=0) == pytest.approx(per_sample, abs=1e-6)
    assert _value(logits, y, name="dice", smooth=0, batch_dice=True) == pytest.approx(whole, abs=1e-6)


def test_dice_ce_is_the_weighted_sum_and_reports_its_terms() -> None:
    config = StandardLossArgs(name="dice_ce", dice_weight=2, ce_weight=0.5, smooth=0)
    loss, parts = build_loss(config, 2)(TWO_VOXELS, LABELS)
    assert parts["dice"].item() == pytest.approx(DICE, abs=1e-6)
    assert parts["cross_entropy"].item() == pytest.approx(CROSS_ENTROPY, abs=1e-6)
    assert loss.item() == pytest.approx(2 * DICE + 0.5 * CROSS_ENTROPY, abs=1e-6)


@pytest.mark.parametrize("name", ["dice_ce", "focal"])
@pytest.mark.parametrize(("ignore", "label"), [(255, 255), (-1, -1), (1, 1)])
def test_ignored_voxels_change_nothing(name: str, ignore: int, label: int) -> None:
    y = mx.array([0, 1, label], dtype=mx.int32).reshape(1, 3, 1, 1)
    logits = mx.concatenate([TWO_VOXELS, _logits([[0.001, 0.999]])], axis=1)
    counting = 1 if ignore == 1 else 2  # 1 is one of the classes itself
    kept = _value(TWO_VOXELS[:, :counting], LABELS[:, :counting], name=name)
    assert _value(logits, y, name=name, ignore_label=ignore) == pytest.approx(kept, abs=1e-6)
    all_ignored = mx.full((1, 2, 1, 1), 7, dtype=mx.uint8)
    assert _value(TWO_VOXELS, all_ignored, name="cross_entropy", ignore_label=7) == 0


def test_deep_supervision_weighs_levels_by_halves_and_takes_every_second_voxel() -> None:
    mx.random.seed(0)
    y = mx.random.randint(0, 3, (2, 4, 4, 4)).astype(mx.uint8)
    levels = [mx.random.normal((2, s, s, s, 3)) for s in (4, 2, 1)]
    loss = build_loss(StandardLossArgs(name="dice_ce"), 3)
    values = [loss(level, y[:, ::s, ::s, ::s])[0].item() for level, s in zip(levels, (1, 2, 4), strict=True)]
    expected = (4 * values[0] + 2 * values[1] + 1 * values[2]) / 7
    assert loss(levels, y)[0].item() == pytest.approx(expected, abs=1e-6)
    loss = build_loss(StandardLossArgs(name="dice_ce", supervise_coarsest=False), 3)  # as nnU-Net's
    fine, middle, _ = values
    assert loss(levels, y)[0].item() == pytest.approx(2 / 3 * fine + 1 / 3 * middle, abs=1e-6)
    assert loss(levels[:1], y)[0].item() == pytest.approx(fine, abs=1e-6)  # one output is the finest
    *_, coarsest = mx.grad(lambda *levels: loss(levels, y)[0], argnums=(0, 1, 2))(*levels)
    assert not coarsest.any()


def test_targets_of_anisotropic_levels() -> None:
    y = mx.arange(16).reshape(1, 2, 4, 2)
    assert sample_down(y, (2, 2, 2)).tolist() == [[[[0, 1], [4, 5]], [[8, 9], [12, 13]]]]
    with pytest.raises(ValueError, match=r"logits of \(2, 3, 2\) voxels don't fit a target of \(2, 4, 2\)"):
        sample_down(y, (2, 3, 2))


@pytest.mark.slow
def test_bfloat16_logits_are_summed_in_float32() -> None:
    y = mx.zeros((1, 64, 64, 64), dtype=mx.uint8)
    logits = mx.zeros((1, 64, 64, 64, 2), dtype=mx.bfloat16)
    # half of every voxel is foreground: exact in float32, and beyond bfloat16's range of whole numbers
    assert _value(logits, y, name="dice", smooth=1) == pytest.approx(1 - 1 / (64**3 / 2 + 1), abs=1e-7)


@pytest.mark.parametrize("name", ["dice_ce", "dice", "cross_entropy", "focal"])
def test_extreme_logits_give_finite_losses_and_gradients(name: str) -> None:
    logits = mx.array([[100.0, -100.0], [-100.0, 100.0], [100.0, -100.0]]).reshape(1, 3, 1, 1, 2)
    loss = build_loss(StandardLossArgs(name=name), 2)
    value, gradient = mx.value_and_grad(lambda x: loss(x, _labels([0, 1, 1]))[0])(logits)
    assert math.isfinite(value.item())
    assert bool(mx.isfinite(gradient).all())


def test_gradient_agrees_with_finite_differences() -> None:
    mx.random.seed(1)
    y = mx.random.randint(0, 3, (2, 2, 3, 2)).astype(mx.uint8)
    x = mx.random.normal((2, 2, 3, 2, 3))
    loss = build_loss(StandardLossArgs(name="dice_ce", class_weights=(1, 2, 3), label_smoothing=0.1), 3)
    gradient = mx.grad(lambda a: loss(a, y)[0])(x)
    direction = mx.random.normal(x.shape)
    step = 1e-2
    difference = (loss(x + step * direction, y)[0] - loss(x - step * direction, y)[0]) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=2e-3)


def test_class_weights_match_the_outputs_and_make_classes_count_alike() -> None:
    with pytest.raises(ValueError, match=r"loss\.class_weights has 2 entries, but the data has 3 classes"):
        build_loss(StandardLossArgs(class_weights=(1, 2)), 3)
    with pytest.raises(ValueError, match="needs at least 2 classes"):
        build_loss(StandardLossArgs(), 1)
    assert balanced_weights({"a": 30, "b": 10}) == pytest.approx((40 / 60, 40 / 20))
    with pytest.raises(ValueError, match="class b has no training case"):
        balanced_weights({"a": 30, "b": 0})


CASE_LOGITS = mx.log(mx.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]))  # (N, K): whole cases
CASE_LABELS = mx.array([0, 1], dtype=mx.int32)


def test_whole_cases_are_voxels_of_their_own() -> None:
    loss = _value(CASE_LOGITS, CASE_LABELS, name="cross_entropy")
    assert loss == pytest.approx(-(math.log(0.7) + math.log(0.3)) / 2, rel=1e-6)
    weighted = _value(CASE_LOGITS, CASE_LABELS, name="cross_entropy", class_weights=(1, 3, 5))
    assert weighted == pytest.approx(-(math.log(0.7) + 3 * math.log(0.3)) / 4, rel=1e-6)
    focal = _value(CASE_LOGITS, CASE_LABELS, name="focal", focal_gamma=2)
    assert focal == pytest.approx(-(0.3**2 * math.log(0.7) + 0.7**2 * math.log(0.3)) / 2, rel=1e-5)
    smooth = _value(CASE_LOGITS, CASE_LABELS, name="cross_entropy", label_smoothing=0.3)
    every = -(math.log(0.7) + math.log(0.2) + math.log(0.1) + math.log(0.1) + math.log(0.3) + math.log(0.6)) / 6
    assert smooth == pytest.approx(0.7 * loss + 0.3 * every, rel=1e-6)


def test_binary_cross_entropy_by_hand_and_of_extreme_logits() -> None:
    p, y = np.array([[0.9, 0.2], [0.4, 0.5]]), np.array([[1, 0], [1, 1]])
    logits, target = mx.array(np.log(p / (1 - p)).astype(np.float32)), mx.array(y, dtype=mx.int32)
    terms = -np.log(np.where(y, p, 1 - p))
    found = _value(logits, target, name="binary_cross_entropy")
    assert found == pytest.approx(terms.mean(), rel=1e-6)
    weighted = _value(logits, target, name="binary_cross_entropy", class_weights=(1, 3))
    assert weighted == pytest.approx((terms @ [1, 3]).mean() / 4, rel=1e-6)
    smooth = _value(logits, target, name="binary_cross_entropy", label_smoothing=0.2)
    soft = 0.8 * y + 0.1
    assert smooth == pytest.approx(-(soft * np.log(p) + (1 - soft) * np.log(1 - p)).mean(), rel=1e-6)
    logits = mx.array([[200.0, -200.0]])
    loss = build_loss(StandardLossArgs(name="binary_cross_entropy"), 2)
    value, gradient = mx.value_and_grad(lambda x: loss(x, mx.array([[0, 0]]))[0])(logits)
    assert value.item() == pytest.approx(100)
    np.testing.assert_allclose(np.array(gradient), [[0.5, 0]], atol=1e-6)

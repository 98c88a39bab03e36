"""Losses of regions against float64 arithmetic: soft Dice and binary cross-entropy, region by region."""

import mlx.core as mx
import numpy as np
import pytest

from engine.training.losses import StandardLossArgs, build_loss

BRATS = ((1, 2, 3), (2, 3), (3,))
SHAPE = (2, 3, 4, 5)


def draw(ignored: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, SHAPE)
    if ignored is not None:
        y[:, 0] = ignored
    return rng.normal(0, 2, (*SHAPE, 3)), y


def expected(logits: np.ndarray, y: np.ndarray, ignored: int | None = None, batch: bool = False) -> dict[str, float]:
    """1 - mean of 2 Σpt / (Σp + Σt), and the mean of -t log p - (1 - t) log(1 - p), over voxels that count.

    nnU-Net's DC_and_BCE_loss and MONAI's DiceCELoss(sigmoid=True) have these formulas, up to Dice's smoothing.
    """
    counts = np.ones(y.shape) if ignored is None else (y != ignored).astype(float)
    t = np.stack([np.isin(y, held) for held in BRATS], -1).astype(float)
    p = 1 / (1 + np.exp(-logits))
    axes = (0, 1, 2, 3) if batch else (1, 2, 3)
    weigh = counts[..., None]
    overlap, total = (weigh * p * t).sum(axes), (weigh * (p + t)).sum(axes)
    entropy = -t * np.log(p) - (1 - t) * np.log(1 - p)
    return {"dice": 1 - (2 * overlap / total).mean(), "cross_entropy": (weigh * entropy).sum() / (counts.sum() * 3)}


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("ignored", [None, 255])
def test_values_and_gradient_are_those_of_the_formulas(form: str, ignored: int | None, batch: bool) -> None:
    logits, y = draw(ignored)
    args = StandardLossArgs(smooth=0.0, batch_dice=batch, ignore_label=ignored)
    loss = build_loss(args, 3, regions=BRATS)
    total, parts = loss(mx.array(logits.astype(np.float32)), mx.array(y))
    wanted = expected(logits, y, ignored, batch)
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(wanted, rel=1e-5)
    assert total.item() == pytest.approx(sum(wanted.values()), rel=1e-5)
    gradient = np.array(mx.grad(lambda z: loss(z, mx.array(y))[0])(mx.array(logits.astype(np.float32))))
    for place in [(0, 0, 0, 0, 0), (0, 1, 2, 3, 0), (1, 2, 3, 4, 1), (1, 1, 0, 0, 2)]:
        step = np.zeros_like(logits)
        step[place] = 1e-5
        up, down = (sum(expected(logits + sign * step, y, ignored, batch).values()) for sign in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-7)
    if ignored is not None:
        assert not gradient[:, 0].any()


def test_a_single_region_has_one_output_and_the_values_of_two_classes_by_softmax(form: str) -> None:
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=SHAPE).astype(np.float32), mx.array(rng.integers(0, 2, SHAPE))
    args = StandardLossArgs(smooth=0.0)
    _, sigmoid = build_loss(args, 1, regions=((1,),))(mx.array(z[..., None]), y)
    _, softmax = build_loss(args, 2)(mx.array(np.stack([np.zeros_like(z), z], -1)), y)
    for name in ("dice", "cross_entropy"):
        assert sigmoid[name].item() == pytest.approx(softmax[name].item(), rel=1e-5)


def test_weights_smoothing_and_levels(form: str) -> None:
    logits, y = draw()
    z, labels = mx.array(logits.astype(np.float32)), mx.array(y)
    weighted = StandardLossArgs(name="cross_entropy", class_weights=(0, 0, 2))
    alone = expected(logits[..., 2:].repeat(3, -1), np.where(y == 3, 3, 0))["cross_entropy"]
    value, _ = build_loss(weighted, 3, regions=BRATS)(z, labels)
    assert value.item() == pytest.approx(alone, rel=1e-5)
    smooth = StandardLossArgs(name="cross_entropy", label_smoothing=0.2)
    value, _ = build_loss(smooth, 3, regions=BRATS)(mx.array([[[[[9.0, -9, -9]]]]]), mx.array([[[[1]]]]))
    assert value.item() == pytest.approx(np.log1p(np.exp(-9.0)) + 0.1 * 9, rel=1e-5)  # a tenth of the wrong side
    plain, deep = StandardLossArgs(), build_loss(StandardLossArgs(), 3, regions=BRATS)
    fine, _ = build_loss(plain, 3, regions=BRATS)(z, labels)
    coarse, _ = build_loss(plain, 3, regions=BRATS)(z[:, ::2, ::2, ::2], labels[:, ::2, ::2, ::2])
    both, _ = deep([z, z[:, ::2, ::2, ::2]], labels)
    assert both.item() == pytest.approx((2 * fine.item() + coarse.item()) / 3, rel=1e-5)


def test_a_batch_that_is_ignored_has_no_gradient(form: str) -> None:
    loss = build_loss(StandardLossArgs(ignore_label=9), 3, regions=BRATS)
    y = mx.full(SHAPE, 9)
    value, gradient = mx.value_and_grad(lambda z: loss(z, y)[0])(mx.ones((*SHAPE, 3)))
    assert np.isfinite(value.item())
    assert not mx.any(gradient).item()


def test_processes_join_their_sums(form: str) -> None:
    logits, y = draw()
    z, labels = mx.array(logits.astype(np.float32)), mx.array(y)
    whole, _ = build_loss(StandardLossArgs(batch_dice=True), 3, regions=BRATS)(z, labels)
    rest = mx.array([])

    def gather(own: mx.array) -> mx.array:
        return mx.concatenate([own, rest])

    sums: list[mx.array] = []
    build_loss(StandardLossArgs(batch_dice=True), 3, lambda own: sums.append(own) or own, BRATS)(z[1:], labels[1:])  # type: ignore[func-returns-value]
    rest = sums[0]
    joined, _ = build_loss(StandardLossArgs(batch_dice=True), 3, gather, BRATS)(z[:1], labels[:1])
    assert len(sums) == 1  # a single message
    assert joined.item() == pytest.approx(whole.item(), rel=1e-6)

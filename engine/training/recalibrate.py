"""Measures the running statistics of batch norms again, after training with dropout."""

from collections.abc import Iterable

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from engine.distributed.group import ALONE, Group, running_statistics
from engine.training.step import Batch, TrainStep


def recalibrate_norms(step: TrainStep, batches: Iterable[Batch], group: Group = ALONE) -> int:
    """Measure the running statistics of all batch norms again, without dropout; return the number of norms.

    They become the mean over the batches of each batch's statistics, as in PyTorch's `update_bn`: once for the weights
    and once for their moving average, where the step keeps one. Frozen statistics do not change, and no random numbers
    are drawn. In a group each process gets its share of the batches.
    """
    model, average, held = step.model, step.average, step.freezing.held_statistics
    norms = [
        layer
        for path, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm) and f"{path}.running_mean" not in held
    ]
    if not norms:
        return 0
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.train()
        for number, batch in enumerate(batches, 1):
            for norm in norms:
                norm.momentum = 1 / number
            _measure(step, batch, group)
            if average is not None:
                with average.applied(model):
                    average.state["average"].update(_measure(step, batch, group))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)
        step.freezing.hold_statistics()
    return len(norms)


def _measure(step: TrainStep, batch: Batch, group: Group) -> dict[str, mx.array]:
    """Run the model on a batch; return its running statistics, which are equal in all processes."""
    step.predict(batch["x"])
    _, statistics = group.sum_gradients({}, running_statistics(tree_flatten(step.model.parameters())))
    statistics = dict(tree_flatten(statistics))
    step.model.update(tree_unflatten(list(statistics.items())))
    with group.waiting("the other processes' norm statistics"):
        mx.eval(statistics)  # the network's layers after its last norm are not computed
    return statistics

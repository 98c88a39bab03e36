"""How many steps a run has, and what is due after each of them."""

import math
from dataclasses import dataclass
from typing import Self

from configs import Config
from engine.training.progress import Position


@dataclass(frozen=True)
class Budget:
    """A run's numbers, in optimiser steps."""

    total_steps: int
    steps_per_epoch: int
    log_every: int
    validate_every: int
    save_every: int

    @classmethod
    def of(cls, config: Config, batches_per_epoch: int) -> Self:
        """Return the config's budget; raise ValueError where an epoch has fewer batches than one step accumulates."""
        train = config.train
        steps_per_epoch = batches_per_epoch // train.accumulate
        if steps_per_epoch == 0:
            raise ValueError(
                f"train.accumulate={train.accumulate} is more than the {batches_per_epoch} batches of an epoch; "
                "use a smaller train.accumulate or train.batch_size"
            )
        total = train.steps or steps_per_epoch * (train.epochs or 0)
        validate_every = train.validate_every_steps or max(1, math.ceil(total / 10))
        save_every = config.checkpoint.every_steps or validate_every
        return cls(total, steps_per_epoch, train.log_every_steps, validate_every, save_every)

    def due(self, every: int, step: int) -> bool:
        """Return whether something done every `every` steps is due after this one; after the last step it is."""
        return step > 0 and (step % every == 0 or step == self.total_steps)


def validation_is_due(budget: Budget, position: Position) -> bool:
    """Return whether a validation is due at this position."""
    return budget.due(budget.validate_every, position.step) and position.validated_step < position.step


def recalibration_is_due(config: Config, budget: Budget, position: Position) -> bool:
    """Return whether the run ends at this position and its norms still have the statistics of training."""
    at_end = position.step >= budget.total_steps or out_of_patience(config, position)
    return config.train.recalibrate_norms and at_end and position.recalibrated_step < position.step


def out_of_patience(config: Config, position: Position) -> bool:
    """Return whether the last `train.early_stop_validations` validations brought no better score."""
    patience = config.train.early_stop_validations
    return patience is not None and position.validations_since_best >= patience

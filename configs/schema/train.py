"""Loss, optimiser, training, checkpoints and evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.types import BUDGET, RUNTIME, Batch, Count, Key, Label, NonNegative, Positive, Section, Seed, Triple


class LossArgs(Section):
    """A loss and its arguments; what other sections, data and evaluation ask of it are the keys here."""

    name: str
    # One per class; balanced: by the inverse of how many training cases a class has.
    class_weights: tuple[NonNegative, ...] | Literal["balanced"] | None = None
    ignore_label: Label | None = None  # voxels of this label count nowhere
    # Of deep supervision: false gives the coarsest of several levels no loss, as nnU-Net does (2/3, 1/3, 0). True by
    # default: nnU-Net has five or more levels, our networks two or three, and the results here were measured so.
    supervise_coarsest: bool = True

    def term_weight(self, term: str) -> float:
        """Return what the term of this name is multiplied by before the terms are summed."""
        return 1.0


class OptimConfig(Section):
    """Optimiser and its schedule, in optimiser steps."""

    name: Literal["adamw", "sgd"] = "adamw"  # sgd: with Nesterov momentum
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    schedule: Literal["constant", "cosine", "poly"] = "cosine"
    poly_power: Positive = 0.9
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0  # the schedule's last learning rate over its first
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 0
    clip_norm: Positive | None = 12.0  # of the global gradient norm; null: no clipping
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None  # moving average of the weights; null: none
    # Of the learning rate, by pattern of parameters' names ("head.*": 10); of several that match, the last counts.
    rate_factors: dict[str, Positive] = Field(default_factory=dict)
    # Strength of a decay of loaded kernels towards their start, in place of weight_decay (L2-SP); null: none.
    decay_to_start: Annotated[Positive | None, Key(packed=False)] = None


class TrainConfig(Section):
    """Budget and precision. Exactly one of `steps` and `epochs` is set."""

    steps: Annotated[Count | None, BUDGET] = None
    epochs: Annotated[Count | None, BUDGET] = None
    batch_size: Batch = 2
    accumulate: Batch = 1  # batches per optimiser step
    # Of the compute; weights stay float32. auto: bfloat16 where the device computes it natively, else float32.
    # A run keeps its own: `engine.runs.precision` refuses what it may not become.
    precision: Annotated[Literal["auto", "float32", "bfloat16"], Key(may_change_in=("resume", "evaluate"))] = "auto"
    log_every_steps: Annotated[Count, RUNTIME] = 10
    validate_every_steps: Annotated[Count | None, BUDGET] = None  # null: ten times in a run
    early_stop_validations: Annotated[Count | None, BUDGET] = None  # stop after so many without a better score
    compile: Annotated[Literal["auto", "always", "never"], RUNTIME] = "auto"  # auto: on a GPU
    # At the end take batch norms' statistics anew over an epoch, dropout off, for the last checkpoint; costs about a
    # third of an epoch. For dropout before batch norms, whose training statistics do not fit evaluation.
    recalibrate_norms: bool = False
    mixup_alpha: NonNegative = 0.0  # blend cases and labels by Beta(alpha, alpha), in classification; 0: no mixup

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"set exactly one of steps and epochs, the other to null; got {self.steps} steps, {self.epochs} epochs"
            )
        return self


class DistributedConfig(Section):
    """Several processes under mlx.launch; see docs/distributed.md. `train.batch_size` is that of all together."""

    # A process that waits longer for the others in training ends
    timeout_seconds: Annotated[float, Field(gt=0, le=1e6), RUNTIME] = 600.0
    # Statistics of all processes' samples, as one process would take them, or local: each of its own share.
    batch_norm: Literal["synchronised", "local"] = "synchronised"


class CheckpointConfig(Section):
    every_steps: Annotated[Count | None, RUNTIME] = None  # null: at each validation
    keep: Annotated[Count, RUNTIME] = 2  # the last ones; the best is kept besides
    metric: str = "dice.mean"  # of the validation: decides which one is best
    mode: Literal["max", "min"] = "max"


class EvaluateConfig(Section):
    """Sliding-window prediction and what is reported of it."""

    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    window_size_voxels: Triple | None = None  # null: data.patch_size_voxels
    window_batch: Batch = 2
    validation_overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25  # during training
    validation_cases: Count | None = None  # during training, evenly spaced over the split; null: all
    # Of a split by evaluate.py, evenly spaced; null: all
    cases: Annotated[Count | None, Key("evaluation", packed=False)] = None
    mirror_axes: Annotated[
        tuple[Annotated[int, Field(ge=0, le=2)], ...], Field(max_length=3)
    ] = ()  # only axes that training flips
    nsd_tolerance_mm: Positive = 1.0
    weights: Literal["ema", "raw"] = "ema"  # ema where the run has it
    bootstrap_samples: Annotated[int, Field(ge=1, le=100_000)] = 2000
    save_predictions: bool = True
    save_probabilities: bool = False
    calibration: bool = True  # of segmentations: whether voxels are counted for it, and for error AUROC
    # Of the probabilities: none leaves them, stored takes the run's temperature.json; see docs/uncertainty.md.
    temperature: Literal["none", "stored"] | Positive = "none"
    seed: Seed = 0  # of Monte-Carlo dropout's masks, and of the voxels a temperature is fitted on

"""Rules for cases with classes: a classifier of volumes or clips, by how many cases there are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from planning.proposal.classifier import Classifier
from planning.proposal.clip_input import ClipInput, choose_clip_input
from planning.proposal.cohort import Cohort, gather_cohort
from planning.proposal.rules import PRECISION, Decision, average_weights, count_workers, mirror_axes
from planning.proposal.volume_input import VolumeInput, choose_volume_input
from planning.survey.survey import Survey

LEAST_CASES = 4
WARMUP_STEPS = 50
EVEN = 1.5  # of the commonest class over the rarest: up to there, cases are drawn as they are
INPUTS: dict[str, Callable[[Cohort, float], VolumeInput | ClipInput]] = {
    "volumes": choose_volume_input,
    "clips": choose_clip_input,
}


@dataclass(frozen=True)
class ClassRules:
    """What the network sees of the cases, and their classes."""

    cohort: Cohort
    chosen: VolumeInput | ClipInput
    counts: tuple[int, ...]  # of each class in training

    opening = (Decision("task", "classification"),)  # what a config begins with
    held = ""  # what takes memory beside a training step

    @property
    def counted(self) -> str:
        """What the config is planned from."""
        return f"{len(self.cohort.survey.cases)} {self.cohort.survey.input.what}"

    @property
    def step_gb(self) -> float:
        """Estimated peak memory of a training step."""
        return self.chosen.network.training_gb(self.chosen.batch_size)

    @property
    def num_channels(self) -> int:
        return self.chosen.num_channels

    @property
    def passes(self) -> int:
        """Over the training cases, 16 a step: about 1,000 steps, 12 to 40 passes."""
        return int(np.clip(round(16_000 / self.cohort.num_train), 12, 40))

    def decisions(self) -> Iterator[Decision]:
        """All but where the cases are and how they are split."""
        yield _balance(self)
        yield from self.chosen.decisions(self.cohort)
        yield count_workers()
        yield from _model(self.chosen.network)
        yield from _training(self)
        yield mirror_axes(self.chosen.flipped)


def plan_classes(survey: Survey, memory_gb: float) -> ClassRules:
    """Choose the input, the network and the batch size.

    Raises ValueError where there is nothing to train on: too few cases, one class, too little memory.
    """
    cohort = gather_cohort(survey, LEAST_CASES)
    counts = tuple(survey.target.counts(cohort.train))
    if sum(count > 0 for count in counts) < 2 and not survey.target.multi_label:
        root = survey.config.data.root
        raise ValueError(f"{root}: training would see one class alone, {counts} cases of each")
    return ClassRules(cohort, INPUTS[survey.input.what](cohort, memory_gb), counts)


def _balance(r: ClassRules) -> Decision:
    said = ", ".join(f"{name} {count}" for name, count in zip(r.cohort.survey.class_names, r.counts, strict=True))
    if r.cohort.survey.target.multi_label:
        return Decision("data.balance", "none", f"classes may coincide; training has {said}")
    if max(r.counts) > EVEN * max(1, min(r.counts)):
        return Decision("data.balance", "classes", f"an epoch draws as many of each; training has {said}")
    return Decision("data.balance", "none", f"classes are about as common: training has {said}")


def _model(network: Classifier) -> Iterator[Decision]:
    yield Decision("model.name", network.name, network.why)
    for key, value in network.args.items():
        yield Decision(f"model.args.{key}", value)
    dropout = {"kind": "channel", "rate": 0.2, "places": ["head"]}
    why = "with few cases, against learning them by heart; not in the body, whose batch norms it would lead astray"
    yield Decision("model.args.dropout", dropout, why)


def _training(r: ClassRules) -> Iterator[Decision]:
    batch_size, passes = r.chosen.batch_size, r.passes
    steps = passes * (r.cohort.num_train // batch_size)
    if r.cohort.survey.target.multi_label:
        yield Decision("loss.name", "binary_cross_entropy", "a yes or no for each class")
    else:
        yield Decision("loss.name", "cross_entropy", "classes exclude each other")
    yield Decision("optim.name", "adamw")
    yield Decision("optim.learning_rate", 0.001, "falls to 0 along a cosine")
    yield Decision("optim.weight_decay", 0.05)
    yield Decision("optim.warmup_steps", min(WARMUP_STEPS, max(1, steps // 10)))
    yield average_weights(0.99 if steps >= 500 else 0.95)
    yield Decision("train.epochs", passes, f"{steps} steps; the more cases, the fewer passes over them")
    yield Decision("train.batch_size", batch_size, f"a step takes about {r.step_gb:.1f} GB")
    yield PRECISION
    why = "area under the ROC curve: no threshold, and rare classes count as much"
    yield Decision("checkpoint.metric", "auc", why)

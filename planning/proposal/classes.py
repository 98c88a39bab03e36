"""Rules for cases with classes: a classifier of volumes or clips, by how many cases there are."""

from collections.abc import Iterator, Sequence

import numpy as np

from planning.proposal.classifier import Classifier
from planning.proposal.clip_input import choose_clip_input
from planning.proposal.cohort import Cohort, gather_cohort
from planning.proposal.common import make_plan
from planning.proposal.rules import PRECISION, Decision, Plan, average_weights, count_workers, mirror
from planning.proposal.volume_input import choose_volume_input
from planning.survey.survey import Survey

LEAST_CASES = 4
WARMUP_STEPS = 50
EVEN = 1.5  # of the commonest class over the rarest: up to there, cases are drawn as they are
INPUTS = {"volumes": choose_volume_input, "clips": choose_clip_input}  # by the kind of cases


def plan_classes(survey: Survey, memory_gb: float) -> Plan:
    """Plan as `plan_config` does."""
    cohort = gather_cohort(survey, LEAST_CASES)
    counts = survey.target.counts(cohort.train)
    if sum(count > 0 for count in counts) < 2 and not survey.target.multi_label:
        root = survey.config.data.root
        raise ValueError(f"{root}: all training cases are of one class, {tuple(counts)} of each; add cases of another")
    chosen = INPUTS[survey.kind.name](cohort, memory_gb)
    step_gb = chosen.network.training_gb(chosen.batch_size)
    rest = [
        _balance(survey, counts),
        *chosen.decisions,
        count_workers(),
        *_model(chosen.network),
        *_training(cohort, chosen.batch_size, step_gb),
        mirror(chosen.flipped),
    ]
    memory = f"{step_gb:.1f} GB for a training step by estimate, of the {memory_gb:g}"
    counted = f"{len(survey.cases)} {survey.kind.name}"
    return make_plan(cohort, counted, memory, chosen.num_channels, [Decision("task", "classification")], rest)


def _balance(survey: Survey, counts: Sequence[int]) -> Decision:
    said = ", ".join(f"{name} {count}" for name, count in zip(survey.class_names, counts, strict=True))
    if survey.target.multi_label:
        return Decision("data.balance", "none", f"classes may coincide; training has {said}")
    if max(counts) > EVEN * max(1, min(counts)):
        return Decision("data.balance", "classes", f"an epoch draws as many of each; training has {said}")
    return Decision("data.balance", "none", f"classes are about as common: training has {said}")


def _model(network: Classifier) -> Iterator[Decision]:
    yield Decision("model.name", network.name, network.why)
    for key, value in network.args.items():
        yield Decision(f"model.args.{key}", value)
    dropout = {"kind": "channel", "rate": 0.2, "places": ["head"]}
    why = "against memorising few cases; not in the body, where it would shift what batch norms measure"
    yield Decision("model.args.dropout", dropout, why)


def _training(cohort: Cohort, batch_size: int, step_gb: float) -> Iterator[Decision]:
    passes = int(np.clip(round(16_000 / cohort.num_train), 12, 40))  # 16 a step: about 1,000 steps
    steps = passes * (cohort.num_train // batch_size)
    if cohort.survey.target.multi_label:
        yield Decision("loss.name", "binary_cross_entropy", "a yes or no for each class")
    else:
        yield Decision("loss.name", "cross_entropy", "classes exclude each other")
    yield Decision("optim.name", "adamw")
    yield Decision("optim.learning_rate", 0.001, "falls to 0 along a cosine")
    yield Decision("optim.weight_decay", 0.05)
    yield Decision("optim.warmup_steps", min(WARMUP_STEPS, max(1, steps // 10)))
    yield average_weights(0.99 if steps >= 500 else 0.95)
    yield Decision("train.epochs", passes, f"{steps} steps; the more cases, the fewer passes over them")
    yield Decision("train.batch_size", batch_size, f"a step takes about {step_gb:.1f} GB")
    yield PRECISION
    why = "area under the ROC curve: no threshold, and rare classes count as much"
    yield Decision("checkpoint.metric", "auc", why)

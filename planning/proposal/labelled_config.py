"""A survey of cases with classes turned into a config, each decision with its reason."""

from collections.abc import Iterator

from planning.proposal.classifier import Classifier
from planning.proposal.clip_input import ClipInput, choose_clip_input, clip_decisions
from planning.proposal.common import count_workers, describe_source, run_name, share_out
from planning.proposal.labelled_fingerprint import EVEN, Cohort, gather_cohort
from planning.proposal.rules import Decision, Plan
from planning.proposal.volume_input import VolumeInput, choose_volume_input, volume_decisions
from planning.survey.labelled import LabelledSurvey

WARMUP_STEPS = 50


def plan_classification(survey: LabelledSurvey, memory_gb: float) -> Plan:
    """A config for the surveyed cases, training within about `memory_gb` by estimate.

    Raises ValueError where there is nothing to train on: too few cases, one class, too little memory.
    """
    cohort = gather_cohort(survey)
    clips = survey.config.data.clip is not None
    chosen = choose_clip_input(cohort, memory_gb) if clips else choose_volume_input(cohort, memory_gb)
    name = run_name(survey)
    gigabytes = chosen.network.training_gb(chosen.batch_size)
    what = "clips" if clips else "volumes"
    head = [
        f"Planned from {len(survey.labelled)} {what} of {survey.config.data.root}; every value can be changed.",
        "  python train.py --config FILE --dry-run    checks it, shows a batch, tells memory and time",
        "  python train.py --config FILE",
        f"  python evaluate.py --run runs/{name}",
        f"Memory: about {gigabytes:.1f} GB for a training step by estimate, of the {memory_gb:g} GB allowed.",
        *(f"To beat: {remark.brief}." for remark in survey.remarks if remark.brief and not remark.case_ids),
        "Result: not yet measured.",
    ]
    decisions = [Decision("name", name, "the run's folder is runs/NAME"), Decision("task", "classification")]
    decisions += describe_source(survey)
    decisions += share_out(survey, cohort.split, cohort.num_train, cohort.num_val)
    decisions.append(_balance(cohort))
    if isinstance(chosen, ClipInput):
        decisions += clip_decisions(cohort, chosen)
    else:
        decisions += volume_decisions(cohort, chosen)
    decisions.append(count_workers())
    decisions += [*_model(cohort, chosen.network), *_training(cohort, chosen), *_evaluating(chosen)]
    return Plan(
        tuple(head),
        tuple(decisions),
        "classification",
        chosen.num_channels,
        cohort.num_train,
        survey.class_names,
    )


def _balance(c: Cohort) -> Decision:
    said = ", ".join(f"{name} {count}" for name, count in zip(c.survey.class_names, c.counts, strict=True))
    if c.survey.multi_label:
        return Decision("data.balance", "none", f"classes may coincide; training has {said}")
    if c.uneven > EVEN:
        return Decision("data.balance", "classes", f"an epoch draws as many of each; training has {said}")
    return Decision("data.balance", "none", f"classes are about as common: training has {said}")


def _model(c: Cohort, network: Classifier) -> Iterator[Decision]:
    yield Decision("model.name", network.name, network.why)
    for key, value in network.args.items():
        yield Decision(f"model.args.{key}", value)
    dropout = {"kind": "channel", "rate": 0.2, "places": ["head"]}
    why = "with few cases, against learning them by heart; not in the body, whose batch norms it would lead astray"
    yield Decision("model.args.dropout", dropout, why)


def _training(c: Cohort, chosen: VolumeInput | ClipInput) -> Iterator[Decision]:
    batch_size, passes = chosen.batch_size, c.passes
    steps = passes * (c.num_train // batch_size)
    if c.survey.multi_label:
        yield Decision("loss.name", "binary_cross_entropy", "a yes or no for each class")
    else:
        yield Decision("loss.name", "cross_entropy", "classes exclude each other")
    yield Decision("optim.name", "adamw")
    yield Decision("optim.learning_rate", 0.001, "falls to 0 along a cosine")
    yield Decision("optim.weight_decay", 0.05)
    yield Decision("optim.warmup_steps", min(WARMUP_STEPS, max(1, steps // 10)))
    decay = 0.99 if steps >= 500 else 0.95
    yield Decision("optim.ema_decay", decay, f"weights are averaged over about the last {1 / (1 - decay):.0f} steps")
    yield Decision("train.epochs", passes, f"{steps} steps; the more cases, the fewer passes over them")
    gigabytes = chosen.network.training_gb(batch_size)
    yield Decision("train.batch_size", batch_size, f"a step takes about {gigabytes:.1f} GB")
    yield Decision("train.precision", "auto", "bfloat16 where the device computes it, which is faster; else float32")
    why = "area under the ROC curve: no threshold, and rare classes count as much"
    yield Decision("checkpoint.metric", "auc", why)


def _evaluating(chosen: VolumeInput | ClipInput) -> Iterator[Decision]:
    why = "flipping W at test time as well ([2]) costs twice the time" if chosen.flipped else "training flips none"
    yield Decision("evaluate.mirror_axes", [], why)

"""Class probabilities of whole cases, the mean over their views, and the validation made of them."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, tee
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from configs import Config
from engine.distributed.group import ALONE, Group
from engine.evaluation.cases import Failure, attempt, make_validator
from engine.evaluation.members import Member
from engine.evaluation.sliding_window import Predict
from engine.evaluation.temperature import scale
from engine.metrics.classification import METRICS, predict_indicators, score_probabilities
from engine.metrics.uncertainty import measure_samples
from ops import memory

_log = logging.getLogger("mlx_volumes")

_PER_CLASS = ("auc", "f1")  # reported of each class by validation, besides METRICS


class LabelledData(Protocol):
    """What classification asks of the data: cases are handed back to it as they came."""

    def load(self, case: Any, /) -> Any:
        """.views (V, D, H, W, C) float32; .label: int, (K,) of 0 and 1, or None; .group: str or None."""


@dataclass(frozen=True)
class ClassifiedCase:
    """One predicted case."""

    id: str
    probabilities: np.ndarray  # (K,) float64
    predicted: tuple[int, ...]  # the most probable class; of a multi-label task all from 0.5 upwards
    label: int | tuple[int, ...] | None  # of a multi-label task 0 or 1 for each class
    group: str | None
    num_views: int
    still: np.ndarray | None = None  # (K,): what the network says of each view's middle frame, repeated
    measures: tuple[float, ...] = ()  # MEASURES; of one prediction the first

    @property
    def labelled(self) -> bool:
        return self.label is not None

    @property
    def multi_label(self) -> bool:
        return isinstance(self.label, tuple)

    @property
    def truth(self) -> tuple[int, ...]:
        """The label in the form of `predicted`; of an unlabelled case nothing."""
        if isinstance(self.label, tuple):
            return tuple(np.flatnonzero(self.label).tolist())
        return () if self.label is None else (self.label,)


def classify_cases(
    predict: Predict,
    data: LabelledData,
    cases: Sequence[Any],
    config: Config,
    still: bool = False,
    temperature: float = 1.0,
) -> tuple[list[ClassifiedCase], list[Failure]]:
    """Predict every case; one whose files are at fault is reported as a failure, and the others go on.

    Views pass `train.batch_size` at a time, which fits: training needs more memory.
    still: predict also each view's middle frame repeated (D is time), which shows the network no motion.
    temperature: of the probabilities.
    """
    multi_label = is_multi_label(config)
    failures: list[Failure] = []
    loaded, waiting = tee(attempt(cases, lambda case: (case.id, data.load(case)), failures))

    def views() -> Iterator[np.ndarray]:
        for _, (_, case) in loaded:
            yield case.views
            if still:
                yield freeze_frames(case.views)

    results, log_due = [], time.monotonic() + 10
    every = predict_cases(predict, views(), config.train.batch_size, multi_label, config.evaluate.mirror_axes)
    for probabilities, (_, (case_id, case)) in zip(every, waiting, strict=True):
        frozen = scale(next(every), temperature, multi_label) if still else None
        results.append(_make_case(case_id, case, probabilities[None], temperature, multi_label, frozen))
        if time.monotonic() > log_due:
            _log.info("predicted %d of %d cases", len(results) + len(failures), len(cases))
            log_due = time.monotonic() + 10
    return results, failures


def classify_together(
    members: Sequence[Member], data: LabelledData, cases: Sequence[Any], config: Config, temperature: float = 1.0
) -> tuple[list[ClassifiedCase], list[Failure]]:
    """`classify_cases` by the mean of the members' probabilities, which is then brought to the temperature.

    A case's views pass apart from those of others: a draw of the network is one case's.
    """
    results: list[ClassifiedCase] = []
    failures: list[Failure] = []
    classify = partial(classify_case, members, data, config=config, temperature=temperature)
    for number, result in attempt(cases, classify, failures):
        results.append(result)
        if number % 50 == 0:
            _log.info("predicted %d of %d cases", number, len(cases))
    return results, failures


def classify_case(
    members: Sequence[Member], data: LabelledData, case: Any, config: Config, temperature: float = 1.0
) -> ClassifiedCase:
    """Predict one case by the mean of the members' probabilities, brought to the temperature."""
    multi_label, mirror_axes = is_multi_label(config), config.evaluate.mirror_axes
    samples: list[np.ndarray] = []
    loaded = data.load(case)
    for member in members:
        views = (loaded if member.data is None else member.data.load(case)).views
        with member.draw(case.id):
            samples += predict_cases(member.predict, [views], config.train.batch_size, multi_label, mirror_axes)
    return _make_case(case.id, loaded, np.array(samples), temperature, multi_label)


def predict_one(
    members: Sequence[Member], data: LabelledData, case: Any, config: Config, temperature: float, probabilities: bool
) -> np.ndarray:
    """Return a case's class probabilities (K,) float64; they are all that there is, asked for or not."""
    return classify_case(members, data, case, config, temperature).probabilities


def _make_case(
    case_id: str,
    loaded: Any,
    samples: np.ndarray,
    temperature: float,
    multi_label: bool,
    still: np.ndarray | None = None,
) -> ClassifiedCase:
    """From predictions (S, K) of a case, whose measures are taken before the temperature."""
    label = tuple(int(value) for value in loaded.label) if np.ndim(loaded.label) else loaded.label
    probabilities = scale(samples.mean(axis=0), temperature, multi_label)
    (chosen,) = predict_indicators(probabilities[None], multi_label)
    predicted = tuple(np.flatnonzero(chosen).tolist())
    measures, num_views = measure_samples(samples, multi_label), len(loaded.views)
    return ClassifiedCase(case_id, probabilities, predicted, label, loaded.group, num_views, still, measures)


def predict_cases(
    predict: Predict,
    views: Iterable[np.ndarray],
    batch_size: int,
    multi_label: bool,
    mirror_axes: Sequence[int] = (),
) -> Iterator[np.ndarray]:
    """Yield each case's probabilities (K,) float64, the mean over its views (V, D, H, W, C), in order.

    Views of several cases share a batch. Probabilities are the logits' softmax, or, multi-label, their sigmoid.
    With `mirror_axes` (0 is D) a view's are the mean over all combinations of flips along these axes.
    """
    counts: deque[int] = deque()  # views of each case that is not yet done
    waiting: list[np.ndarray] = []  # views to predict, all of one shape
    done: list[np.ndarray] = []  # probabilities of views of cases that are not yet whole

    def run(batch: list[np.ndarray]) -> None:
        done.extend(_predict_batch(predict, np.stack(batch), multi_label, mirror_axes))

    def whole_cases() -> Iterator[np.ndarray]:
        while counts and len(done) >= counts[0]:
            count = counts.popleft()
            yield np.mean(done[:count], axis=0)
            del done[:count]

    for case in views:
        if waiting and waiting[0].shape != case.shape[1:]:
            run(waiting)
            waiting.clear()
        counts.append(len(case))
        waiting.extend(case)
        while len(waiting) >= batch_size:
            run(waiting[:batch_size])
            del waiting[:batch_size]
        yield from whole_cases()
    if waiting:
        run(waiting)
    yield from whole_cases()


def _predict_batch(predict: Predict, x: np.ndarray, multi_label: bool, mirror_axes: Sequence[int]) -> np.ndarray:
    """Probabilities (B, K) float64 of x (B, D, H, W, C)."""
    flips = [axes for count in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, count)]
    images, total = mx.array(x), np.zeros(1)
    for axes in flips:
        d, h, w = (slice(None, None, -1 if axis in axes else 1) for axis in range(3))
        with memory.explained(f"prediction of views {x.shape} (N, D, H, W, C)", "train.batch_size"):
            logits = predict(images[:, d, h, w]).astype(mx.float32)  # (B, K)
            probabilities = mx.sigmoid(logits) if multi_label else mx.softmax(logits, axis=-1)
            memory.evaluate(probabilities)
        total = total + np.array(probabilities, np.float64)
    # float32's softmax sums to 1 up to rounding, which scikit-learn's log loss would warn of
    return total / len(flips) if multi_label else total / total.sum(axis=-1, keepdims=True)


def freeze_frames(views: np.ndarray) -> np.ndarray:
    """Return the views (V, D, H, W, C), every frame of each replaced by its middle one."""
    return np.broadcast_to(views[:, views.shape[1] // 2, None], views.shape)


def stack_labels(cases: Sequence[ClassifiedCase]) -> np.ndarray:
    """Labels of labelled cases, (N,) or (N, K) integers."""
    return np.array([case.label for case in cases], np.int64)


def make_validation(
    config: Config, class_names: Sequence[str], data: LabelledData, cases: Sequence[Any], group: Group = ALONE
) -> Callable[[nn.Module], dict[str, float]]:
    """Return the validation of a training run: model -> {"auc", "accuracy", ..., "auc.<class>", "f1.<class>"}.

    The metrics of `classification.METRICS`, over `evaluate.validation_cases` of the cases, evenly spaced, without
    mirroring; NaN where they are undefined. The processes of a `group` share the cases, and all return the same.
    """
    multi_label, num_classes = is_multi_label(config), len(class_names)

    def score(predict: Predict, loaded: Iterable[Any]) -> list[np.ndarray]:
        loaded, labelled = tee(loaded)
        found = predict_cases(predict, (case.views for case in loaded), config.train.batch_size, multi_label)
        return [np.append(p, case.label) for p, case in zip(found, labelled, strict=True)]

    def summarise(rows: np.ndarray) -> dict[str, float]:
        labels = rows[:, num_classes:].astype(np.int64)
        scores = score_probabilities(rows[:, :num_classes], labels if multi_label else labels[:, 0])
        values = {name: scores[name].value for name in METRICS}
        for name in _PER_CLASS:
            per_class = scores[name].per_class
            assert per_class is not None
            values |= {f"{name}.{c}": float(value) for c, value in zip(class_names, per_class, strict=True)}
        return values

    return make_validator(config, data, cases, group, score, summarise)


def validation_metrics(config: Config, class_names: Sequence[str]) -> list[str]:
    """Return the names that the validation reports under, among which `checkpoint.metric` is one."""
    return [*METRICS, *(f"{name}.{c}" for name in _PER_CLASS for c in class_names)]


def check_labels(config: Config, data: Any) -> None:
    """Raise ValueError unless the loss is one for the labels: a class of each case, or several."""
    if is_multi_label(config) == data.multi_label:
        return
    labels = "may coincide" if data.multi_label else "exclude each other"
    known = " or ".join(config.choices.losses_for("classes" if data.multi_label else "class"))
    raise ValueError(
        f"loss.name={config.loss.name} does not fit the labels of {config.data.root}, which {labels}; use {known}"
    )


def is_multi_label(config: Config) -> bool:
    """Return whether classes do not exclude each other: the loss treats each class independently."""
    return config.classes_may_coincide

"""The cases of an evaluation predicted and scored, and everything written that comes of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import mlx.nn as nn
import numpy as np

from configs import Config
from configs.schema.data import DataConfig
from configs.schema.roles import keys_where, pick, says_which_data
from data.dataset import Dataset
from data.files.formats.registry import prediction_suffix
from data.files.volumes import write_volume
from data.layouts.cases import Case
from data.prepare.volumes import read_case_image
from engine.config import check_config
from engine.distributed.gather import collect
from engine.distributed.group import Group
from engine.evaluation.cases import Failure
from engine.evaluation.classification import ClassifiedCase, classify_cases, classify_together
from engine.evaluation.grad_cam import grad_cam
from engine.evaluation.labelling import labelling_of
from engine.evaluation.members import Member
from engine.evaluation.seen import warn_of_cases
from engine.evaluation.segmentation import CaseResult, Save, evaluate_cases
from engine.evaluation.temperature import store_temperature
from engine.evaluation.voxels import VoxelFacts
from engine.metrics.calibration import Reliability
from engine.metrics.segmentation import ClassScore
from engine.reports import classification_tables as of_classes
from engine.reports import segmentation_tables as of_volumes
from engine.reports.classification_report import write_classification_report
from engine.reports.segmentation_report import write_evaluation_report
from engine.reports.slices import PackedPlane, Slices
from engine.reports.tables import write_metrics
from engine.reports.uncertainty_report import uncertainty_sections
from engine.reports.uncertainty_tables import (
    format_tables,
    summarise_classified,
    summarise_voxels,
    write_case_uncertainty,
)
from engine.runs.run_folder import RunFolder
from machine.terminal import say


@dataclass(frozen=True)
class Job:
    """What is evaluated, and where to."""

    run: RunFolder
    config: Config
    data: Dataset
    cases: list[Any]
    faults: list[Failure]  # cases that their headers rule out
    model: nn.Module
    members: list[Member]  # whose mean is predicted: the model, its draws, or it and those of other runs
    temperature: float  # of the probabilities
    output: Path
    metrics: dict[str, Any]  # what metrics.json will hold
    group: Group  # its processes share the cases, and rank 0 writes
    parts: Mapping[str, list[str]] = field(default_factory=dict)  # cases by split of the run, where they are its own

    training: Sequence[str] = ()  # the run's own training cases, where the data are its own

    def summarise_parts(self, results: Sequence[Any], summarise: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """{"splits": {split: scores}} where the cases are of several splits of the run."""
        if len(self.parts) < 2:
            return {}
        parts = {name: [result for result in results if result.id in ids] for name, ids in self.parts.items()}
        return {"splits": {name: summarise(found) for name, found in parts.items()}}

    @property
    def num_samples(self) -> int:
        """Of the bootstrap."""
        return self.config.evaluate.bootstrap_samples

    @property
    def share(self) -> list[Any]:
        return self.cases[self.group.rank :: self.group.size]

    def collect(self, found: Sequence[Any], key: str, *types: type) -> list[Any]:
        """Return what all processes found, in the order of the cases."""
        return collect(self.group, found, {case.id: i for i, case in enumerate(self.cases)}, key, types)


class Scoring(Protocol):
    """Predicts and scores the cases of a job, and writes what is particular to its task."""

    takes_baseline: ClassVar[bool]
    types: ClassVar[tuple[type, ...]]  # that the results are made of, their own first

    def __init__(self, job: Job, baseline: Path | str | None) -> None: ...

    def predict(self) -> tuple[list[Any], list[Failure]]:
        """Predict and score this process's share of the cases."""

    def summarise(self, results: Sequence[Any]) -> dict[str, Any]:
        """Return what metrics.json says of these results."""

    def summarise_uncertainty(self, results: Sequence[Any]) -> dict[str, Any]:
        """Return what metrics.json says of their calibration and uncertainty."""

    def write_cases(self, results: Sequence[Any]) -> None:
        """Write the tables of cases."""

    def write_report(self, results: Sequence[Any], failures: Sequence[Failure]) -> Path:
        """Write the report and return its path."""

    def format_table(self, metrics: dict[str, Any]) -> str:
        """Return the metrics as a plain table."""

    def format_predictions(self, results: Sequence[Any]) -> list[str]:
        """Return lines on what is predicted of cases without a label."""


class Segmenting:
    """Scores label volumes, and writes them."""

    takes_baseline: ClassVar[bool] = False
    types: ClassVar[tuple[type, ...]] = (CaseResult, ClassScore, Slices, VoxelFacts, Reliability, PackedPlane)
    format_table = staticmethod(of_volumes.format_table)

    def __init__(self, job: Job, baseline: Path | str | None) -> None:
        self._job = job
        self._labelling = labelling_of(job.config, job.data.class_names)

    def predict(self) -> tuple[list[CaseResult], list[Failure]]:
        job = self._job
        save = make_save(job.output, job.config.evaluate.save_predictions)
        arguments = (job.members, job.data, job.share, job.config, self._labelling, save)
        return evaluate_cases(*arguments, temperature=job.temperature)

    def summarise(self, results: Sequence[CaseResult]) -> dict[str, Any]:
        return of_volumes.summarise_cases(results, self._labelling.titles, self._job.num_samples)

    def summarise_uncertainty(self, results: Sequence[CaseResult]) -> dict[str, Any]:
        job = self._job
        return summarise_voxels(results, job.num_samples, job.temperature, job.config.evaluate.seed)

    def write_cases(self, results: Sequence[CaseResult]) -> None:
        of_volumes.write_cases(self._job.output / "cases.csv", results, self._labelling.titles)
        write_case_uncertainty(self._job.output / "uncertainty.csv", results)

    def write_report(self, results: Sequence[CaseResult], failures: Sequence[Failure]) -> Path:
        job, labelling, read_image = self._job, self._labelling, make_reader(self._job.data, self._job.cases)
        sections = uncertainty_sections(job.metrics, results, labelling, read_image)
        path = job.output / "report.html"
        return write_evaluation_report(path, job.run, job.metrics, results, failures, labelling, read_image, sections)

    def format_predictions(self, results: Sequence[CaseResult]) -> list[str]:
        return []  # they are files


class Classifying:
    """Scores class probabilities."""

    takes_baseline: ClassVar[bool] = True
    types: ClassVar[tuple[type, ...]] = (ClassifiedCase,)
    format_table = staticmethod(of_classes.format_table)

    def __init__(self, job: Job, baseline: Path | str | None) -> None:
        self._job, names = job, job.data.class_names
        self._baselines = of_classes.read_baseline(baseline, job.metrics["split"], names) if baseline else {}
        if by_metadata := job.data.predict_by_metadata(job.training, job.cases):
            self._baselines = {**self._baselines, of_classes.METADATA: by_metadata}

    def predict(self) -> tuple[list[ClassifiedCase], list[Failure]]:
        job, clip = self._job, self._job.config.data.clip
        if len(job.members) > 1:
            return classify_together(job.members, job.data, job.share, job.config, job.temperature)
        # Differences between frames show motion even where one of them is repeated.
        still = clip is not None and clip.input == "frames" and not clip.single_frame
        return classify_cases(job.members[0].predict, job.data, job.share, job.config, still, job.temperature)

    def summarise(self, results: Sequence[ClassifiedCase]) -> dict[str, Any]:
        job = self._job
        return of_classes.summarise_cases(results, job.data.class_names, job.num_samples, self._baselines)

    def summarise_uncertainty(self, results: Sequence[ClassifiedCase]) -> dict[str, Any]:
        job = self._job
        return summarise_classified(results, job.num_samples, job.temperature, job.config.evaluate.seed)

    def write_cases(self, results: Sequence[ClassifiedCase]) -> None:
        of_classes.write_cases(self._job.output / "cases.csv", results, self._job.data.class_names)

    def write_report(self, results: Sequence[ClassifiedCase], failures: Sequence[Failure]) -> Path:
        job, is_clip = self._job, self._job.config.data.clip is not None
        explain = partial(grad_cam, job.model) if job.config.model.args.has_features else None
        path, sections = job.output / "report.html", uncertainty_sections(job.metrics)
        return write_classification_report(
            path, job.run, job.metrics, results, failures, job.data, explain, is_clip, sections
        )

    def format_predictions(self, results: Sequence[ClassifiedCase]) -> list[str]:
        return of_classes.format_predictions(results, self._job.data.class_names)


SCORING: Mapping[str, type[Scoring]] = {"segmentation": Segmenting, "classification": Classifying}  # by `task`


def score(job: Job, scoring: Scoring) -> list[Failure]:
    """Predict and score the cases, and write what comes of them; return all that failed."""
    metrics, started = job.metrics, time.perf_counter()
    results, failures = scoring.predict()
    results = job.collect(results, "id", *scoring.types)
    failures = [*job.faults, *job.collect(failures, "case", Failure)]
    if not job.group.writes:
        return failures
    metrics["seconds_per_case"] = (time.perf_counter() - started) / max(len(results), 1)
    metrics |= scoring.summarise(results) | job.summarise_parts(results, scoring.summarise)
    metrics |= scoring.summarise_uncertainty(results)
    metrics["failed"] = [asdict(failure) for failure in failures]
    write_metrics(job.output / "metrics.json", metrics)
    scoring.write_cases(results)
    keep_temperature(job)
    report, predictions = scoring.write_report(results, failures), scoring.format_predictions(results)
    print_results(metrics, failures, scoring.format_table, report, predictions)
    return failures


def keep_temperature(job: Job) -> None:
    """Store the fitted temperature with the run, where it was fitted on all of the split that is there for choosing."""
    metrics, kind = job.metrics, job.metrics["prediction"]["kind"]
    calibration = metrics.get("calibration")
    trained, found = check_config(job.run.read_config_tree(), str(job.run.config_path)).data, job.config.data
    keys = [key for key in keys_where(DataConfig, says_which_data) if key != "root"]  # which may be spelt otherwise
    are_own = trained.root.resolve() == found.root.resolve()
    are_own &= pick(trained.model_dump(), keys) == pick(found.model_dump(), keys)
    if calibration is None or kind == "ensemble" or metrics["split"] != "val" or not are_own:
        return
    if job.config.evaluate.temperature == "none" and job.config.evaluate.cases is None:
        fitted_on = {"split": "val", "num_cases": calibration["num_cases"], "of": calibration["of"]}
        checkpoint = {key: metrics["checkpoint"][key] for key in ("step", "weights")}
        extra = {key: value for key, value in metrics["prediction"].items() if key in ("samples", "seed")}
        store_temperature(job.run, kind, calibration["fitted_temperature"], {**fitted_on, **checkpoint, **extra})


def print_results(
    metrics: dict[str, Any],
    failures: Sequence[Failure],
    format_table: Callable[[dict[str, Any]], str],
    report: Path,
    predictions: Sequence[str] = (),
) -> None:
    """Print what failed, the table of metrics, predictions of cases without a label, and where the report is."""
    for failure in failures:
        say(f"not evaluated: {failure.case}: {failure.file}: {failure.reason}")
    if metrics["num_cases"]:
        say("\n".join([format_table(metrics), *warn_of_cases(metrics)]) + format_tables(metrics))
    if predictions:
        say("\n".join(predictions))
    say(f"report: {report}")


def make_save(output: Path, save_predictions: bool) -> Save:
    """Write a case's prediction, and further volumes where there are any, on its source file's grid, in its format."""

    def save(case: Case, prepared: Any, labels: np.ndarray, volumes: Mapping[str, np.ndarray]) -> None:
        name_of_file = case.id + prediction_suffix(prepared.source)
        if save_predictions:
            write_volume(output / "predictions" / name_of_file, labels, prepared.source)
        for name, volume in volumes.items():
            if save_predictions or name == "probabilities":
                write_volume(output / name / name_of_file, volume, prepared.source)

    return save


def make_reader(data: Dataset, cases: list[Case]) -> Callable[[str], np.ndarray]:
    """Case id -> the first channel (D, H, W) of its image, as in the file."""
    by_id = {case.id: case for case in cases}

    def read(case_id: str) -> np.ndarray:
        return read_case_image(by_id[case_id], data.config.data.channels)[0][..., 0]

    return read

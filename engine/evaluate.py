"""An evaluation as a whole: all cases predicted and scored, and everything written that comes of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np

from configs import Config
from configs.schema.data import DataConfig
from configs.schema.load import check_config
from configs.schema.roles import keys_where, says_which_data
from engine.distributed.gather import collect
from engine.distributed.group import Group
from engine.evaluation.classification import ClassifiedCase, classify_cases, classify_together
from engine.evaluation.grad_cam import grad_cam
from engine.evaluation.members import Member
from engine.evaluation.seen import warn_of_cases
from engine.evaluation.segmentation import CaseResult, Failure, Save, evaluate_cases
from engine.evaluation.temperature import store_temperature
from engine.evaluation.voxels import VoxelFacts
from engine.metrics.calibration import Reliability
from engine.metrics.segmentation import ClassScore
from engine.reports import classification_tables as of_classes
from engine.reports import segmentation_tables as of_volumes
from engine.reports.classification_report import write_classification_report
from engine.reports.segmentation_report import write_evaluation_report
from engine.reports.slices import PackedPlane, Slices
from engine.reports.uncertainty_report import uncertainty_sections
from engine.reports.uncertainty_tables import (
    format_tables,
    summarise_classified,
    summarise_voxels,
    write_case_uncertainty,
)
from engine.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Job:
    """What is evaluated, and where to."""

    run: RunFolder
    config: Config
    data: Any  # VolumeData, or ClassificationData
    cases: list[Any]
    faults: list[Failure]  # cases that their headers rule out
    model: nn.Module
    members: list[Member]  # whose mean is predicted: the model, its draws, or it and those of other runs
    temperature: float  # of the probabilities
    output: Path
    metrics: dict[str, Any]  # what metrics.json will hold
    group: Group  # its processes share the cases, and rank 0 writes
    parts: Mapping[str, list[str]] = field(default_factory=dict)  # cases by split of the run, where they are its own

    def summarise_parts(self, results: Sequence[Any], summarise: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """{"splits": {split: scores}} where the cases are of several splits of the run."""
        if len(self.parts) < 2:
            return {}
        parts = {name: [result for result in results if result.id in ids] for name, ids in self.parts.items()}
        return {"splits": {name: summarise(found) for name, found in parts.items()}}

    @property
    def share(self) -> list[Any]:
        return self.cases[self.group.rank :: self.group.size]

    def collect(self, found: Sequence[Any], key: str, *types: type) -> list[Any]:
        """What all processes found, in the order of the cases."""
        return collect(self.group, found, {case.id: i for i, case in enumerate(self.cases)}, key, types)


def segment(job: Job, save: Save, read_image: Callable[[str], np.ndarray]) -> list[Failure]:
    """Predict and score label volumes, and write what comes of them; return all cases that failed.

    read_image: case id -> (D, H, W) on the source file's grid, for the report.
    """
    data, config, metrics, names = job.data, job.config, job.metrics, job.data.class_names
    settings = config.evaluate
    started = time.perf_counter()
    results, failures = evaluate_cases(
        job.members, data, job.share, config, data.num_outputs, save, temperature=job.temperature
    )
    results = job.collect(results, "id", CaseResult, ClassScore, Slices, VoxelFacts, Reliability, PackedPlane)
    failures = [*job.faults, *job.collect(failures, "case", Failure)]
    if not job.group.writes:
        return failures
    metrics["seconds_per_case"] = (time.perf_counter() - started) / max(len(results), 1)
    summarise = partial(of_volumes.summarise_cases, class_names=names, num_samples=settings.bootstrap_samples)
    metrics |= summarise(results) | job.summarise_parts(results, summarise)
    metrics |= summarise_voxels(results, settings.bootstrap_samples, job.temperature, settings.seed)
    metrics["failed"] = [asdict(failure) for failure in failures]
    of_volumes.write_metrics(job.output / "metrics.json", metrics)
    of_volumes.write_cases(job.output / "cases.csv", results, names)
    write_case_uncertainty(job.output / "uncertainty.csv", results)
    keep_temperature(job)
    path, sections = job.output / "report.html", uncertainty_sections(metrics, results, names, read_image)
    report = write_evaluation_report(path, job.run, metrics, results, failures, names, read_image, sections)
    print_results(metrics, failures, of_volumes.format_table, report)
    return failures


def classify(job: Job, baseline: str | None) -> list[Failure]:
    """Predict and score classes, and write what comes of them; return all cases that failed."""
    data, config, metrics, model, clip = job.data, job.config, job.metrics, job.model, job.config.data.clip

    def explain(view: np.ndarray, class_index: int) -> np.ndarray | None:
        return grad_cam(model, view, class_index) if hasattr(model, "features") else None

    names = data.class_names
    baselines = of_classes.read_baseline(baseline, metrics["split"], names) if baseline else {}
    # Differences between frames show motion even where one of them is repeated.
    still = clip is not None and clip.input == "frames" and not clip.single_frame
    started, settings = time.perf_counter(), config.evaluate
    if len(job.members) == 1:
        predict = job.members[0].predict
        results, failures = classify_cases(predict, data, job.share, config, still, job.temperature)
    else:
        results, failures = classify_together(job.members, data, job.share, config, job.temperature)
    results = job.collect(results, "id", ClassifiedCase)
    failures = [*job.faults, *job.collect(failures, "case", Failure)]
    if not job.group.writes:
        return failures
    metrics["seconds_per_case"] = (time.perf_counter() - started) / max(len(results), 1)
    summarise = partial(
        of_classes.summarise_cases, class_names=names, num_samples=settings.bootstrap_samples, baselines=baselines
    )
    metrics |= summarise(results) | job.summarise_parts(results, summarise)
    metrics |= summarise_classified(results, settings.bootstrap_samples, job.temperature, settings.seed)
    metrics["failed"] = [asdict(failure) for failure in failures]
    of_volumes.write_metrics(job.output / "metrics.json", metrics)
    of_classes.write_cases(job.output / "cases.csv", results, names)
    keep_temperature(job)
    path, sections = job.output / "report.html", uncertainty_sections(metrics)
    report = write_classification_report(
        path, job.run, metrics, results, failures, data, explain, clip is not None, sections
    )
    print_results(metrics, failures, of_classes.format_table, report)
    return failures


def keep_temperature(job: Job) -> None:
    """Store the fitted temperature with the run, where it was fitted on all of the split that is there for choosing."""
    metrics, kind = job.metrics, job.metrics["prediction"]["kind"]
    calibration = metrics.get("calibration")
    trained, found = check_config(job.run.read_config_tree(), str(job.run.config_path)).data, job.config.data
    keys = [key for key in keys_where(DataConfig, says_which_data) if key != "root"]  # which may be spelt otherwise
    are_own = trained.root.resolve() == found.root.resolve()
    are_own &= all(getattr(trained, key) == getattr(found, key) for key in keys)
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
) -> None:
    """Print what failed, the table of metrics, and where the report is."""
    for failure in failures:
        print(f"not evaluated: {failure.case}: {failure.file}: {failure.reason}")
    if metrics["num_cases"]:
        print("\n".join([format_table(metrics), *warn_of_cases(metrics)]) + format_tables(metrics))
    print(f"report: {report}")

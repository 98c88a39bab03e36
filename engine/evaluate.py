"""An evaluation as a whole: all cases predicted and scored, and everything written that comes of them."""

import logging
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
from configs.schema.roles import keys_where, says_which_data
from data.dataset import Dataset, open_data
from data.files.volumes import write_volume
from data.layouts.cases import Case
from data.prepare.volumes import read_case_image
from engine.check_compatibility import check_array_sizes
from engine.config import check_config
from engine.distributed.gather import collect
from engine.distributed.group import ALONE, Group
from engine.evaluation.cases import Failure, evenly_spaced
from engine.evaluation.classification import ClassifiedCase, classify_cases, classify_together
from engine.evaluation.ensemble import find_seen
from engine.evaluation.grad_cam import grad_cam
from engine.evaluation.members import Member
from engine.evaluation.seen import divide, find_choice, own_splits, warn_of_cases
from engine.evaluation.segmentation import CaseResult, Save, evaluate_cases
from engine.evaluation.temperature import choose_temperature, store_temperature
from engine.evaluation.voxels import VoxelFacts
from engine.metrics.calibration import Reliability
from engine.metrics.segmentation import ClassScore
from engine.predict import join_runs, load_networks, open_folder
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
from engine.runs.trained import Overrides, Runs, Trained, open_trained

_log = logging.getLogger("mlx_volumes")


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation."""

    metrics: dict[str, Any]  # as metrics.json holds them
    failures: list[Failure]
    output: Path


def evaluate(
    runs: Runs,
    split: str = "val",
    *,
    images: Path | str | None = None,
    checkpoint: str | None = None,
    baseline: Path | str | None = None,
    mc_dropout: int | None = None,
    output: Path | str | None = None,
    overrides: Overrides = (),
    group: Group = ALONE,
) -> Evaluation:
    """Predict and score the cases of a split, and write metrics.json, cases.csv, a report and predictions.

    runs         a run's folder or a pack, or several, whose mean is predicted
    split        "train", "val", "test" or "all"
    images       a folder, or a file, without labels, which is predicted in place of a split
    checkpoint   `last` (None), `best`, a step, or a path to one
    baseline     a classification run, evaluated on the same split, whose scores are set beside these
    mc_dropout   predict the mean of so many draws of the network by its dropout layers
    output       a folder; None is eval/SPLIT in the run's folder, with _mc_dropout or _ensemble
    overrides    of the keys that docs/configs.md lists for it, {"evaluate.overlap": 0.25}

    Raises ValueError or OSError for what doesn't fit together; a bad case is a failure, and the others go on.
    """
    opened = join_runs(open_trained(runs, checkpoint, overrides))
    first = opened[0]
    run, config = first.run, first.config
    data, cases, faults = open_cases(first, split, images)
    check_array_sizes(config, data, training=False)
    if baseline and (config.task != "classification" or images):
        raise ValueError("--baseline compares classifications of labelled cases; leave it out here")
    all_data, seen = [data, *(open_again(other, images) for other in opened[1:])], set[str]()
    if not images:
        ids = [case.id for case in cases]
        for other, its_data in zip(opened, all_data, strict=True):
            seen |= set(find_seen(ids, split, other.run, config.data.root, its_data.fingerprint))
    networks = load_networks(opened, mc_dropout, group)
    facts, prediction = networks.checkpoint, networks.prediction
    temperature = choose_temperature(run, config.evaluate.temperature, prediction["kind"], facts)
    name = f"images_{Path(images).resolve().name}" if images else split
    name += "" if prediction["kind"] == "plain" else f"_{prediction['kind']}"
    folder = Path(output) if output else run.evaluation(name)
    folder.mkdir(parents=True, exist_ok=True)
    place = images or config.data.root
    _log.info("%d cases of %s, %s weights of %s", len(cases), place, facts["weights"], first.checkpoint)
    metrics: dict[str, Any] = {
        "split": "images" if images else split,
        "checkpoint": {"name": first.checkpoint_name, **facts},
        "prediction": prediction,
        "precision": networks.precision,
        "settings": {"data_root": str(place), **config.evaluate.model_dump(mode="json")},
    }
    parts: dict[str, list[str]] = {}
    splits = {} if images else own_splits(run, config.data.root, data.fingerprint)
    if splits or seen:  # or another member's training cases
        parts = divide([case.id for case in cases], splits, seen)
        metrics["training_cases"] = len(seen)
    if "val" in parts and (choice := find_choice(run, first.checkpoint, config.checkpoint.metric)):
        metrics["optimistic"] = choice
    members, model = networks.members(all_data), networks.models[0]
    job = Job(run, config, data, cases, faults, model, members, temperature, folder, metrics, group, parts)
    if config.task == "classification":
        failures = classify(job, baseline)
    else:
        save = make_save(folder, config.evaluate.save_predictions)
        failures = segment(job, save, make_reader(data, cases))
    return Evaluation(metrics, failures, folder)


def open_cases(trained: Trained, split: str, images: Path | str | None) -> tuple[Any, list[Any], list[Failure]]:
    """The data, the cases to evaluate, and those of them that their headers rule out.

    Cases that training skipped stay skipped, and are no failures.
    """
    run, config = trained.run, trained.config
    if images:
        data = open_folder(trained, images)
        return data, data.cases("all"), [Failure(*fault) for fault in data.skipped]
    statistics = trained.statistics
    splits = {} if split == "all" else {split: run.read_json("splits").get(split)}
    if splits and not splits[split]:
        raise ValueError(f"{run.path}: the run has no {split} cases; choose another --split")
    data = open_data(config, statistics=statistics, splits=splits)
    own_root = Path(run.read_config_tree()["data"]["root"]).resolve() == config.data.root.resolve()
    skipped = {entry["case"] for entry in run.read_json("skipped")} if own_root else set()
    cases = evenly_spaced([case for case in data.cases(split) if case.id not in skipped], config.evaluate.cases)
    wanted = splits.get(split) or [case_id for case_id, _, _ in data.skipped]
    faults = [Failure(*fault) for fault in data.skipped if fault[0] in wanted and fault[0] not in skipped]
    return data, cases, faults


def open_again(trained: Trained, images: Path | str | None) -> Any:
    """The same data, as another member of an ensemble prepares them."""
    if images:
        return open_folder(trained, images)
    return open_data(trained.config, statistics=trained.statistics, splits={})


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
    write_metrics(job.output / "metrics.json", metrics)
    of_volumes.write_cases(job.output / "cases.csv", results, names)
    write_case_uncertainty(job.output / "uncertainty.csv", results)
    keep_temperature(job)
    path, sections = job.output / "report.html", uncertainty_sections(metrics, results, names, read_image)
    report = write_evaluation_report(path, job.run, metrics, results, failures, names, read_image, sections)
    print_results(metrics, failures, of_volumes.format_table, report)
    return failures


def classify(job: Job, baseline: Path | str | None) -> list[Failure]:
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
    write_metrics(job.output / "metrics.json", metrics)
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


def make_save(output: Path, save_predictions: bool) -> Save:
    """Writes a case's prediction, and further volumes where there are any, on its source file's grid."""

    def save(case: Case, prepared: Any, labels: np.ndarray, volumes: Mapping[str, np.ndarray]) -> None:
        if save_predictions:
            write_volume(output / "predictions" / f"{case.id}.nii.gz", labels, prepared.source)
        for name, volume in volumes.items():
            if save_predictions or name == "probabilities":
                write_volume(output / name / f"{case.id}.nii.gz", volume, prepared.source)

    return save


def make_reader(data: Dataset, cases: list[Case]) -> Callable[[str], np.ndarray]:
    """Case id -> the first channel (D, H, W) of its image, as in the file."""
    by_id = {case.id: case for case in cases}

    def read(case_id: str) -> np.ndarray:
        return read_case_image(by_id[case_id], data.config.data.channels)[0][..., 0]

    return read

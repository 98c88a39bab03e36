"""The rows of a run's cases.csv; its columns tell whether they are of segmentations or of classifications."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from engine.config import check_config
from engine.evaluation.classification import ClassifiedCase, is_multi_label
from engine.metrics import classification, segmentation
from engine.metrics.classification import as_indicators
from engine.metrics.segmentation import SURFACE_DEFINITION
from engine.reports import classification_tables, segmentation_tables
from engine.reports.tables import read_csv
from engine.runs.run_folder import RunFolder
from studies.scores import CaseTable, ClassifiedCases, SegmentedCases

Row = dict[str, str]


class CaseRows(Protocol):
    """Labelled rows of one evaluation, or of several pooled, and what studies need of them."""

    task: ClassVar[str]
    headline: ClassVar[str]  # the metric of a fold

    @property
    def rows(self) -> list[Row]: ...

    @property
    def class_names(self) -> list[str]: ...

    def with_rows(self, rows: list[Row]) -> Self:
        """Return other rows of the same columns."""

    def table(self, metric: str, multi_label: bool) -> CaseTable:
        """Return the cases, to be scored by `metric`; raise ValueError for an unknown one."""

    def pool(self, runs: Sequence[RunFolder], split: str, baseline: Path | None, num_samples: int) -> dict[str, Any]:
        """Return the contents of metrics.json for these rows of the runs' evaluations of a split."""

    def score(self) -> float:
        """Return the headline metric over these rows."""

    def format_table(self, metrics: dict[str, Any]) -> str:
        """Return the metrics that `pool` returns as a plain table."""


@dataclass(frozen=True)
class SegmentedRows:
    """One row for each case and class."""

    rows: list[Row]

    task: ClassVar[str] = "segmentation"
    headline: ClassVar[str] = "dice"
    labelled_by: ClassVar[str] = "reference_volume_ml"  # empty without a label
    format_table = staticmethod(segmentation_tables.format_table)

    @property
    def class_names(self) -> list[str]:
        return list(dict.fromkeys(row["class"] for row in self.rows))

    def with_rows(self, rows: list[Row]) -> "SegmentedRows":
        return SegmentedRows(rows)

    def values_of(self, column: str) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the cases and their metric (N, classes) float64, NaN where it is missing."""
        names = self.class_names
        cases = {case: i for i, case in enumerate(dict.fromkeys(row["case"] for row in self.rows))}
        values = np.full((len(cases), len(names)), np.nan)
        for row in self.rows:
            values[cases[row["case"]], names.index(row["class"])] = float(row.get(column) or "nan")
        return tuple(cases), values

    def table(self, metric: str, multi_label: bool) -> SegmentedCases:
        column, _, chosen = metric.partition(".")
        names = self.class_names
        if column not in segmentation.METRICS or (chosen not in ("", "mean") and chosen not in names):
            known = ", ".join(segmentation.METRICS)
            raise ValueError(
                f"no metric {metric}: expected one of {known}, then .mean or a class, .{', .'.join(names)}"
            )
        if column not in self.rows[0]:
            raise KeyError(column)
        cases, values = self.values_of(column)
        chosen_values = values if chosen in ("", "mean") else values[:, [names.index(chosen)]]
        return SegmentedCases(cases, units_of(self.rows), chosen_values)

    def pool(self, runs: Sequence[RunFolder], split: str, baseline: Path | None, num_samples: int) -> dict[str, Any]:
        for run in runs:
            require_surface_definition(run.evaluation(split))
        if baseline is not None:
            raise ValueError("--baseline compares classifications; leave it out for segmentations")
        return self._summarise(num_samples)

    def score(self) -> float:
        return float(self._summarise(1)["dice"]["mean"])

    def _summarise(self, num_samples: int) -> dict[str, Any]:
        values = {metric: self.values_of(metric)[1] for metric in segmentation.METRICS}
        return segmentation_tables.summarise_values(values, self.class_names, units_of(self.rows), num_samples)


@dataclass(frozen=True)
class ClassifiedRows:
    """One row for each case."""

    rows: list[Row]

    task: ClassVar[str] = "classification"
    headline: ClassVar[str] = "accuracy"
    labelled_by: ClassVar[str] = "correct"  # empty without a label
    format_table = staticmethod(classification_tables.format_table)

    @property
    def class_names(self) -> list[str]:
        """Those that probabilities are of."""
        return [key[2:-1] for key in self.rows[0] if key.startswith("p(")]

    def with_rows(self, rows: list[Row]) -> "ClassifiedRows":
        return ClassifiedRows(rows)

    def table(self, metric: str, multi_label: bool) -> ClassifiedCases:
        name, _, chosen = metric.partition(".")
        rows, class_names = self.rows, self.class_names
        if name not in classification.METRICS or (chosen and chosen not in class_names):
            known = ", ".join(classification.METRICS)
            raise ValueError(f"no metric {metric}: expected one of {known}, or auc.CLASS, f1.CLASS")
        labels = [[class_names.index(label) for label in row["label"].split("|") if label] for row in rows]
        truth = np.array([[k in found for k in range(len(class_names))] for found in labels])
        if not multi_label:
            truth = as_indicators(np.array([found[0] for found in labels]), len(class_names))
        probabilities = np.array([[float(row[f"p({name})"]) for name in class_names] for row in rows])
        return ClassifiedCases(
            tuple(row["case"] for row in rows),
            units_of(rows),
            probabilities,
            truth,
            multi_label,
            name,
            class_names.index(chosen) if chosen else None,
        )

    def pool(self, runs: Sequence[RunFolder], split: str, baseline: Path | None, num_samples: int) -> dict[str, Any]:
        class_names = self.class_names
        config = check_config(runs[0].read_config_tree(), where=str(runs[0].config_path))
        cases = [_classified(row, class_names, is_multi_label(config)) for row in self.rows]
        baselines = (
            {} if baseline is None else {baseline.stem: classification_tables.read_probabilities(baseline, class_names)}
        )
        return classification_tables.summarise_cases(cases, class_names, num_samples, baselines)

    def score(self) -> float:
        return float(np.mean([row["correct"] == "1" for row in self.rows]))


def read_rows(path: Path) -> SegmentedRows | ClassifiedRows:
    """Return the labelled rows of a cases.csv. Raises ValueError where there are none."""
    rows = read_csv(path)[1]
    if not rows:
        raise ValueError(f"{path}: no case in it")
    kind = SegmentedRows if "class" in rows[0] else ClassifiedRows
    with _naming(path):
        rows = [row for row in rows if row[kind.labelled_by]]
        if not rows:
            raise ValueError("no labelled case in it")
    return kind(rows)


def read_table(path: Path, metric: str, multi_label: bool) -> CaseTable:
    """Return the labelled cases of a cases.csv for a `metric`: `dice.mean`, `nsd.CLASS`, `auc`, `f1.CLASS`, ...

    Raises ValueError where the file lacks the metric, or holds no labelled case.
    """
    if metric.startswith(("hd95", "nsd")):
        require_surface_definition(path.parent)
    rows = read_rows(path)
    with _naming(path):
        return rows.table(metric, multi_label)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make errors within the context name the file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path}: no column {error}; was it written by evaluate.py?") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def units_of(rows: list[Row]) -> tuple[str, ...]:
    """Return for each case the unit that a bootstrap draws: its group, or the case itself, as in old files."""
    groups = {row["case"]: row.get("group") for row in rows}
    return tuple(f"group {group}" if group else f"case {case}" for case, group in groups.items())


def require_surface_definition(evaluation: Path) -> None:
    """Raise ValueError where an evaluation of segmentations measured surfaces differently from this version."""
    if (found := read_metrics(evaluation).get("surface_definition")) != SURFACE_DEFINITION:
        raise ValueError(
            f"{evaluation / 'metrics.json'}: surface_definition={found!r}, expected {SURFACE_DEFINITION!r}: its HD95 "
            "and NSD have another definition under the same names; evaluate the run again"
        )


def read_metrics(evaluation: Path) -> dict[str, Any]:
    """Return the contents of an evaluation's metrics.json; empty where there is none."""
    path = evaluation / "metrics.json"
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return metrics


def _classified(row: Row, class_names: list[str], multi_label: bool) -> ClassifiedCase:
    names = row["label"].split("|")
    label = tuple(int(name in names) for name in class_names) if multi_label else class_names.index(row["label"])
    predicted = tuple(class_names.index(name) for name in row["predicted"].split("|") if name)
    probabilities = np.array([float(row[f"p({name})"]) for name in class_names])
    if not multi_label:
        probabilities /= probabilities.sum()  # the file's are rounded
    return ClassifiedCase(row["case"], probabilities, predicted, label, row["group"] or None, int(row["views"]))

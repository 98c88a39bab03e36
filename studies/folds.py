"""Cross-validation: the evaluations of several folds' runs, pooled as one.

python -m studies.folds RUN RUN ... [--split val] [--baseline cases.csv] [--json FILE]

Every case is predicted by the one run that has not seen it. Folds are no repetitions: the interval, over cases or
groups, says nothing of how another seed would have trained.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import check_config
from engine.evaluation.classification import ClassifiedCase, is_multi_label
from engine.metrics.segmentation import METRICS
from engine.reports.classification_tables import format_table as format_classification
from engine.reports.classification_tables import read_probabilities
from engine.reports.classification_tables import summarise_cases as summarise_classified
from engine.reports.segmentation_tables import format_table as format_segmentation
from engine.reports.segmentation_tables import summarise_values
from engine.reports.tables import write_metrics
from engine.runs.run_folder import RunFolder
from studies.scores import (
    Row,
    class_names_of,
    labelled_rows,
    read_rows,
    require_surface_definition,
    units_of,
    values_of,
)


def pool_folds(
    folders: Sequence[str | Path], split: str = "val", baseline: str | Path | None = None, num_samples: int = 2000
) -> dict[str, Any]:
    """The runs' pooled scores, as in an evaluation's metrics.json, with "folds": {run: its own value}.

    folders: of runs evaluated on `split`, no case in two of them. baseline: a cases.csv with a prediction of
    every case, for classification. Raises ValueError where runs do not fit together or are not evaluated.
    """
    runs = [RunFolder.open(folder) for folder in folders]
    tables = {str(run.path): _read_cases(run, split) for run in runs}
    _check_fit(tables)
    rows = [row for table in tables.values() for row in table]
    task = _task_of(rows)
    if task == "segmentation":
        for run in runs:
            require_surface_definition(run.evaluation(split))
        if baseline is not None:
            raise ValueError("--baseline compares classifications; leave it out for segmentations")
        pooled = _pool_segmentations(rows, num_samples)
        pooled["folds"] = {name: _pool_segmentations(table, 1)["dice"]["mean"] for name, table in tables.items()}
        return {"task": task, "split": split, **pooled}
    config = check_config(runs[0].read_config_tree(), where=str(runs[0].config_path))
    pooled = _pool_classifications(rows, is_multi_label(config), baseline, num_samples)
    pooled["folds"] = {name: float(np.mean([row["correct"] == "1" for row in table])) for name, table in tables.items()}
    return {"task": task, "split": split, **pooled}


def _read_cases(run: RunFolder, split: str) -> list[Row]:
    path = run.evaluation(split) / "cases.csv"
    if not path.is_file():
        raise ValueError(f"{path}: missing; first run python evaluate.py --run {run.path} --split {split}")
    rows = read_rows(path)
    rows = labelled_rows(rows, _task_of(rows)) if rows else []
    if not rows:
        raise ValueError(f"{path}: no labelled case in it")
    return rows


def _task_of(rows: list[Row]) -> str:
    return "segmentation" if "class" in rows[0] else "classification"


def _check_fit(tables: dict[str, list[Row]]) -> None:
    first = next(iter(tables.values()))
    seen: dict[str, str] = {}
    for name, table in tables.items():
        if table[0].keys() != first[0].keys():
            raise ValueError(
                f"{name}: its cases.csv has other columns than {next(iter(tables))}'s: another task, or evaluated by "
                "another version"
            )
        for case in sorted({row["case"] for row in table}):
            if case in seen:
                raise ValueError(
                    f"case {case} is in {seen[case]} and in {name}: folds share none; give runs that differ in "
                    "data.fold alone"
                )
            seen[case] = name


def _pool_segmentations(rows: list[Row], num_samples: int) -> dict[str, Any]:
    names = class_names_of(rows, "segmentation")
    values = {metric: values_of(rows, metric, names)[1] for metric in METRICS}
    return summarise_values(values, names, units_of(rows), num_samples)


def _pool_classifications(
    rows: list[Row], multi_label: bool, baseline: str | Path | None, num_samples: int
) -> dict[str, Any]:
    class_names = class_names_of(rows, "classification")
    baselines = {} if baseline is None else {Path(baseline).stem: read_probabilities(Path(baseline), class_names)}
    cases = [_classified(row, class_names, multi_label) for row in rows]
    return summarise_classified(cases, class_names, num_samples, baselines)


def _classified(row: Row, class_names: list[str], multi_label: bool) -> ClassifiedCase:
    names = row["label"].split("|")
    label = tuple(int(name in names) for name in class_names) if multi_label else class_names.index(row["label"])
    predicted = tuple(class_names.index(name) for name in row["predicted"].split("|") if name)
    probabilities = np.array([float(row[f"p({name})"]) for name in class_names])
    if not multi_label:
        probabilities /= probabilities.sum()  # the file's are rounded
    return ClassifiedCase(row["case"], probabilities, predicted, label, row["group"] or None, int(row["views"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a mistake in the command."""
    parser = argparse.ArgumentParser(description="Pool the evaluations of a cross-validation's runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folds' folders, evaluated on the split")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    parser.add_argument("--baseline", metavar="FILE", help="cases.csv of something simpler, compared case by case")
    parser.add_argument("--json", metavar="FILE", help="write the pooled scores there")
    arguments = parser.parse_args(argv)
    try:
        pooled = pool_folds(arguments.runs, arguments.split, arguments.baseline)
    except (ValueError, OSError) as error:
        print(f"studies.folds: {error}", file=sys.stderr)
        return 2
    for name, value in pooled["folds"].items():
        print(f"{'dice' if pooled['task'] == 'segmentation' else 'accuracy'}  {value:.4f}  {name}")
    print((format_segmentation if pooled["task"] == "segmentation" else format_classification)(pooled))
    if arguments.json:
        write_metrics(Path(arguments.json), pooled)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Pools the evaluations of a cross-validation's runs.

python -m studies.folds RUN RUN ... [--split val] [--baseline cases.csv] [--json FILE]

Each case is predicted by the one run that was not trained on it. Folds are not repetitions: the interval is over cases
or groups, and does not include the effect of another seed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.reports.tables import write_metrics
from engine.runs.run_folder import RunFolder
from machine.terminal import say
from studies.case_rows import CaseRows, read_rows

NUM_SAMPLES = 2000  # of the bootstrap


def pool_folds(
    folders: Sequence[str | Path],
    split: str = "val",
    baseline: str | Path | None = None,
    num_samples: int = NUM_SAMPLES,
) -> dict[str, Any]:
    """Return the runs' pooled scores, as in an evaluation's metrics.json, with "folds": {run: its own value}.

    folders: of runs evaluated on `split`, no case in two of them. baseline: a cases.csv with a prediction of
    every case, for classification. Raises ValueError where runs do not fit together or are not evaluated.
    """
    return _pool(folders, split, baseline, num_samples)[1]


def _pool(
    folders: Sequence[str | Path], split: str, baseline: str | Path | None, num_samples: int
) -> tuple[CaseRows, dict[str, Any]]:
    """Return the rows of all folds together, and what `pool_folds` returns."""
    runs = [RunFolder.open(folder) for folder in folders]
    tables = {str(run.path): _read_cases(run, split) for run in runs}
    _check_fit(tables)
    first, *_ = tables.values()
    rows = first.with_rows([row for table in tables.values() for row in table.rows])
    pooled = rows.pool(runs, split, None if baseline is None else Path(baseline), num_samples)
    pooled["folds"] = {name: table.score() for name, table in tables.items()}
    return rows, {"task": rows.task, "split": split, **pooled}


def _read_cases(run: RunFolder, split: str) -> CaseRows:
    path = run.evaluation(split) / "cases.csv"
    if not path.is_file():
        raise ValueError(f"{path}: missing; first run python evaluate.py --run {run.path} --split {split}")
    return read_rows(path)


def _check_fit(tables: dict[str, CaseRows]) -> None:
    first = next(iter(tables.values()))
    seen: dict[str, str] = {}
    for name, table in tables.items():
        if table.rows[0].keys() != first.rows[0].keys():
            raise ValueError(
                f"{name}: its cases.csv has other columns than that of {next(iter(tables))}: they differ in task or in "
                "the version that evaluated them"
            )
        for case in sorted({row["case"] for row in table.rows}):
            if case in seen:
                raise ValueError(
                    f"case {case} is in {seen[case]} and in {name}: folds must not share cases; give runs that "
                    "differ only in data.fold"
                )
            seen[case] = name


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a mistake in the command."""
    parser = argparse.ArgumentParser(description="Pool the evaluations of a cross-validation's runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folds' folders, evaluated on the split")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    parser.add_argument("--baseline", metavar="FILE", help="cases.csv of something simpler, compared case by case")
    parser.add_argument("--json", metavar="FILE", help="write the pooled scores there")
    arguments = parser.parse_args(argv)
    try:
        rows, pooled = _pool(arguments.runs, arguments.split, arguments.baseline, NUM_SAMPLES)
    except (ValueError, OSError) as error:
        say(f"studies.folds: {error}", sys.stderr)
        return 2
    for name, value in pooled["folds"].items():
        say(f"{rows.headline}  {value:.4f}  {name}")
    say(rows.format_table(pooled))
    if arguments.json:
        write_metrics(Path(arguments.json), pooled)
    return 0


if __name__ == "__main__":
    sys.exit(main())

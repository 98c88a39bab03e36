"""A comparison in words, as Markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.metrics.bootstrap import MIN_UNITS
from engine.reports.tables import quote_formula
from engine.runs.run_folder import without_nan
from studies.comparison.compare import CellResult, Comparison
from studies.comparison.dropout_text import DOSE_NOTE, DROPOUT_COLUMNS, dropout_rows
from studies.comparison.format import format_p, format_spread, number

CELLS_NOTE = "Scores, gaps and times are mean ± standard deviation over the seeds."

TEST_COLUMNS = ("cell", "paired t, p", "Wilcoxon over cases, p")
OTHER_TESTS = (
    "Neither is corrected for the number of comparisons. The paired t test uses only the cell's own differences over "
    "seeds, without the other cells' noise. Wilcoxon's test is over the cases: it asks whether these very networks "
    "differ, and says nothing of training noise. Two seeds of one setting differ in it too."
)


def titles(comparison: Comparison) -> list[str]:
    """Return the headings of the table of cells."""
    interval = "difference (95 %, other seeds and cases)" if comparison.inference else "difference"
    head = ["cell", "runs", comparison.study.metric, interval, "p (other seeds, these cases)"]
    return [*head, "gap train − val", "training, min", "memory, GB"]


def cells_of(result: CellResult, comparison: Comparison) -> list[str]:
    """Return the result's row under `titles`: «–» stands for a missing number."""
    difference, shown, p = result.difference, "–", "–"
    if difference is not None:
        low, high = difference.interval
        shown, p = number(difference.mean, sign="+"), format_p(difference.p)
        if not math.isnan(low):
            shown += f" ({number(low, sign='+')} to {number(high, sign='+')})"
    return [
        result.cell.name + (" (baseline)" if result.cell.name == comparison.study.baseline.name else ""),
        f"{result.num_finished} of {result.num_planned}" if result.missing else str(result.num_planned),
        format_spread(result.score),
        shown,
        p,
        format_spread(result.gap),
        format_spread(result.minutes, 1),
        number(result.memory_gb, 2),
    ]


def sentence(result: CellResult, comparison: Comparison) -> str:
    """Return a sentence on the cell's difference."""
    study, difference = comparison.study, result.difference
    if result.cell.name == study.baseline.name:
        missing = f"; incomplete: {'; '.join(result.missing)}" if result.missing else ""
        return f"The baseline{missing}.{_unstable(result)}"
    if difference is None:
        return f"The same network as the baseline, {study.baseline.name}: its runs count for both."
    same = f"The same network as {result.cell.same_as}, whose runs count for both: " if result.cell.same_as else ""
    if result.missing:
        begun = f"{number(abs(difference.mean))} {_side(difference.mean)} the baseline so far; "
        begun = "" if math.isnan(difference.mean) else begun
        return f"{same}{begun}not tested, because it is incomplete ({'; '.join(result.missing)})."
    size = f"{number(abs(difference.mean))} {_side(difference.mean)} the baseline"
    if comparison.inference is None:
        reason = "with one seed it may be noise" if len(study.seeds) < 2 else "not tested"
        return f"{same}{size}; {reason}."
    if difference.is_noise is None:
        return f"{same}{size}; the seeds agree to the last digit, so it cannot be tested."
    low, high = (number(end, sign="+") for end in difference.interval)
    known = f"{same}{size} ({low} to {high}), {format_p(difference.p, 'p ')}"
    unstable = _unstable(result)
    if difference.is_noise and difference.differs_here:
        here = "on these very cases training noise alone does not explain it"
        return f"{known}: could be noise in the choice of cases; {here}.{unstable}"
    if difference.is_noise:
        return f"{known}: could be noise.{unstable}"
    return f"{known}: more than noise explains.{unstable}"


def _unstable(result: CellResult) -> str:
    if not result.is_unstable:
        return ""
    sd = number(result.score.sd)
    return f" Its training is unstable: its seeds scatter by {sd}, far more than those of the other cells."


def method(comparison: Comparison) -> list[str]:
    """Return sentences on how the differences were tested."""
    study, inference = comparison.study, comparison.inference
    if inference is None:
        return [comparison.why_not]
    num_seeds, k = len(study.seeds), comparison.num_comparisons
    per_seed = "of the score" if len(study.folds) == 1 else f"of the mean score over {len(study.folds)} folds"
    several = f"Dunnett's test for {k} comparisons with one baseline" if k > 1 else "a t test of one comparison"
    pool = float(inference.degrees.max())
    words = [
        f"Differences {per_seed} are taken within each of {num_seeds} seeds, under which all cells have the same "
        f"first weights and batches. p is that of {several}: how often training noise alone would cause a difference "
        f"as large as this in a study of this size. It holds for these cases only. "
        f"Noise is pooled over the {'stable ' * bool(comparison.unstable)}"
        f"cells ({pool:.0f} degrees of freedom); the baseline's and a difference's own count where they are larger.",
        "Intervals are for other seeds and other cases: from a bootstrap crossed over both, and wide enough to hold "
        "together in 95 of 100 studies. They decide whether a difference could be noise.",
    ]
    if inference.is_unstable.any():
        words.append(
            f"Differences of unstable cells are tested by their own noise alone ({num_seeds - 1} degrees of freedom), "
            "corrected for all comparisons like the others; few seeds cannot show how often such a training fails."
        )
    if math.isfinite(inference.detectable):
        of_stable = " in a stable cell" if inference.is_unstable.any() else ""
        words.append(
            f"About two in three studies like this one would find a true difference{of_stable} of "
            f"{number(inference.detectable)}: «could be noise» does not mean that there is none."
        )
    return words


def notes(comparison: Comparison) -> list[str]:
    """Return warnings to be read before the numbers."""
    study = comparison.study
    found = [comparison.why_not] if comparison.why_not else []
    if lacking := [result for result in comparison.results if result.missing]:
        listed = "; ".join(f"{r.cell.name}: {', '.join(r.missing)}" for r in lacking)
        found.append(f"Incomplete cells are not tested, and their means are over fewer runs. {listed}.")
    if unstable := comparison.unstable:
        listed = ", ".join(f"{r.cell.name} (± {number(r.score.sd)})" for r in unstable)
        found.append(
            f"Unstable training, a finding in itself: {listed} against ± {number(comparison.stable_sd)} of the other "
            "cells over the seeds. This is more than chance explains; their noise is not pooled with the others'."
        )
    num_units = len(set().union(*study.units_by_fold().values()))
    if comparison.inference is not None and num_units < MIN_UNITS:
        found.append(
            f"{num_units} validation cases, or groups of them: fewer than {MIN_UNITS} are a poor sample, "
            "whatever the intervals."
        )
    if comparison.inference is not None and comparison.inference.is_baseline_unstable:
        found.append("The baseline's noise is in every difference: a stable baseline would show more.")
    if steps := study.early_stops():
        found.append(f"Runs ended at different steps, {steps[0]} to {steps[-1]}.")
    if study.less_is_better:
        found.append(f"A lower {study.metric} is better.")
    return found


def facts(comparison: Comparison) -> list[str]:
    """Return what was compared, in short phrases."""
    study = comparison.study
    cases = {case for run in study.runs if run.table is not None for case in run.table.cases}
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    folds = [f"{len(study.folds)} folds"] if len(study.folds) > 1 else []
    finished = sum(not run.missing for run in study.runs)
    return [
        f"{len(study.cells)} cells",
        seeds,
        *folds,
        f"{finished} of {len(study.runs)} runs finished",
        f"{study.metric} of {len(cases)} validation cases",
        "last checkpoint",
    ]


def to_markdown(comparison: Comparison) -> str:
    """Return the text of comparison.md."""
    lines = [f"# {comparison.study.name}", "", " · ".join(facts(comparison)), ""]
    lines += [line for note in notes(comparison) for line in (f"> {note}", "")]
    lines += [*_table(titles(comparison), [cells_of(result, comparison) for result in comparison.results]), ""]
    lines += [CELLS_NOTE, ""]
    lines += ["## What the differences mean", ""]
    lines += [f"- **{result.cell.name}**: {sentence(result, comparison)}" for result in comparison.results]
    lines += [line for words in method(comparison) for line in ("", words)]
    lines += ["", "## Dropout layers", ""]
    layers = [row for result in comparison.results for row in dropout_rows(result)]
    lines += [DOSE_NOTE, "", *_table(DROPOUT_COLUMNS, layers), ""]
    if tests := other_tests(comparison):
        lines += ["## Other tests", "", *_table(TEST_COLUMNS, tests), "", OTHER_TESTS, ""]
    return "\n".join(lines)


def other_tests(comparison: Comparison) -> list[list[str]]:
    """Return rows of TEST_COLUMNS for the cells that were tested."""
    return [
        [result.cell.name, format_p(result.difference.p_paired), format_p(result.difference.p_cases)]
        for result in comparison.results
        if result.difference is not None and result.difference.is_noise is not None
    ]


def to_csv(comparison: Comparison) -> str:
    """Return the text of comparison.csv: a row for each cell with unrounded numbers; missing ones are empty."""
    study = comparison.study
    paths = list(dict.fromkeys(path for cell in study.cells for path in cell.settings))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = (*_NUMBERS, *(f"score_seed{seed}" for seed in study.seeds))
    writer.writerow(("cell", "same_as", "runs_finished", "runs_planned", "missing", *names, "verdict", *paths))
    for result in comparison.results:
        values = _numbers(result)
        numbers = [values[name] for name in _NUMBERS] + result.scores.tolist()
        cells = ["" if math.isnan(value) else f"{value:.8g}" for value in numbers]
        head = [result.cell.name, result.cell.same_as or "", result.num_finished, result.num_planned]
        settings = [json.dumps(result.cell.settings[path]) if path in result.cell.settings else "" for path in paths]
        texts = [*head, "; ".join(result.missing), *cells, verdict(result), *settings]
        writer.writerow([quote_formula(cell) if isinstance(cell, str) else cell for cell in texts])
    return buffer.getvalue()


def to_json(comparison: Comparison) -> str:
    """Return the text of comparison.json, with null for missing numbers."""
    study, inference = comparison.study, comparison.inference
    tree: dict[str, Any] = {
        "name": study.name,
        "task": study.task,
        "metric": study.metric,
        "baseline": study.baseline.name,
        "seeds": study.seeds,
        "folds": study.folds,
        "notes": notes(comparison),
        "method": method(comparison),
        "num_comparisons": comparison.num_comparisons,
        "degrees_of_freedom": None if inference is None else float(inference.degrees.max()),
        "detectable_difference": None if inference is None else inference.detectable,
        "cells": [
            {
                **asdict(result.cell),
                "runs_finished": result.num_finished,
                "runs_planned": result.num_planned,
                "missing": result.missing,
                "scores_by_seed": result.scores.tolist(),
                **_numbers(result),
                "is_unstable": result.is_unstable,
                "verdict": verdict(result),
                "sentence": sentence(result, comparison),
            }
            for result in comparison.results
        ],
    }
    return json.dumps(without_nan(tree), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def verdict(result: CellResult) -> str:
    """Return `noise`, `difference`, `difference on these cases`, or "" for what was not tested."""
    difference = result.difference
    if difference is None or difference.is_noise is None:
        return ""
    if not difference.is_noise:
        return "difference"
    return "difference on these cases" if difference.differs_here else "noise"


_NUMBERS = (
    *("mean", "sd", "difference", "difference_low", "difference_high", "p_corrected", "p_paired_t_uncorrected"),
    *("p_wilcoxon_over_cases_not_training_noise", "gap_mean", "gap_sd", "minutes_mean", "minutes_sd", "memory_gb"),
)


def _numbers(result: CellResult) -> dict[str, float]:
    difference, nan = result.difference, math.nan
    tested = (difference.mean, *difference.interval, difference.p, difference.p_paired) if difference else (nan,) * 5
    values = (
        *(result.score.mean, result.score.sd),
        *tested,
        difference.p_cases if difference else nan,
        *(result.gap.mean, result.gap.sd, result.minutes.mean, result.minutes.sd, result.memory_gb),
    )
    return dict(zip(_NUMBERS, values, strict=True))


def _side(difference: float) -> str:
    return "above" if difference >= 0 else "below"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *escaped)]

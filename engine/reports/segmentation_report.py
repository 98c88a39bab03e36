"""report.html of an evaluated segmentation run."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.cases import Failure
from engine.evaluation.labelling import Labelling
from engine.evaluation.segmentation import CaseResult
from engine.metrics.bootstrap import explain_units
from engine.metrics.segmentation import METRICS
from engine.reports.page import figure, image, write_evaluation_page
from engine.reports.plots import plot_case, plot_scores
from engine.reports.segmentation_tables import case_dice, count_cases
from engine.reports.tables import html_table, interval, number
from engine.runs.run_folder import RunFolder


def write_evaluation_report(
    path: Path,
    run: RunFolder,
    metrics: Mapping[str, Any],
    results: Sequence[CaseResult],
    failures: Sequence[Failure],
    labelling: Labelling,
    read_image: Callable[[str], np.ndarray],
    sections: Sequence[str] = (),
) -> Path:
    """Write the report of one evaluation and return its path.

    metrics: what metrics.json holds. read_image: case id -> (D, H, W) on the source file's grid; it is asked
    for the few cases that are shown. sections: HTML that follows the cases.
    """
    body = []
    if metrics["num_cases"]:
        body += _table(metrics)
        scores = {
            name: [r.scores[i]["dice"] for r in results if r.labelled] for i, name in enumerate(labelling.titles[1:])
        }
        body += ["<h2>Dice of each case</h2>", image(plot_scores(scores, "Dice"), "Dice of each case, by class")]
    body += [*_cases(results, labelling, read_image, metrics.get("case_dice", {})), *sections]
    return write_evaluation_page(path, run, metrics, len(results), failures, body)


def _table(metrics: Mapping[str, Any]) -> list[str]:
    rows, shown = [], {name: metric for name, metric in METRICS.items() if metric.title}
    for name in metrics["dice"]:
        cells = (_cell(metrics["details"][key][name], metric.digits) for key, metric in shown.items())
        empty = metrics["empty"].get(name)
        rows.append((name, *cells, f"{empty['both']} / {empty['prediction']} / {empty['reference']}" if empty else ""))
    tolerance = metrics["settings"]["nsd_tolerance_mm"]
    return [
        "<h2>Metrics</h2>",
        *html_table(("", *(metric.title for metric in shown.values()), "empty in both / prediction / reference"), rows),
        "<p>Means over the cases, with their studentised bootstrap 95 % interval, standard deviation (sd) and median; "
        "the last row is the mean over the classes. On the label files' own grid and spacing. NSD at a tolerance of "
        f"{tolerance:g} mm; volume error is prediction less reference. A class that is empty in both volumes is left "
        "out; one that is empty in one has Dice, IoU and NSD 0, and an infinite HD95, which the mean leaves out: how "
        f"many, is said beside it. Surfaces: {escape(metrics['surface_definition'])}, in metrics.json and cases.csv. "
        f"{escape(explain_units(metrics))}.</p>",
    ]


def _cell(row: Mapping[str, Any], digits: int) -> str:
    mean, sd, median = (number(row[key], digits) for key in ("mean", "sd", "median"))
    count = f" of {count_cases(row)}" if row["num_infinite"] else ""
    return f"{mean}{count}<small>{interval(row, digits)}</small><small>sd {sd}, median {median}</small>"


def _cases(
    results: Sequence[CaseResult],
    labelling: Labelling,
    read_image: Callable[[str], np.ndarray],
    case_scores: Mapping[str, float],
) -> list[str]:
    body = ["<h2>Cases</h2>"] if results else []
    if case_scores:
        body += html_table(("", "Dice"), ((case, f"{dice:.3f}") for case, dice in case_scores.items()), is_wide=False)
    for word, result in _chosen(results):
        caption = f"{word}{result.id}"
        if result.labelled:
            dice = [
                f"{n} {s['dice']:.3f}"
                for n, s in zip(labelling.titles[1:], result.scores, strict=True)
                if s.empty != "both"
            ]
            caption += f" — Dice {case_dice(result):.3f} ({', '.join(dice)})"
        body.append(figure(caption, plot_case(read_image(result.id), result.slices, labelling)))
    return body


def _chosen(results: Sequence[CaseResult]) -> list[tuple[str, CaseResult]]:
    """Best, median and worst of the labelled cases; without labels the first, middle and last."""
    ranked = sorted((r for r in results if r.labelled and not np.isnan(case_dice(r))), key=case_dice, reverse=True)
    words = ("Best: ", "Median: ", "Worst: ") if ranked else ("", "", "")
    cases = ranked or list(results)
    places = (0, len(cases) // 2, len(cases) - 1)[: len(cases)]
    if len(cases) == 2:
        words = (words[0], words[2], "")
    return [(word, cases[place]) for word, place in zip(words, places, strict=False)]

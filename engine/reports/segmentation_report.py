"""report.html: one file that holds all it shows, of a run and of an evaluation."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.seen import warn_of_cases
from engine.evaluation.segmentation import CaseResult, Failure
from engine.metrics.bootstrap import explain_units
from engine.reports.page import config_section, curves, failed, heading, image, predicted_by, warnings, write_page
from engine.reports.plots import plot_case, plot_scores
from engine.reports.segmentation_tables import case_dice, count_cases
from engine.runs.run_folder import RunFolder

_TITLES = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95 (mm)", "nsd": "NSD", "volume_error_ml": "Volume error (ml)"}


def write_run_report(run: RunFolder) -> Path:
    """Write <run>/report.html, the curves of a training run and its config, and return its path."""
    config = run.read_config_tree()
    steps = [line["step"] for line in run.read_metrics()]
    facts = [f"{max(steps)} steps" if steps else "no step yet", *_waiting(run)]
    body = [*heading(str(config["name"]), facts), *curves(run), *config_section(run)]
    return write_page(run.path / "report.html", str(config["name"]), body)


def write_evaluation_report(
    path: Path,
    run: RunFolder,
    metrics: Mapping[str, Any],
    results: Sequence[CaseResult],
    failures: Sequence[Failure],
    class_names: Sequence[str],
    read_image: Callable[[str], np.ndarray],
    sections: Sequence[str] = (),
) -> Path:
    """Write the report of one evaluation and return its path.

    metrics: what metrics.json holds. read_image: case id -> (D, H, W) on the source file's grid; it is asked
    for the few cases that are shown. sections: HTML that follows the cases.
    """
    checkpoint = metrics["checkpoint"]
    title = f"{run.read_config_tree()['name']}: {metrics['split']}"
    weights = {"ema": "averaged (EMA) weights", "raw": "raw weights"}[checkpoint["weights"]]
    facts = [
        f"{metrics['num_cases']} labelled of {len(results)} cases",
        f"checkpoint {checkpoint['name']} at step {checkpoint['step']}",
        weights,
        *predicted_by(metrics),
        f"{metrics['seconds_per_case']:.1f} s a case",
    ]
    body = [*heading(title, facts), *warnings(warn_of_cases(metrics)), *failed(failures)]
    if metrics["num_cases"]:
        body += _table(metrics)
        scores = {name: [r.scores[i].dice for r in results if r.labelled] for i, name in enumerate(class_names[1:])}
        body += ["<h2>Dice of each case</h2>", image(plot_scores(scores, "Dice"), "Dice of each case, by class")]
    body += [*_cases(results, class_names, read_image, metrics.get("case_dice", {})), *sections]
    body += [*curves(run), *config_section(run)]
    return write_page(path, title, body)


def _table(metrics: Mapping[str, Any]) -> list[str]:
    head = "".join(f"<th>{_TITLES[metric]}</th>" for metric in _TITLES)
    rows = []
    for name in metrics["dice"]:
        cells = "".join(_cell(metric, metrics["details"][metric][name]) for metric in _TITLES)
        empty = metrics["empty"].get(name)
        missing = f"{empty['both']} / {empty['prediction']} / {empty['reference']}" if empty else ""
        rows.append(f"<tr><th>{escape(name)}</th>{cells}<td>{missing}</td></tr>")
    tolerance = metrics["settings"]["nsd_tolerance_mm"]
    return [
        "<h2>Metrics</h2>",
        f'<div class="wide"><table><tr><th></th>{head}<th>empty in both / prediction / reference</th></tr>',
        *rows,
        "</table></div>",
        "<p>Means over the cases, with their studentised bootstrap 95 % interval, standard deviation (sd) and median; "
        "the last row is the mean over the classes. On the label files' own grid and spacing. NSD at a tolerance of "
        f"{tolerance:g} mm; volume error is prediction less reference. A class that is empty in both volumes is left "
        "out; one that is empty in one has Dice, IoU and NSD 0, and an infinite HD95, which the mean leaves out: how "
        f"many, is said beside it. Surfaces: {escape(metrics['surface_definition'])}, in metrics.json and cases.csv. "
        f"{escape(explain_units(metrics))}.</p>",
    ]


def _cell(metric: str, row: Mapping[str, Any]) -> str:
    digits = 2 if metric == "hd95_mm" else 3
    mean, sd, median, low, high = (
        f"{value:.{digits}f}" if np.isfinite(value) else "–"
        for value in (row["mean"], row["sd"], row["median"], *row["interval_95"])
    )
    count = f" of {count_cases(row)}" if row["num_infinite"] else ""
    return f"<td>{mean}{count}<small>{low} – {high}</small><small>sd {sd}, median {median}</small></td>"


def _cases(
    results: Sequence[CaseResult],
    class_names: Sequence[str],
    read_image: Callable[[str], np.ndarray],
    case_scores: Mapping[str, float],
) -> list[str]:
    body = ["<h2>Cases</h2>"] if results else []
    if case_scores:
        rows = [f"<tr><th>{escape(case)}</th><td>{dice:.3f}</td></tr>" for case, dice in case_scores.items()]
        body += ["<table><tr><th></th><th>Dice</th></tr>", *rows, "</table>"]
    for word, result in _chosen(results):
        caption = f"{word}{result.id}"
        if result.labelled:
            dice = [
                f"{n} {s.dice:.3f}" for n, s in zip(class_names[1:], result.scores, strict=True) if s.empty != "both"
            ]
            caption += f" — Dice {case_dice(result):.3f} ({', '.join(dice)})"
        uri = plot_case(read_image(result.id), result.slices, class_names)
        body.append(f"<figure><figcaption>{escape(caption)}</figcaption>{image(uri, caption)}</figure>")
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


def _waiting(run: RunFolder) -> list[str]:
    """Training time, and the share of it that went into waiting for data."""
    seconds = waited = 0.0
    for line in run.read_metrics("train"):
        waited += line["wait_share"] * (line["seconds"] - seconds)
        seconds = line["seconds"]
    return (
        [f"trained for {seconds / 60:.1f} minutes, {waited / seconds:.1%} of them waiting for data"] if seconds else []
    )

"""report.html: one file that holds all it shows, of a run and of an evaluation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation import CaseResult, Failure
from engine.metrics import METRICS
from engine.plots import plot_case, plot_curves, plot_scores
from engine.results import case_dice
from engine.runs import RunFolder, write_atomically

_TITLES = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95 (mm)", "nsd": "NSD", "volume_error_ml": "Volume error (ml)"}

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent) }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.2rem; margin-top: 2.5rem }
.facts { opacity: .75; margin-top: .3rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td small { display: block; opacity: .7; white-space: nowrap }
img { max-width: 100%; height: auto } figure { margin: 1rem 0 } figcaption { font-weight: 600 }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem }
pre { overflow-x: auto; font-size: 13px } .warning { border-left: 4px solid #e8743b; padding-left: .8rem }
"""


def write_run_report(run: RunFolder) -> Path:
    """Write <run>/report.html, the curves of a training run and its config, and return its path."""
    config = run.read_config_tree()
    steps = [line["step"] for line in run.read_metrics()]
    facts = [f"{max(steps)} steps" if steps else "no step yet", *_waiting(run)]
    body = [*_heading(str(config["name"]), facts), *_curves(run), *_config(run)]
    return _write(run.path / "report.html", str(config["name"]), body)


def write_evaluation_report(
    path: Path,
    run: RunFolder,
    metrics: Mapping[str, Any],
    results: Sequence[CaseResult],
    failures: Sequence[Failure],
    class_names: Sequence[str],
    read_image: Callable[[str], np.ndarray],
) -> Path:
    """Write the report of one evaluation and return its path.

    metrics: what metrics.json holds. read_image: case id -> (D, H, W) on the source file's grid; it is asked
    for the few cases that are shown.
    """
    checkpoint = metrics["checkpoint"]
    title = f"{run.read_config_tree()['name']}: {metrics['split']}"
    weights = {"ema": "averaged (EMA) weights", "raw": "raw weights"}[checkpoint["weights"]]
    facts = [
        f"{metrics['num_cases']} labelled of {len(results)} cases",
        f"checkpoint {checkpoint['name']} at step {checkpoint['step']}",
        weights,
        f"{metrics['seconds_per_case']:.1f} s a case",
    ]
    body = _heading(title, facts)
    body += _failed(failures)
    if metrics["num_cases"]:
        body += _table(metrics)
        scores = {name: [r.scores[i].dice for r in results if r.labelled] for i, name in enumerate(class_names[1:])}
        body += ["<h2>Dice of each case</h2>", _image(plot_scores(scores, "Dice"), "Dice of each case, by class")]
    body += _cases(results, class_names, read_image)
    body += [*_curves(run), *_config(run)]
    return _write(path, title, body)


def _heading(title: str, facts: Iterable[str]) -> list[str]:
    return [f"<h1>{escape(title)}</h1>", f'<p class="facts">{escape(" · ".join(facts))}</p>']


def _failed(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    items = [f"<li><b>{escape(f.case)}</b>: {escape(f.file)}: {escape(f.reason)}</li>" for f in failures]
    return ['<div class="warning"><p>Not evaluated:</p><ul>', *items, "</ul></div>"]


def _table(metrics: Mapping[str, Any]) -> list[str]:
    head = "".join(f"<th>{_TITLES[metric]}</th>" for metric in METRICS)
    rows = []
    for name in metrics["dice"]:
        cells = "".join(_cell(metric, metrics["details"][metric][name]) for metric in METRICS)
        empty = metrics["empty"].get(name)
        missing = f"{empty['both']} / {empty['prediction']} / {empty['reference']}" if empty else ""
        rows.append(f"<tr><th>{escape(name)}</th>{cells}<td>{missing}</td></tr>")
    tolerance = metrics["settings"]["nsd_tolerance_mm"]
    return [
        "<h2>Metrics</h2>",
        f'<div class="wide"><table><tr><th></th>{head}<th>empty in both / prediction / reference</th></tr>',
        *rows,
        "</table></div>",
        "<p>Means over the cases, with their bootstrap 95 % interval, standard deviation (sd) and median; the last "
        "row is the mean over the classes. On the label files' own grid and spacing. NSD at a tolerance of "
        f"{tolerance:g} mm; volume error is prediction less reference. A class that is empty in both volumes is left "
        "out; one that is empty in one has Dice, IoU and NSD 0, and an infinite HD95, which the mean leaves out.</p>",
    ]


def _cell(metric: str, row: Mapping[str, Any]) -> str:
    digits = 2 if metric == "hd95_mm" else 3
    mean, sd, median, low, high = (
        f"{value:.{digits}f}" if np.isfinite(value) else "–"
        for value in (row["mean"], row["sd"], row["median"], *row["interval_95"])
    )
    return f"<td>{mean}<small>{low} – {high}</small><small>sd {sd}, median {median}</small></td>"


def _cases(
    results: Sequence[CaseResult], class_names: Sequence[str], read_image: Callable[[str], np.ndarray]
) -> list[str]:
    body = ["<h2>Cases</h2>"] if results else []
    for word, result in _chosen(results):
        caption = f"{word}{result.id}"
        if result.labelled:
            dice = [
                f"{n} {s.dice:.3f}" for n, s in zip(class_names[1:], result.scores, strict=True) if s.empty != "both"
            ]
            caption += f" — Dice {case_dice(result):.3f} ({', '.join(dice)})"
        uri = plot_case(read_image(result.id), result.slices, class_names)
        body.append(f"<figure><figcaption>{escape(caption)}</figcaption>{_image(uri, caption)}</figure>")
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


def _curves(run: RunFolder) -> list[str]:
    lines = run.read_metrics()
    train = [line for line in lines if line["split"] == "train"]
    validations = [line for line in lines if line["split"] == "val"]
    plots = []
    if points := _points(train, "loss"):
        plots.append(("Loss", plot_curves({"loss": points}, "training loss")))
    keys = sorted(_keys(validations, "dice."), key=lambda key: key == "dice.mean")  # the classes first
    dice = {key.removeprefix("dice."): _points(validations, key) for key in keys}
    if dice := {name: points for name, points in dice.items() if points}:
        plots.append(("Validation", plot_curves(dice, "Dice")))
    if points := _points(train, "learning_rate"):
        plots.append(("Learning rate", plot_curves({"learning rate": points}, "learning rate")))
    if points := _points(train, "grad_norm"):
        plots.append(("Gradient", plot_curves({"norm": points}, "gradient norm before clipping", logarithmic=True)))
    if not plots:
        return []
    figures = [f"<figure><figcaption>{name}</figcaption>{_image(uri, name)}</figure>" for name, uri in plots]
    return ["<h2>Training</h2>", '<div class="curves">', *figures, "</div>"]


def _waiting(run: RunFolder) -> list[str]:
    """Training time, and the share of it that went into waiting for data."""
    seconds = waited = 0.0
    for line in run.read_metrics("train"):
        waited += line["wait_share"] * (line["seconds"] - seconds)
        seconds = line["seconds"]
    return (
        [f"trained for {seconds / 60:.1f} minutes, {waited / seconds:.1%} of them waiting for data"] if seconds else []
    )


def _keys(lines: Sequence[Mapping[str, Any]], start: str) -> list[str]:
    return list(dict.fromkeys(key for line in lines for key in line if key.startswith(start)))


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def _config(run: RunFolder) -> list[str]:
    text = run.config_path.read_text(encoding="utf-8")
    return ["<h2>Config</h2>", f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"]


def _image(uri: str, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="{uri}">'


def _write(path: Path, title: str, body: Sequence[str]) -> Path:
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    write_atomically(path, "\n".join([head, *body]) + "\n</html>\n")
    return path

"""The pages of a run and of an evaluation: HTML in one file that holds all it shows."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from engine.evaluation.cases import Failure
from engine.evaluation.seen import warn_of_cases
from engine.reports.plots import plot_curves
from engine.runs.run_folder import RunFolder, write_atomically

_SCORES = ("accuracy", "balanced_accuracy", "f1", "auc")  # of a classification: those that share an axis

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


def heading(title: str, facts: Iterable[str]) -> list[str]:
    """Return the title, and facts in a line below it."""
    return [f"<h1>{escape(title)}</h1>", f'<p class="facts">{escape(" · ".join(facts))}</p>']


def predicted_by(metrics: Mapping[str, Any]) -> list[str]:
    """Return a fact for `heading`: whose mean was predicted; none of a plain prediction."""
    prediction = metrics.get("prediction", {})
    if prediction.get("kind") == "mc_dropout":
        return [f"mean of {prediction['samples']} draws of its dropout"]
    return [f"ensemble of {len(prediction['members'])} runs"] if "members" in prediction else []


def failed(failures: Sequence[Failure]) -> list[str]:
    """Return the cases that could not be evaluated, and why; nothing without any."""
    if not failures:
        return []
    items = [f"<li><b>{escape(f.case)}</b>: {escape(f.file)}: {escape(f.reason)}</li>" for f in failures]
    return ['<div class="warning"><p>Not evaluated:</p><ul>', *items, "</ul></div>"]


def warnings(notes: Iterable[str]) -> list[str]:
    """Return what a reader must know before the numbers."""
    return [f'<p class="warning">{escape(note)}</p>' for note in notes]


def image(uri: str, alt: str) -> str:
    """One picture, of a data URI."""
    return f'<img alt="{escape(alt)}" src="{uri}">'


def figure(caption: str, uri: str, alt: str | None = None) -> str:
    """One picture below its caption, which is its `alt` too where none is given."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{image(uri, alt or caption)}</figure>"


def side_by_side(figures: Iterable[tuple[str, str]]) -> list[str]:
    """Figures of (caption, data URI), as many in a row as there is room for."""
    return ['<div class="curves">', *(figure(*each) for each in figures), "</div>"]


def curves(run: RunFolder) -> list[str]:
    """Return how training went: loss, validation scores, learning rate and gradient over the steps."""
    lines = run.read_metrics()
    train = [line for line in lines if line["split"] == "train"]
    validations = [line for line in lines if line["split"] == "val"]
    dice = sorted(_keys(validations, "dice."), key=lambda key: key == "dice.mean")  # the classes first
    figures: tuple[tuple[str, str, list[dict[str, Any]], dict[str, str]], ...] = (  # title, axis, lines, {name: key}
        ("Loss", "training loss", train, {"loss": "loss"}),
        ("Validation", "Dice", validations, {key.removeprefix("dice."): key for key in dice}),
        ("Validation", "score", validations, {key.replace("_", " "): key for key in _SCORES}),
        ("Validation: log loss", "log loss", validations, {"log loss": "log_loss"}),
        ("Learning rate", "learning rate", train, {"learning rate": "learning_rate"}),
        ("Gradient", "gradient norm before clipping", train, {"norm": "grad_norm"}),
    )
    plots = []
    for title, label, rows, keys in figures:
        if series := {name: points for name, key in keys.items() if (points := _points(rows, key))}:
            plots.append((title, plot_curves(series, label, logarithmic=title == "Gradient")))
    return ["<h2>Training</h2>", *side_by_side(plots)] if plots else []


def _keys(lines: Sequence[Mapping[str, Any]], start: str) -> list[str]:
    return list(dict.fromkeys(key for line in lines for key in line if key.startswith(start)))


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def config_section(run: RunFolder) -> list[str]:
    """Return the run's config, folded up."""
    text = run.read_config_text()
    return ["<h2>Config</h2>", f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"]


def write_run_report(run: RunFolder) -> Path:
    """Write <run>/report.html, the curves of a training run and its config, and return its path."""
    config = run.read_config_tree()
    steps = [line["step"] for line in run.read_metrics()]
    facts = [f"{max(steps)} steps" if steps else "no step yet", *_waiting(run)]
    body = [*heading(str(config["name"]), facts), *curves(run), *config_section(run)]
    return write_page(run.path / "report.html", str(config["name"]), body)


def _waiting(run: RunFolder) -> list[str]:
    """Training time, and the share of it that went into waiting for data."""
    seconds = waited = 0.0
    for line in run.read_metrics("train"):
        waited += line["wait_share"] * (line["seconds"] - seconds)
        seconds = line["seconds"]
    return (
        [f"trained for {seconds / 60:.1f} minutes, {waited / seconds:.1%} of them waiting for data"] if seconds else []
    )


def write_evaluation_page(
    path: Path,
    run: RunFolder,
    metrics: Mapping[str, Any],
    num_predicted: int,
    failures: Sequence[Failure],
    body: Sequence[str],
    facts: Sequence[str] = (),
    seconds: str = ".1f",
) -> Path:
    """Write the report of one evaluation and return its path.

    metrics: what metrics.json holds. body: the task's sections. facts: the task's, for the heading. seconds: the
    format of the seconds a case.
    """
    checkpoint = metrics["checkpoint"]
    title = f"{run.read_config_tree()['name']}: {metrics['split']}"
    about = [
        f"{metrics['num_cases']} labelled of {num_predicted} cases",
        *facts,
        f"checkpoint {checkpoint['name']} at step {checkpoint['step']}",
        {"ema": "averaged (EMA) weights", "raw": "raw weights"}[checkpoint["weights"]],
        *predicted_by(metrics),
        f"{metrics['seconds_per_case']:{seconds}} s a case",
    ]
    head = [*heading(title, about), *warnings(warn_of_cases(metrics)), *failed(failures)]
    return write_page(path, title, [*head, *body, *curves(run), *config_section(run)])


def write_page(path: Path, title: str, body: Sequence[str]) -> Path:
    """Write the body's lines as a page and return its path."""
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    write_atomically(path, "\n".join([head, *body]) + "\n</html>\n")
    return path

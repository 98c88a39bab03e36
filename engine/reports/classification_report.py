"""report.html of an evaluated classification run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engine.evaluation.cases import Failure
from engine.evaluation.classification import ClassifiedCase, stack_labels
from engine.metrics.bootstrap import explain_units
from engine.metrics.classification import METRICS, as_indicators
from engine.reports.classification_plots import plot_activation, plot_confusion, plot_roc, plot_windows
from engine.reports.classification_tables import METADATA, SHOWN, STILL, more_than_shown, name_predicted
from engine.reports.page import figure, side_by_side, warnings, write_evaluation_page
from engine.reports.tables import html_number, html_table, number
from engine.runs.run_folder import RunFolder


class PictureData(Protocol):
    """What the report asks of the data."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def load(self, case_id: str, /) -> Any:
        """.views: (V, D, H, W, C) float32, what the network saw."""

    def pictures(self, case_id: str, /) -> np.ndarray:
        """Return the views as they look: (V, D, H, W, 1 or 3) uint8."""


Explain = Callable[[np.ndarray, int], np.ndarray]  # view (D, H, W, C), class -> (D, H, W) in 0..1

_TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1 (macro)",
    "auc": "AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
}


def write_classification_report(
    path: Path,
    run: RunFolder,
    metrics: Mapping[str, Any],
    cases: Sequence[ClassifiedCase],
    failures: Sequence[Failure],
    data: PictureData,
    explain: Explain | None,
    is_clip: bool,
    sections: Sequence[str] = (),
) -> Path:
    """Write the report of one evaluation and return its path.

    metrics: what metrics.json holds. explain: Grad-CAM of a view and class; None for a network without. It and the
    data are asked for the few cases that are shown. sections: HTML that follows the cases.
    """
    class_names, body = data.class_names, []
    labelled = [case for case in cases if case.labelled]
    if labelled:
        body += [*_table(metrics), *_classes(metrics, class_names), *_figures(metrics, labelled, class_names)]
        body += [*_mistakes(labelled, data, explain, is_clip), *sections]
    body += _predictions([case for case in cases if not case.labelled], data, is_clip)
    views = sorted({case.num_views for case in cases})
    facts = [f"{' or '.join(map(str, views))} view{'s' if views != [1] else ''} a case"]
    return write_evaluation_page(path, run, metrics, len(cases), failures, body, facts, seconds=".2g")


def write_windows_report(
    path: Path,
    run: RunFolder,
    metrics: Mapping[str, Any],
    videos: Mapping[str, tuple[np.ndarray, np.ndarray]],
    failures: Sequence[Failure],
    class_names: Sequence[str],
) -> Path:
    """Write the report of videos classified in windows, {case: (times_s (N, 2), probabilities (N, K))}."""
    body = ["<h2>Over time</h2>"]
    for name, (times_s, probabilities) in videos.items():
        caption = f"{name}: {len(times_s)} windows, {times_s[-1, 1]:.1f} seconds"
        body.append(figure(caption, plot_windows(times_s, probabilities, class_names)))
    return write_evaluation_page(path, run, metrics, len(videos), failures, body, seconds=".2g")


def _table(metrics: Mapping[str, Any]) -> list[str]:
    baselines = metrics["baselines"]
    head = ["", "this run", *(title for name in baselines for title in (name, "difference"))]
    rows = []
    for metric in METRICS:
        row = [_TITLES[metric], html_number(metrics["details"][metric])]
        for baseline in baselines.values():
            row += [number(baseline[metric], 3), html_number(baseline["difference"][metric], "+")]
        rows.append(row)
    sentences = [f"Small: {explain_units(metrics)}. For log loss, lower is better."]
    if baselines:
        sentences.append("Differences are this run minus the other, case by case (paired).")
    if STILL in baselines:
        sentences.append(
            f"«{STILL}»: the same weights, shown each view's middle frame repeated, so that nothing moves. The "
            "network was not trained for that; a run of its own with data.clip.single_frame=true is the fairer "
            "baseline."
        )
    if METADATA in baselines:
        sentences.append(
            f"«{METADATA}»: a small decision tree that sees nothing of the clips but sizes, frame rates, lengths, "
            "bytes a second and codecs, trained on the same split. A network can learn these: only what it does "
            "better counts."
        )
    return [
        "<h2>Metrics</h2>",
        *html_table(head, rows),
        f"<p>{escape(' '.join(sentences))}</p>",
        *warnings(metrics["notes"]),
    ]


def _classes(metrics: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    details = {name: row["per_class"] for name, row in metrics["details"].items() if "per_class" in row}
    exclusive = "confusion" in metrics
    titles = {**_TITLES, "f1": "F1", "balanced_accuracy": "Recall" if exclusive else "Balanced accuracy"}
    rows = [
        (name, metrics["cases_per_class"][name], *(html_number(row[name]) for row in details.values()))
        for name in class_names
    ]
    table = html_table(("", "cases", *(titles[name] for name in details)), rows)
    return ["<h2>Classes</h2>", *table, "<p>Each class against the rest.</p>"]


def _figures(metrics: Mapping[str, Any], cases: Sequence[ClassifiedCase], class_names: Sequence[str]) -> list[str]:
    pictures = []
    if "confusion" in metrics:
        pictures.append(("Confusion matrix", plot_confusion(metrics["confusion"], class_names)))
    probabilities = np.array([case.probabilities for case in cases])
    truth = as_indicators(stack_labels(cases), len(class_names))
    roc = plot_roc(probabilities, truth, class_names, exclusive="confusion" in metrics)
    if roc is not None:
        pictures.append(("ROC, area in the legend", roc))
    return side_by_side(pictures)


def _mistakes(cases: Sequence[ClassifiedCase], data: PictureData, explain: Explain | None, is_clip: bool) -> list[str]:
    chosen, class_names = worst_decisions(cases), data.class_names
    title = "The most confident mistakes" if chosen[0].wrong else "No errors: the least certain cases"
    body = []
    for decision in chosen:
        case, k = decision.case, decision.class_index
        views, pictures = data.load(case.id).views, data.pictures(case.id)
        middle = len(views) // 2
        activation = None if explain is None else explain(views[middle], k)
        label, predicted = (
            " + ".join(class_names[i] for i in found) or "none" for found in (case.truth, case.predicted)
        )
        caption = f"{case.id}: label {label}, predicted {predicted}; p({class_names[k]}) = {case.probabilities[k]:.3f}"
        body.append(figure(caption, plot_activation(pictures[middle], activation, is_clip)))
    note = (
        "<p>Below each, Grad-CAM of the class named last (Selvaraju et al. 2017): bright regions support it, at "
        "the resolution of the network's last features; all dark means that none does. The middle view is shown.</p>"
    )
    return [f"<h2>{title}</h2>", *([note] if explain is not None else []), *body]


def _predictions(cases: Sequence[ClassifiedCase], data: PictureData, is_clip: bool) -> list[str]:
    """Return what is predicted of cases without a label, beside what the network saw of them."""
    if not cases:
        return []
    body = []
    for case in cases[:SHOWN]:
        views = data.pictures(case.id)
        caption = f"{case.id}: {name_predicted(case, data.class_names)}"
        body.append(figure(caption, plot_activation(views[len(views) // 2], None, is_clip)))
    more = [f"<p>{escape(line)}</p>" for line in more_than_shown(len(cases))]
    return ["<h2>Predictions</h2>", *body, *more]


@dataclass(frozen=True)
class Decision:
    """What was decided on a case: of a multi-label task, on the class whose decision fits its label least."""

    case: ClassifiedCase
    class_index: int  # of the predicted class; of a multi-label task the one decided on
    confidence: float  # the probability of what was decided
    wrong: bool


def worst_decisions(cases: Sequence[ClassifiedCase], count: int = 6) -> list[Decision]:
    """Return the most confident mistakes on labelled cases.

    Without any, half as many of the least certain decisions.
    """
    decisions = [_decide(case) for case in cases]
    mistakes = sorted((d for d in decisions if d.wrong), key=lambda d: -d.confidence)
    return mistakes[:count] or sorted(decisions, key=lambda d: d.confidence)[: count // 2]


def _decide(case: ClassifiedCase) -> Decision:
    p = case.probabilities
    if case.multi_label:
        k = int(np.abs(p - np.array(case.label)).argmax())
        return Decision(case, k, float(max(p[k], 1 - p[k])), (k in case.predicted) != (k in case.truth))
    k = int(p.argmax())
    return Decision(case, k, float(p[k]), (k,) != case.truth)

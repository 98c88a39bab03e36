import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from engine.config import check_config
from engine.evaluation.cases import Failure
from engine.evaluation.classification import ClassifiedCase
from engine.reports.classification_plots import plot_activation, plot_confusion, plot_roc
from engine.reports.classification_report import worst_decisions, write_classification_report
from engine.reports.classification_tables import format_predictions, name_predicted, summarise_cases
from engine.runs.run_folder import RunFolder
from tests.conftest import Drawn

NAMES = ("calm", "<fight>")


def case(name: str, p: float, label: int | None, still: float | None = None) -> ClassifiedCase:
    frozen = None if still is None else np.array([1 - still, still])
    return ClassifiedCase(name, np.array([1 - p, p]), (int(p >= 0.5),), label, None, 2, frozen)


class Data:
    """Three views a case; views hold the case's letter and more, pictures what they hold less 50."""

    class_names = NAMES

    def load(self, case_id: str) -> Any:
        views = np.full((3, 4, 6, 6, 1), ord(case_id), np.float32) + np.arange(3)[:, None, None, None, None]
        return SimpleNamespace(views=views)

    def pictures(self, case_id: str) -> np.ndarray:
        return (self.load(case_id).views - 50).astype(np.uint8)


CASES = [case("a", 0.9, 1), case("b", 0.8, 0), case("c", 0.05, 1), case("d", 0.45, 0), case("e", 0.5, None)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    tree = {
        "name": "small",
        "task": "classification",
        "run": {"dir": str(tmp_path)},
        "data": {"root": ".", "source": "classes"},
        "model": {"name": "cnn3d"},
        "train": {"steps": 20},
    }
    folder = RunFolder.create(check_config(tree, "test"))
    for step in (10, 20):
        folder.append_metrics({"step": step, "split": "val", "accuracy": 0.5, "auc": None, "log_loss": 0.7})
    return folder


def write(run: RunFolder, cases: list[ClassifiedCase], explained: bool = True) -> str:
    metrics = {
        "split": "val",
        "checkpoint": {"name": "best", "step": 20, "weights": "raw"},
        "seconds_per_case": 0.25,
        **summarise_cases(cases, NAMES, 50, {}),
    }

    def explain(view: np.ndarray, class_index: int) -> np.ndarray:
        return np.full((4, 6, 6), class_index / 2, np.float32)

    failures = [Failure("x", "x.mp4", "ends <early>")]
    arguments = (cases, failures, Data(), explain if explained else None)
    return write_classification_report(run.path / "r.html", run, metrics, *arguments, is_clip=True).read_text()


def test_report_shows_metrics_figures_and_the_most_confident_mistakes(run: RunFolder, no_figures: Drawn) -> None:
    text = write(run, CASES)
    assert "small: val" in text
    assert "4 labelled of 5 cases · 2 views a case · checkpoint best at step 20 · raw weights" in text
    assert "<td>0.500<small>" in text  # accuracy
    assert "ends &lt;early&gt;" in text
    assert "The most confident mistakes" in text
    first = text.index("c: label &lt;fight&gt;, predicted calm; p(calm) = 0.950")
    assert first < text.index("b: label calm, predicted &lt;fight&gt;; p(&lt;fight&gt;) = 0.800")
    assert "Grad-CAM" in text
    (picture, activation, is_clip), *_ = (a for name, a in no_figures if name == "plot_activation")
    assert (picture == ord("c") + 1 - 50).all()  # of the middle view
    assert (activation == 0).all()  # of the predicted class, calm
    assert is_clip
    assert [name for name, _ in no_figures].count("plot_curves") == 2  # accuracy, log loss
    assert "<fight>" not in text


def test_without_mistakes_the_least_certain_are_shown(run: RunFolder, no_figures: Drawn) -> None:
    text = write(run, [CASES[0], CASES[3], case("f", 0.6, 1)], explained=False)
    assert "No errors: the least certain cases" in text
    assert "Grad-CAM" not in text
    assert [a[0].flat[0] for name, a in no_figures if name == "plot_activation"] == [ord(c) + 1 - 50 for c in "dfa"]


def test_what_is_missing_or_beside_is_explained(run: RunFolder, no_figures: Drawn) -> None:
    text = write(run, [case("a", 0.9, 1, 0.4), case("b", 0.2, 0, 0.4)])
    assert "<th>one frame</th><th>difference</th>" in text
    assert "data.clip.single_frame=true is the fairer" in text
    text = write(run, [CASES[4]])
    assert "0 labelled of 1 cases" in text
    assert "<h2>Predictions</h2>" in text
    assert "e: &lt;fight&gt; (0.500)" in text
    picture, activation, is_clip = next(a for name, a in reversed(no_figures) if name == "plot_activation")
    assert (picture == ord("e") + 1 - 50).all()  # the middle view
    assert activation is None
    assert is_clip
    assert "<h2>Metrics</h2>" not in text
    text = write(run, [case("a", 0.9, 1), case("b", 0.8, 1)])
    assert "every case is &lt;fight&gt;: auc and average_precision need others too" in text


def test_predictions_of_cases_without_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case("new_one", 0.25, None), case("a", 0.9, 1), case("b", 0.75, None)]
    assert format_predictions(cases, NAMES) == [
        "case     predicted (probability)",
        "new_one  calm (0.750)",
        "b        <fight> (0.750)",
    ]
    monkeypatch.setattr("engine.reports.classification_tables.SHOWN", 1)
    assert format_predictions(cases, NAMES)[1:] == ["new_one  calm (0.750)", "and 1 more: cases.csv has all"]
    assert format_predictions(cases[1:2], NAMES) == []
    several = ClassifiedCase("c", np.array([0.9, 0.2, 0.6]), (0, 2), None, None, 1)
    assert name_predicted(several, ("x", "y", "z")) == "x (0.900) + z (0.600)"


def test_worst_decision_of_several_labels() -> None:
    first = ClassifiedCase("a", np.array([0.9, 0.2, 0.6]), (0, 2), (1, 1, 1), None, 1)
    second = ClassifiedCase("b", np.array([0.95, 0.1, 0.4]), (0,), (0, 0, 0), None, 1)
    third = ClassifiedCase("c", np.array([0.1, 0.1, 0.1]), (), (0, 0, 0), None, 1)
    found = [(d.case.id, d.class_index, d.confidence) for d in worst_decisions([first, second, third])]
    assert found == [("b", 0, 0.95), ("a", 1, 0.8)]


def decode(uri: str) -> bytes:
    return base64.b64decode(uri.partition("base64,")[2])


def test_confusion_and_roc_are_svg() -> None:
    assert b"<svg" in decode(plot_confusion([[3, 0], [1, 0]], NAMES))
    p = np.array([[0.9, 0.1], [0.3, 0.7]])
    roc = plot_roc(p, np.eye(2, dtype=bool), NAMES, exclusive=True)
    assert roc is not None
    assert b"<svg" in decode(roc)
    assert plot_roc(p, np.array([[True, False]] * 2), NAMES, exclusive=True) is None


@pytest.mark.parametrize(("channels", "is_clip"), [(3, True), (1, False)])
def test_activation_lies_below_the_picture(channels: int, is_clip: bool, tmp_path: Path) -> None:
    view = np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels)).astype(np.uint8)
    activation = np.zeros(view.shape[:3], np.float32)
    activation[3, 2, 4] = 1
    heights = []
    for shown in (None, activation):
        (tmp_path / "picture.png").write_bytes(decode(plot_activation(view, shown, is_clip)))
        heights.append(matplotlib.image.imread(tmp_path / "picture.png").shape[0])
    assert heights[1] > 1.6 * heights[0]

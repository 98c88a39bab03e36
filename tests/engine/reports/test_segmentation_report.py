import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.config import check_config
from engine.evaluation.cases import Failure
from engine.evaluation.labelling import Labelling
from engine.evaluation.segmentation import CaseResult
from engine.metrics.segmentation import measure_volumes, score_case
from engine.reports.page import write_run_report
from engine.reports.segmentation_report import write_evaluation_report
from engine.reports.segmentation_tables import summarise_cases
from engine.reports.slices import cut_slices
from engine.runs.run_folder import RunFolder

NAMES = ["background", "left <lobe>"]
SPACING_MM = (2.0, 1.0, 1.0)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    tree = {"name": "small", "run": {"dir": str(tmp_path)}, "data": {"root": "."}, "train": {"steps": 20}}
    folder = RunFolder.create(check_config(tree, "test"))
    for step in (10, 20):
        line = {"step": step, "split": "train", "loss": 1 / step, "learning_rate": 0.1, "grad_norm": 1.0}
        folder.append_metrics({**line, "seconds": 6.0 * step, "wait_share": 0.01 * step})
        folder.append_metrics({"step": step, "split": "val", "dice.mean": 0.5, "dice.left <lobe>": None})
    return folder


def make_results(shifts: list[int], labelled: bool = True) -> list[CaseResult]:
    reference = np.zeros((6, 12, 14), np.uint8)
    reference[2:4, 3:8, 4:9] = 1
    results = []
    for shift in shifts:
        prediction = np.roll(reference, shift, axis=2)
        known = reference if labelled else None
        scores = score_case(prediction, reference, SPACING_MM, 2) if labelled else None
        scores = scores or measure_volumes(prediction, SPACING_MM, 2)
        results.append(CaseResult(f"case{shift}", scores, labelled, cut_slices(prediction, known, SPACING_MM), 1.0))
    return results


def write(run: RunFolder, results: list[CaseResult], *failures: Failure, sections: Sequence[str] = ()) -> str:
    metrics = {
        "split": "val",
        "checkpoint": {"name": "best", "step": 20, "weights": "ema"},
        "seconds_per_case": 1.0,
        "settings": {"nsd_tolerance_mm": 1.5},
        **summarise_cases(results, NAMES, 50),
    }

    def read_image(case: str) -> np.ndarray:
        return np.arange(6 * 12 * 14, dtype=np.float32).reshape(6, 12, 14)

    arguments = (results, list(failures), Labelling(tuple(NAMES)), read_image, sections)
    return write_evaluation_report(run.path / "e.html", run, metrics, *arguments).read_text()


def captions(text: str) -> list[str]:
    return re.findall("<figcaption>(.*?)</figcaption>", text)


@pytest.mark.usefixtures("no_figures")
def test_shows_best_median_and_worst(run: RunFolder) -> None:
    text = write(run, make_results([3, 0, 1, 4, 2]))
    shown = [caption.split(" — ")[0] for caption in captions(text) if "case" in caption]
    assert shown == ["Best: case0", "Median: case2", "Worst: case4"]
    assert "Dice 0.600 (left &lt;lobe&gt; 0.600)" in text
    assert "tolerance of 1.5 mm" in text
    assert "averaged (EMA) weights" in text


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("shifts", "expected"), [([1], ["Best: case1"]), ([1, 0], ["Best: case0", "Worst: case1"]), ([], [])]
)
def test_few_cases(run: RunFolder, shifts: list[int], expected: list[str]) -> None:
    shown = [caption.split(" — ")[0] for caption in captions(write(run, make_results(shifts))) if "case" in caption]
    assert shown == expected


@pytest.mark.usefixtures("no_figures")
def test_unlabelled_cases_are_shown_without_scores_and_texts_escaped(run: RunFolder) -> None:
    text = write(run, make_results([0, 1, 2], labelled=False))
    assert [c for c in captions(text) if "case" in c] == ["case0", "case1", "case2"]
    assert "<h2>Metrics</h2>" not in text
    text = write(run, make_results([0]), Failure("<b>", "/data/x&y.nii", "no <stream>"))
    assert "<b>&lt;b&gt;</b>: /data/x&amp;y.nii: no &lt;stream&gt;" in text
    assert "<lobe>" not in text


def test_is_one_file_without_requests_or_scripts(run: RunFolder) -> None:
    text = write(run, make_results([0, 1]))
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", text)
    assert "color-scheme: light dark" in text


@pytest.mark.usefixtures("no_figures")
def test_run_report_has_curves_and_config(run: RunFolder) -> None:
    text = write_run_report(run).read_text()
    assert (run.path / "report.html").exists()
    assert captions(text) == ["Loss", "Validation", "Learning rate", "Gradient"]
    assert "20 steps · trained for 2.0 minutes, 15.0% of them waiting for data" in text
    assert "name: small" in text
    run.metrics_path.unlink()
    text = write_run_report(run).read_text()
    assert "no step yet" in text
    assert captions(text) == []


@pytest.mark.usefixtures("no_figures")
def test_what_a_mean_leaves_out_stands_beside_it(run: RunFolder) -> None:
    missed = make_results([0])[0]
    nothing, reference = np.zeros((6, 12, 14), np.uint8), np.ones((6, 12, 14), np.uint8)
    missed = replace(missed, id="missed", scores=score_case(nothing, reference, SPACING_MM, 2))
    text = write(run, [*make_results([1, 2]), missed])
    assert "<td>1.50 of 2 without 1 infinite<small>" in text
    assert text.count("without 1 infinite") == 2  # of the class and of the mean, in HD95 alone


@pytest.mark.usefixtures("no_figures")
def test_cases_come_before_calibration_and_few_are_listed(run: RunFolder) -> None:
    text = write(run, make_results([0, 1, 2]), sections=["<h2>Calibration</h2>"])
    places = [text.index(f"<h2>{title}</h2>") for title in ("Metrics", "Cases", "Calibration", "Training", "Config")]
    assert places == sorted(places)
    assert "3 cases: too few for an interval, which needs 10; look at the cases one by one" in text
    assert "<tr><th>case1</th><td>0.800</td></tr>" in text
    many = write(run, make_results(list(range(12))))
    assert "95 % intervals: bootstrap over 12 cases" in many
    assert "<tr><th>case1</th>" not in many

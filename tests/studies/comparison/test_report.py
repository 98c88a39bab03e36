import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluate import main
from studies.comparison.compare import compare
from studies.comparison.format import format_p, number
from studies.comparison.plots import band, span_of
from studies.comparison.read_runs import read_study
from studies.comparison.report import write_comparison_page
from studies.comparison.text import method, sentence, to_csv, to_json, to_markdown
from tests.studies.made_up import CASES, RATES, dice, in_one_case, write_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    cells = {**RATES, "<again>": RATES["rate=0.1"], "rate=0": RATES["none"]}
    return write_sweep(tmp_path / "sweep", dice, cells, same_as={"<again>": "rate=0.1", "rate=0": "none"})


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures: they take most of the time."""
    for plot in ("plot_differences", "plot_bands"):
        monkeypatch.setattr(f"studies.comparison.report.{plot}", lambda *_, **__: "data:image/png;base64,")


def sentences(folder: Path) -> list[str]:
    comparison = compare(read_study(folder))
    return [sentence(result, comparison) for result in comparison.results]


def test_a_sentence_a_cell(sweep: Path) -> None:
    none, low, high, again, zero = sentences(sweep)
    assert none == "The baseline."
    assert low.startswith("0.0487 above the baseline (+0.03")  # 0.05 less a mean of the seeds' noise
    assert low.endswith("), p < 0.001: more than noise explains.")
    assert re.fullmatch(r"0\.00\d\d (above|below) the baseline \(−0\.\d+ to \+0\.\d+\), p = 0\.\d\d: could be .*", high)
    assert again == f"The same network as rate=0.1, whose runs count for both: {low}"
    assert zero == "The same network as the baseline, none: its runs count for both."


def test_incomplete_cells_say_so(sweep: Path) -> None:
    shutil.rmtree(sweep / "rate=0.1" / "seed1")
    comparison = compare(read_study(sweep))
    assert sentence(comparison.results[1], comparison).endswith(
        " above the baseline so far; not tested, because it is incomplete (seed 1: not begun)."
    )
    text = to_markdown(comparison)
    assert "> Incomplete cells are not tested, and their means are over fewer runs. rate=0.1: seed 1: not begun" in text
    assert "| rate=0.1 | 2 of 3 |" in text
    for seed in (0, 2):
        shutil.rmtree(sweep / "rate=0.1" / f"seed{seed}")
    assert sentences(sweep)[1].startswith("not tested, because it is incomplete")


def test_one_seed_or_seeds_that_agree_are_said_plainly(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", dice, seeds=(1,))
    comparison = compare(read_study(folder))
    assert sentence(comparison.results[1], comparison).endswith("above the baseline; with one seed it may be noise.")
    assert method(comparison)[0].startswith("One seed: training noise is unknown, so no difference")
    assert "Other tests" not in to_markdown(comparison)
    folder = write_sweep(tmp_path / "alike", lambda cell, *_: np.full((3, 2), 0.5 + 0.25 * (cell == "none")))
    assert sentences(folder)[1].endswith("the seeds agree to the last digit, so it cannot be tested.")


def test_differences_of_the_cases_alone_are_told_apart(tmp_path: Path) -> None:
    low = sentences(write_sweep(tmp_path / "sweep", in_one_case))[1]
    assert low.endswith(
        "could be noise in the choice of cases; on these very cases training noise alone does not explain it."
    )


def test_scans_of_few_patients_are_no_sample_of_others(sweep: Path) -> None:
    """The sweep's twelve cases are scans of three patients: they are drawn together, and a note says so."""
    before = compare(read_study(sweep)).results[2].difference
    for path in sweep.glob("*/*/eval/*/cases.csv"):
        head, *rows = path.read_text().splitlines()
        grouped = [f"{row},p{int(row.split(',')[0].partition('case')[2]) // 4}" for row in rows]
        path.write_text("\n".join([f"{head},group", *grouped]) + "\n")
    comparison = compare(read_study(sweep))
    assert comparison.study.units_by_fold() == {0: {"group p0", "group p1", "group p2"}}
    assert "> 3 validation cases, or groups of them: fewer than 10 are a poor sample" in to_markdown(comparison)
    after = comparison.results[2].difference
    assert np.ptp(after.interval) >= np.ptp(before.interval)


@pytest.mark.slow
def test_unstable_cells_are_named(tmp_path: Path) -> None:
    cells = {"none": RATES["none"], **{f"rate=0.{i}": {**RATES["rate=0.1"], "rate": i} for i in range(1, 6)}}
    noise = 1e-3 * np.random.default_rng(2).standard_normal((6, 3))
    noise[3] += [-0.3, 0.01, 0.02]

    def collapsing(cell: str, seed: int, fold: int) -> np.ndarray:
        return 0.8 + CASES + noise[list(cells).index(cell), seed]

    comparison = compare(read_study(write_sweep(tmp_path / "sweep", collapsing, cells)))
    text = to_markdown(comparison)
    assert "> Unstable training, a finding in itself: rate=0.3 (± 0.18" in text
    assert "Noise is pooled over the stable cells (" in text
    assert "Differences of unstable cells are tested by their own noise alone (2 degrees of freedom)" in text
    assert sentence(comparison.results[3], comparison).endswith("far more than those of the other cells.")
    assert [r["is_unstable"] for r in json.loads(to_json(comparison))["cells"]] == [False] * 3 + [True] + [False] * 2
    low, high = span_of([result for result in comparison.results if not result.is_unstable])
    assert -0.02 < low < 0 < high < 0.02
    assert "Arrows: an unstable" in write_comparison_page(tmp_path / "page.html", comparison).read_text()


def test_markdown_names_layers_and_caveats_and_whom_p_and_interval_speak_for(sweep: Path) -> None:
    text = to_markdown(compare(read_study(sweep)))
    row = "channel | 0.1 | encoder | after_activation | encoder.0.dropout, encoder.1.dropout |"
    assert f"| rate=0.1 | 2 layers; encoder 0.9 | {row}" in text
    assert "| none | keeps all | none | – | – | – | – |" in text
    assert "2 layers; encoder 0.9" in write_comparison_page(sweep / "page.html", compare(read_study(sweep))).read_text()
    assert "says nothing of training noise" in text
    assert "p is that of Dunnett's test for 2 comparisons with one baseline" in text
    assert "5 cells · 3 seeds · 9 of 9 runs finished · dice.mean of 12 validation cases" in text
    comparison = compare(read_study(sweep))
    text = to_markdown(comparison)
    head = next(line for line in text.splitlines() if line.startswith("| cell | runs"))
    assert "| difference (95 %, other seeds and cases) | p (other seeds, these cases) |" in head
    assert "It holds for these cases only." in text
    assert "They decide whether a difference could be noise." in text
    assert "are a poor sample" not in text


def test_csv_and_json_hold_the_numbers(sweep: Path) -> None:
    comparison = compare(read_study(sweep))
    rows = {row["cell"]: row for row in csv.DictReader(to_csv(comparison).splitlines())}
    low = comparison.results[1]
    assert float(rows["rate=0.1"]["difference"]) == pytest.approx(low.difference.mean, rel=1e-6)
    assert float(rows["rate=0.1"]["score_seed2"]) == pytest.approx(low.scores[2], rel=1e-6)
    assert float(rows["rate=0.1"]["model.args.dropout.rate"]) == 0.1
    assert rows["rate=0.1"]["verdict"] == "difference"
    assert rows["rate=0.3"]["verdict"] == "noise"
    assert rows["none"]["p_corrected"] == rows["none"]["verdict"] == ""
    assert rows["<again>"]["same_as"] == "rate=0.1"
    tree = json.loads(to_json(comparison))
    assert tree["cells"][1]["p_corrected"] == pytest.approx(low.difference.p)
    assert tree["cells"][0]["difference"] is None
    assert (tree["num_comparisons"], tree["metric"]) == (2, "dice.mean")


def test_page_is_one_file_without_requests_or_scripts(sweep: Path) -> None:
    shutil.rmtree(sweep / "rate=0.3" / "seed1")
    text = write_comparison_page(sweep / "page.html", compare(read_study(sweep))).read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) == 3
    assert all(source.startswith("data:image/svg") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", text)
    assert "&lt;again&gt;" in text
    assert "<again>" not in text
    assert '<p class="warning">Incomplete cells are not tested' in text


@pytest.mark.usefixtures("plain")
def test_evaluate_compares_a_sweep_and_refuses_what_is_none(
    sweep: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--compare", str(sweep)]) == 0
    output = capsys.readouterr().out
    assert "| none (baseline) | 3 |" in output
    assert f"report: {sweep / 'comparison.html'}" in output
    for kind in ("md", "csv", "json", "html"):
        assert (sweep / f"comparison.{kind}").stat().st_size > 500
    assert main(["--compare", str(tmp_path)]) == 2
    assert "not a sweep: expected a sweep.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
    assert "one of the arguments --run --compare is required" in capsys.readouterr().err


def test_bands_are_over_the_steps_that_all_runs_have() -> None:
    found = band([[(10, 0.2), (20, 0.4), (30, 0.9)], [(10, 0.4), (20, 0.4)]])
    assert found.steps.tolist() == [10, 20]
    assert found.mean == pytest.approx([0.3, 0.4])
    assert found.sd == pytest.approx([0.02**0.5, 0.0])
    assert band([[(10, 0.2)], [(20, 0.4)]]) is None
    assert band([]) is None


@pytest.mark.parametrize(
    ("p", "expected"), [(0.5, "p = 0.50"), (0.0312, "p = 0.031"), (0.0001, "p < 0.001"), (np.nan, "–")]
)
def test_format_p_and_numbers_with_a_true_minus(p: float, expected: str) -> None:
    assert format_p(p, "p ") == expected
    assert (number(-0.01234), number(0.5, 1, "+"), number(np.nan)) == ("−0.0123", "+0.5", "–")


def test_sweeps_from_before_doses_were_written_are_compared_without(sweep: Path) -> None:
    plan = json.loads((sweep / "sweep.json").read_text())
    for cell in plan["cells"]:
        del cell["dose"]
        cell["dropout"] = [row[:4] for row in cell["dropout"]]
    (sweep / "sweep.json").write_text(json.dumps(plan))
    assert "| rate=0.1 | – | channel | 0.1 | encoder |  | encoder.0.dropout" in to_markdown(compare(read_study(sweep)))

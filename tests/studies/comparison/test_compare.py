import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from studies.comparison.compare import Comparison, compare, resample_differences
from studies.comparison.read_runs import read_study
from studies.comparison.significance import compare_with_baseline, dunnett_critical
from tests.studies.made_up import (
    CASES,
    NOISE,
    RATES,
    dice,
    in_one_case,
    write_classified,
    write_plan,
    write_run,
    write_sweep,
)


def compare_folder(folder: Path) -> Comparison:
    return compare(read_study(folder))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep", dice)


def test_means_differences_and_gaps(sweep: Path) -> None:
    none, low, high = compare_folder(sweep).results
    mean = 0.8 + CASES.mean()
    assert none.score.mean == pytest.approx(mean + NOISE[0, :3].mean(), abs=1e-6)
    assert none.score.sd == pytest.approx(NOISE[0, :3].std(ddof=1), rel=1e-3)
    assert none.difference is None
    assert low.difference.by_seed == pytest.approx(0.05 + NOISE[1, :3] - NOISE[0, :3], abs=1e-6)
    assert low.difference.mean == pytest.approx(low.difference.by_seed.mean())
    assert low.gap.mean == pytest.approx(0.05, abs=1e-3)
    assert (low.minutes.mean, low.memory_gb) == (10.0, 1.5)
    assert high.num_finished == high.num_planned == 3


def test_p_is_that_of_the_seeds_and_wilcoxon_over_cases(sweep: Path) -> None:
    comparison = compare_folder(sweep)
    expected = compare_with_baseline(np.array([result.scores for result in comparison.results]))
    found = [result.difference for result in comparison.results[1:]]
    assert [d.p for d in found if d] == pytest.approx(expected.p.tolist())
    assert [d.is_noise for d in found if d] == [False, True]
    assert comparison.num_comparisons == 2
    assert comparison.results[1].difference.p_cases < 0.005  # all of 12 cases differ in one direction


def test_cases_that_differ_alike_add_nothing_to_the_interval(sweep: Path) -> None:
    comparison = compare_folder(sweep)
    (low, high), _ = (result.difference.interval for result in comparison.results[1:] if result.difference)
    half = (high - low) / 2 / comparison.inference.standard_errors[0]
    assert half == pytest.approx(dunnett_critical(2, comparison.inference.degrees[0]), rel=0.03)


def test_a_difference_in_few_cases_widens_the_interval(tmp_path: Path) -> None:
    result = compare_folder(write_sweep(tmp_path / "sweep", in_one_case)).results[1]
    assert result.difference.is_noise is True  # of other cases
    assert result.difference.differs_here


def test_resampled_cases_are_those_of_every_run_whatever_their_order(sweep: Path) -> None:
    study = read_study(sweep)
    expected = resample_differences(study, study.cells[0], study.cells[1:])
    for path in sorted(sweep.glob("rate=0.1/*/eval/val/cases.csv")):
        with path.open(newline="") as file:
            head, *rows = csv.reader(file)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows[::-1]])
    study = read_study(sweep)
    assert resample_differences(study, study.cells[0], study.cells[1:]) == pytest.approx(expected)
    means = np.array([0.05, 0.001]) + (NOISE[1:, :3] - NOISE[0, :3]).mean(axis=1)
    assert expected.mean(axis=0) == pytest.approx(means, abs=1e-4)
    assert expected.std(axis=0) == pytest.approx([0, 0], abs=1e-4)


def test_folds_are_averaged_within_a_seed(tmp_path: Path) -> None:
    def with_fold_noise(cell: str, seed: int, fold: int) -> np.ndarray:
        return dice(cell, seed, fold) + (0.1 if fold else -0.1) * (cell == "rate=0.1")

    comparison = compare_folder(write_sweep(tmp_path / "sweep", with_fold_noise, folds=(0, 1)))
    difference = comparison.results[1].difference
    assert difference.by_seed == pytest.approx(0.05 + NOISE[1, :3] - NOISE[0, :3], abs=1e-6)
    assert len(difference.by_seed) == 3


def test_incomplete_cells_are_marked_and_not_tested(sweep: Path) -> None:
    shutil.rmtree(sweep / "rate=0.1" / "seed1")
    comparison = compare_folder(sweep)
    _, low, high = comparison.results
    assert low.missing == ["seed 1: not begun"]
    assert (low.num_finished, low.num_planned) == (2, 3)
    assert low.difference.is_noise is None
    assert np.isnan(low.difference.interval).all()
    assert low.difference.mean == pytest.approx(0.05 + (NOISE[1] - NOISE[0])[[0, 2]].mean(), abs=1e-6)
    assert high.difference.p == pytest.approx(stats.ttest_rel(high.scores, comparison.results[0].scores).pvalue)
    assert comparison.num_comparisons == 1


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (["none/seed1"], "The baseline, none, lacks runs: nothing is tested until it is complete."),
        (["rate=0.1/seed1", "rate=0.3/seed0"], "No cell besides the baseline is complete: nothing is tested."),
    ],
)
def test_without_complete_cells_nothing_is_tested(sweep: Path, gone: list[str], message: str) -> None:
    for run in gone:
        shutil.rmtree(sweep / run)
    comparison = compare_folder(sweep)
    assert comparison.why_not == message
    assert comparison.inference is None


def test_one_seed_says_nothing_of_noise(tmp_path: Path) -> None:
    comparison = compare_folder(write_sweep(tmp_path / "sweep", dice, seeds=(4,)))
    assert comparison.why_not.startswith("One seed: training noise is unknown")
    _, low, _ = comparison.results
    assert low.difference.is_noise is None
    assert low.difference.mean == pytest.approx(0.05 + NOISE[1, 4] - NOISE[0, 4], abs=1e-6)
    assert np.isnan(low.score.sd)


def test_cells_with_one_network_count_once(tmp_path: Path) -> None:
    cells = {**RATES, "again": RATES["rate=0.1"], "rate=0": RATES["none"]}
    same_as = {"again": "rate=0.1", "rate=0": "none"}
    comparison = compare_folder(write_sweep(tmp_path / "sweep", dice, cells, same_as=same_as))
    _, low, _, again, zero = comparison.results
    assert again.difference.p == low.difference.p
    assert again.score == low.score
    assert zero.difference is None
    assert comparison.num_comparisons == 2
    cells = {**RATES, "rate=0": RATES["none"]}
    folder = write_sweep(tmp_path / "twin", dice, cells, same_as={"rate=0": "none"}, baseline="rate=0")
    comparison = compare_folder(folder)
    none, low, _, zero = comparison.results
    assert none.difference is None
    assert zero.difference is None
    assert low.difference.is_noise is False


def test_classification_recomputes_auc(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    folder = tmp_path / "sweep"
    cells = {"none": RATES["none"], "rate=0.1": RATES["rate=0.1"]}
    expected: dict[str, list[float]] = {"none": [], "rate=0.1": []}
    for run in write_plan(folder, cells, (0, 1, 2), (0,), task="classification", metric="auc"):
        logits = (2.0 if run["cell"] == "none" else 0.5) * (labels - 0.5) + random.normal(0, 0.6, 40)
        p = 1 / (1 + np.exp(-logits))
        where = write_run(folder, run, cells[run["cell"]], **{"loss.name": "cross_entropy"})
        write_classified(where / "eval" / "val", np.stack([1 - p, p], axis=1), labels)
        expected[run["cell"]].append(float(roc_auc_score(labels, p)))
    none, low = compare_folder(folder).results
    assert none.scores == pytest.approx(expected["none"])
    assert low.difference.mean == pytest.approx(np.mean(expected["rate=0.1"]) - np.mean(expected["none"]))
    first, last = low.difference.interval
    assert first < low.difference.mean < last
    assert np.isnan(low.difference.p_cases)  # AUC is no mean over cases
    assert np.isnan(low.gap.mean)  # no training case was scored

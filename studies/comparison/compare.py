"""Compares a sweep's cells: means over seeds, differences from the baseline, and their statistics."""

import math
from dataclasses import dataclass

import numpy as np

from engine.metrics.bootstrap import draw_weights
from studies.comparison.read_runs import Cell, Study
from studies.comparison.significance import Comparisons, compare_with_baseline, crossed_intervals, wilcoxon_over_cases

NUM_SAMPLES = 2000  # of the cases


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; NaN where there is none."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Difference:
    """The difference of a cell from the baseline, in the study's metric."""

    mean: float
    by_seed: np.ndarray  # (seeds,)
    interval: tuple[float, float]  # for other seeds and cases; those of all cells hold together in 95 of 100 studies
    p: float  # over seeds, on these very cases; corrected for the number of comparisons; NaN without inference
    p_paired: float  # of these differences alone, uncorrected
    p_cases: float  # Wilcoxon's over cases, of the means over seeds: it ignores training noise

    @property
    def is_noise(self) -> bool | None:
        """Whether the interval holds 0: noise in the sample of seeds and cases may explain the difference.

        None where that was not tested; True where the interval does not exist.
        """
        low, high = self.interval
        return None if math.isnan(self.p) else not (low > 0 or high < 0)

    @property
    def differs_here(self) -> bool:
        """Whether it is more than training noise on these very cases."""
        return self.p < 0.05


@dataclass(frozen=True)
class CellResult:
    """A row of the comparison."""

    cell: Cell
    num_finished: int
    num_planned: int
    missing: list[str]  # "seed 1: not begun"
    scores: np.ndarray  # (seeds,), NaN where unfinished
    score: Spread
    gap: Spread  # train score less validation score
    minutes: Spread
    memory_gb: float  # the most of any run
    difference: Difference | None  # None for the baseline, and for a cell with the baseline's network
    is_unstable: bool = False  # its seeds scatter so much that its noise stays out of the pool

    @property
    def is_complete(self) -> bool:
        return not self.missing


@dataclass(frozen=True)
class Comparison:
    """All cells of a study, and the inference over their seeds."""

    study: Study
    results: list[CellResult]
    inference: Comparisons | None
    why_not: str  # why there is no inference; empty where there is

    @property
    def unstable(self) -> list[CellResult]:
        """The cells whose noise is not in the pool, of those with runs of their own."""
        return [result for result in self.results if result.is_unstable and result.cell.same_as is None]

    @property
    def stable_sd(self) -> float:
        """The root of the mean variance over seeds of the complete cells in the pool."""
        sds = [r.score.sd for r in self.results if r.cell.same_as is None and r.is_complete and not r.is_unstable]
        return float(np.sqrt(np.mean(np.square(sds)))) if sds else math.nan

    @property
    def num_comparisons(self) -> int:
        return 0 if self.inference is None else len(self.inference.differences)


def compare(study: Study) -> Comparison:
    """Compare the study's cells with its baseline.

    Only complete cells are tested: those with all planned seeds and folds. The others are listed with their missing
    runs. Cells with the same network count once.
    """
    own = [cell for cell in study.cells if cell.same_as is None]
    tested = [cell for cell in own if cell.name != study.baseline.source and study.is_complete(cell)]
    why_not = _why_not(study, tested)
    inference, tests, unstable = None, {}, set()
    baseline = next(cell for cell in study.cells if cell.name == study.baseline.source)
    if not why_not:
        inference = compare_with_baseline(np.array([study.scores(cell) for cell in (baseline, *tested)]))
        degrees = sum(len(units) - 1 for units in study.units_by_fold().values())
        intervals = crossed_intervals(inference, resample_differences(study, baseline, tested), degrees)
        if inference.is_baseline_unstable:
            unstable.add(baseline.name)
        for i, cell in enumerate(tested):
            if inference.is_unstable[i]:
                unstable.add(cell.name)
            tests[cell.name] = (tuple(intervals[i].tolist()), float(inference.p[i]), float(inference.p_paired[i]))
    results = []
    for cell in study.cells:
        difference = None
        if cell.source != baseline.name:
            untested = ((math.nan, math.nan), math.nan, math.nan)
            interval, p, p_paired = tests.get(cell.source, untested)
            by_seed = study.scores(cell) - study.scores(baseline)
            p_cases = _test_over_cases(study, cell, baseline)
            difference = Difference(spread(by_seed).mean, by_seed, interval, p, p_paired, p_cases)
        results.append(_describe(study, cell, difference, cell.source in unstable))
    return Comparison(study, results, inference, why_not)


def resample_differences(study: Study, baseline: Cell, cells: list[Cell], seed: int = 0) -> np.ndarray:
    """Return the differences from the baseline on bootstrap samples of the cases: (samples, cells), means over seeds.

    Cases (or groups of them) are drawn within their fold, the same for all cells and seeds.
    """
    totals = np.zeros((len(cells) + 1, NUM_SAMPLES))
    for fold in study.folds:
        weights: dict[str, np.ndarray] = {}
        for i, cell in enumerate((baseline, *cells)):
            for run in study.runs_of(cell):
                if run.fold != fold:
                    continue
                assert run.table is not None
                if not weights:
                    drawn = draw_weights(run.table.units, NUM_SAMPLES, seed + fold)
                    weights = dict(zip(run.table.cases, drawn.T, strict=True))
                aligned = np.stack([weights[case] for case in run.table.cases], axis=1)
                totals[i] += run.table.score(aligned) / (len(study.folds) * len(study.seeds))
    return (totals[1:] - totals[0]).T


def spread(values: np.ndarray) -> Spread:
    """Return mean and sd of the finite values; the sd of one value is NaN."""
    values = values[np.isfinite(values)]
    return Spread(
        float(values.mean()) if len(values) else math.nan,
        float(values.std(ddof=1)) if len(values) > 1 else math.nan,
    )


def _why_not(study: Study, tested: list[Cell]) -> str:
    if len(study.seeds) < 2:
        return (
            "One seed: training noise is unknown, so no difference below is tested. Add seeds (sweep.seeds) and run "
            "the sweep again; finished runs are kept."
        )
    if not study.is_complete(study.baseline):
        return f"The baseline, {study.baseline.name}, lacks runs: nothing is tested until it is complete."
    if not tested:
        return "No cell besides the baseline is complete: nothing is tested."
    return ""


def _describe(study: Study, cell: Cell, difference: Difference | None, is_unstable: bool) -> CellResult:
    runs = study.runs_of(cell)
    folds = len(study.folds) > 1
    missing = [f"seed {r.seed}{f' fold {r.fold}' if folds else ''}: {r.missing}" for r in runs if r.missing]
    memory = [run.memory_gb for run in runs if math.isfinite(run.memory_gb)]
    scores = study.scores(cell)
    return CellResult(
        cell,
        len(runs) - len(missing),
        len(runs),
        missing,
        scores,
        spread(scores),
        spread(study.by_seed(cell, lambda run: run.train_score - run.score)),
        spread(study.by_seed(cell, lambda run: run.minutes)),
        max(memory, default=math.nan),
        difference,
        is_unstable,
    )


def _test_over_cases(study: Study, cell: Cell, baseline: Cell) -> float:
    """Return Wilcoxon's p over the cases of all folds, of their means over seeds; NaN for a metric without such."""
    means = []
    for each in (cell, baseline):
        values: dict[str, list[float]] = {}
        for run in study.runs_of(each):
            found = None if run.table is None else run.table.case_values()
            if run.table is None or found is None:
                return math.nan
            for case, value in zip(run.table.cases, found.tolist(), strict=True):
                values.setdefault(case, []).append(value)
        means.append({case: float(np.mean(v)) for case, v in values.items()})
    cases = sorted(means[0].keys() & means[1].keys())
    return wilcoxon_over_cases(*(np.array([mean[case] for case in cases]) for mean in means))

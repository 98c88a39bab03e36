"""Error rates of the comparison of a sweep's cells, on simulated studies: python -m benchmarks.inference [--json FILE]

Scores of cells under seeds are drawn with normal errors. The «seed-sd» is the standard deviation of one cell's score
over seeds; that of a paired difference is √2 times as large, less where all cells of a seed share a part of their
error («shared», as a part of the variance; 0 is the worst case).

It prints the family-wise error (the share of studies without any difference in which some cell is found to differ; the
target is 5 %), the power (how often a true difference of 3 seed-sd in one cell is found), and how often intervals
contain the true difference. The shipped test is compared with two others: a paired t test of each cell with Holm's
correction, and Dunnett's test with the noise of all cells pooled, without the shipped test's cautions.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import stats

from benchmarks.shared.command import make_parser, write_rows
from engine.metrics.bootstrap import draw_weights
from studies.comparison.significance import (
    Comparisons,
    crossed_intervals,
    dunnett_critical,
    estimate_noise,
    wilcoxon_over_cases,
)

Test = Callable[[np.ndarray], np.ndarray]  # scores (studies, cells, seeds), baseline first -> found (studies, k)

EFFECT = 3.0  # in seed-sd
NUM_CASES = 40
_EQUAL = "equal noise"
_UNSTABLE = "one cell × 30"


def noises(num_cells: int) -> dict[str, np.ndarray]:
    """Standard deviations (cells,) of seeds by name, the baseline's first."""
    equal = np.ones(num_cells)
    one, baseline, others, collapse, both = (equal.copy() for _ in range(5))
    one[-1], baseline[0], others[1::2] = 3, 2, 0.3
    collapse[-1], both[[0, -1]] = 30, 30
    return {
        _EQUAL: equal,
        "one cell × 3": one,
        "baseline × 2": baseline,
        "every second × 0.3": others,
        "1/2 to 2, baseline most": np.linspace(2, 0.5, num_cells),
        _UNSTABLE: collapse,
        "baseline and a cell × 30": both,
    }


def draw_scores(
    random: np.random.Generator, num_studies: int, sds: np.ndarray, num_seeds: int, shared: float = 0.0
) -> np.ndarray:
    """Return scores (studies, cells, seeds) without a difference between cells: over seeds, of the variances sds²."""
    own = random.standard_normal((num_studies, len(sds), num_seeds)) * sds[:, None]
    common = random.standard_normal((num_studies, 1, num_seeds))
    return np.sqrt(1 - shared) * own + np.sqrt(shared) * common


def shipped(scores: np.ndarray) -> np.ndarray:
    """Return what `studies.comparison.significance.compare_with_baseline` finds at p < 0.05 in many studies."""
    noise = estimate_noise(scores)
    errors = np.sqrt(noise.variances / scores.shape[2])
    return _mean_difference(scores) > errors * _critical(scores.shape[1] - 1, noise.degrees)


def paired_holm(scores: np.ndarray) -> np.ndarray:
    """Return what a paired t test of each cell finds, with Holm's correction."""
    p = stats.ttest_rel(scores[:, 1:], scores[:, :1], axis=2).pvalue
    order = p.argsort(axis=1)
    corrected = np.maximum.accumulate(np.take_along_axis(p, order, 1) * np.arange(p.shape[1], 0, -1), axis=1)
    found = np.empty(p.shape, bool)
    np.put_along_axis(found, order, corrected < 0.05, 1)
    return found


def pooled_dunnett(scores: np.ndarray) -> np.ndarray:
    """Return what Dunnett's test finds with one residual variance, pooled over all cells."""
    _, cells, seeds = scores.shape
    residuals = scores - scores.mean(axis=2, keepdims=True) - scores.mean(axis=1, keepdims=True)
    residuals += scores.mean(axis=(1, 2), keepdims=True)
    degrees = (cells - 1) * (seeds - 1)
    errors = np.sqrt(2 * (residuals**2).sum(axis=(1, 2)) / degrees / seeds)
    return _mean_difference(scores) > errors[:, None] * dunnett_critical(cells - 1, degrees)


def _mean_difference(scores: np.ndarray) -> np.ndarray:
    """Return the absolute differences (studies, k)."""
    return abs((scores[:, 1:] - scores[:, :1]).mean(axis=2))


TESTS: dict[str, Test] = {"shipped": shipped, "paired t + Holm": paired_holm, "pooled Dunnett": pooled_dunnett}


def error_rate(test: Test, scores: np.ndarray) -> float:
    """Return the share of studies in which a difference is found."""
    return float(test(scores).any(axis=1).mean())


def power(test: Test, scores: np.ndarray, effect: float = EFFECT) -> float:
    """Return how often a cell that is `effect` better than in `scores` is found."""
    scores = scores.copy()
    scores[:, 1] += effect
    return float(test(scores)[:, 0].mean())


@lru_cache(maxsize=64)
def _critical_table(num_comparisons: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    degrees = np.geomspace(low, high, 12)
    return np.log(degrees), np.array([dunnett_critical(num_comparisons, float(d)) for d in degrees])


def _critical(num_comparisons: int, degrees: np.ndarray) -> np.ndarray:
    """Return critical values for degrees of freedom (studies, k), interpolated in a table."""
    log_degrees, values = _critical_table(num_comparisons, float(degrees.min()), float(degrees.max()) + 1e-9)
    return np.interp(np.log(degrees), log_degrees, values)


def measure_cases(
    random: np.random.Generator,
    num_studies: int,
    num_cells: int,
    num_seeds: int,
    case_effect: float,
    num_groups: int = NUM_CASES,
) -> dict[str, float]:
    """Return error rates of p, intervals and Wilcoxon's test over cases on simulated cases; no cell truly differs.

    Errors in seed-sd: 10 of each of NUM_CASES cases, in all cells; 1 of each trained network, and another 3 of it on
    each case; `case_effect` of each cell on each case, the same for all seeds, of mean 0 over all cases. Three
    quarters of the latter's variance are shared by the cases of a group, which are drawn together.
    Returns how often some p is below 0.05; how often all intervals of a study contain 0, and how often they would if
    groups were ignored; how often one given does; how often a percentile interval of resampled seeds and cases does;
    and how often Wilcoxon's test finds a difference that only the training made.
    """
    groups, rates = np.arange(NUM_CASES) * num_groups // NUM_CASES, np.zeros(6)

    def draw(*shape: int) -> np.ndarray:
        """Effects (*shape, cases) of variance 1."""
        if num_groups == NUM_CASES:
            return random.standard_normal((*shape, NUM_CASES))
        of_groups, own = random.standard_normal((*shape, num_groups)), random.standard_normal((*shape, NUM_CASES))
        return np.sqrt(0.75) * of_groups[..., groups] + np.sqrt(0.25) * own

    for study in range(num_studies):
        noise = random.standard_normal((num_cells, num_seeds, 1))
        noise = noise + 3 * random.standard_normal((num_cells, num_seeds, NUM_CASES))
        values = noise + 10 * draw() + case_effect * draw(num_cells, 1)
        scores, differences = values.mean(axis=2), values[1:] - values[:1]  # (k, seeds, cases)
        all_hold = []
        for units in (np.arange(NUM_CASES), groups)[num_groups == NUM_CASES :]:
            weights = draw_weights(units.tolist(), 500, study) / NUM_CASES
            resampled = weights @ differences.mean(axis=1).T
            intervals = crossed_intervals(_test(scores), resampled, len(set(units.tolist())) - 1, 4000)
            holds = (intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)
            all_hold.append(holds.all())
        drawn = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), 500) / num_seeds
        low, high = np.percentile(np.einsum("bs,sc,bc->b", drawn, differences[0], weights), [2.5, 97.5])
        by_case = noise.mean(axis=1)
        rejects = wilcoxon_over_cases(by_case[1], by_case[0]) < 0.05
        rates += [shipped(scores[None]).any(), all_hold[-1], all_hold[0], holds[0], low <= 0 <= high, rejects]
    names = ("some p < 0.05", "all intervals", "groups ignored", "one interval", "resampled seeds", "Wilcoxon's error")
    return dict(zip(names, (rates / num_studies).tolist(), strict=True))


def _test(scores: np.ndarray) -> Comparisons:
    """Return what `compare_with_baseline` does, without its p values, which take most of its time."""
    noise = estimate_noise(scores[None])
    nothing = np.zeros(len(scores) - 1)
    errors = np.sqrt(noise.variances[0] / scores.shape[1])
    differences = (scores[1:] - scores[0]).mean(axis=1)
    return Comparisons(differences, errors, noise.degrees[0], nothing, nothing, 0.0, nothing > 0)


def measure(num_studies: int, num_case_studies: int, seed: int = 0) -> list[dict[str, float | int | str]]:
    """Return rows of {"measure", "cells", "seeds", "noise", one value of each test}."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, float | int | str]] = []
    for num_cells in (4, 8, 31) if num_studies else ():
        for num_seeds in (2, 3, 5):
            head = {"cells": num_cells, "seeds": num_seeds}
            for noise, sds in noises(num_cells).items():
                scores = draw_scores(random, num_studies, sds, num_seeds)
                found = {name: error_rate(test, scores) for name, test in TESTS.items()}
                rows.append({"measure": "family-wise error", **head, "noise": noise, **found})
            for shared in (0.0, 0.5):
                scores = draw_scores(random, num_studies, np.ones(num_cells), num_seeds, shared)
                found = {name: power(test, scores) for name, test in TESTS.items()}
                rows.append({"measure": "power", **head, "noise": f"{_EQUAL}, {shared:.0%} shared", **found})
            scores = draw_scores(random, num_studies, noises(num_cells)[_UNSTABLE], num_seeds)
            found = {name: power(test, scores) for name, test in TESTS.items()}
            rows.append({"measure": "power", **head, "noise": f"{_UNSTABLE}, of the others", **found})
    for case_effect, num_groups in product((0.0, 3.0, 6.0), (NUM_CASES, 20, 10, 5)):
        for num_seeds in (3, 5):
            fresh = np.random.default_rng(seed)  # each kind's numbers are independent of the others'
            found = measure_cases(fresh, num_case_studies, 8, num_seeds, case_effect, num_groups)
            noise = f"effects of {case_effect:g}, {num_groups} groups"
            rows.append({"measure": "coverage", "cells": 8, "seeds": num_seeds, "noise": noise, **found})
    return rows


def format_rows(rows: list[dict[str, float | int | str]]) -> str:
    lines, last = [], None
    for row in rows:
        if row["measure"] != last:
            last = row["measure"]
            names = [name for name in row if name not in ("measure", "cells", "seeds", "noise")]
            lines += ["", f"{last:<20}{'cells':>6}{'seeds':>6}  {'noise':<26}" + "".join(f"{n:>17}" for n in names)]
        values = "".join(f"{row[name]:>17.1%}" for name in names)
        lines.append(f"{'':<20}{row['cells']:>6}{row['seeds']:>6}  {row['noise']:<26}{values}")
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--studies", type=int, default=10_000, help="of each kind (default: 10000; 0: none)")
    parser.add_argument("--case-studies", type=int, default=250, help="those that draw cases too (default: 250)")
    arguments = parser.parse_args()
    rows = measure(arguments.studies, arguments.case_studies)
    print(format_rows(rows))
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()

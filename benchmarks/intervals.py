"""How often 95 % intervals of a mean over cases contain the true mean, on simulated Dice.

python -m benchmarks.intervals [--studies 2000]

Cases are skewed, as Dice is: 1 less a gamma variable, or a tenth of the cases failing. Patients have one scan or five,
which then share three quarters of their variance. Many studies of each kind are drawn, and for each all intervals are
computed: the percentile bootstrap of cases, that of whole groups, BCa of groups (Efron 1987, J. Am. Stat. Assoc.
82:171), and the studentised bootstrap of groups, which `engine.metrics.means` ships (here without its refusal of few
groups).
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy import stats

from engine.metrics.bootstrap import draw_weights
from engine.metrics.means import means_and_errors, studentised_interval

Draw = Callable[[np.random.Generator, int], np.ndarray]
NAMES = ("percentile, cases", "percentile, groups", "BCa, groups", "studentised, groups")


def skewed(random: np.random.Generator, size: int) -> np.ndarray:
    """Draw Dice of a task that mostly works: mean 0.88, skewness -2."""
    return 1 - 0.12 * random.gamma(1.0, 1.0, size)


def failing(random: np.random.Generator, size: int) -> np.ndarray:
    """Draw Dice of a task where one case in ten fails: 0.90 ± 0.03, or 0.4 ± 0.2."""
    works = random.normal(0.90, 0.03, size)
    return np.where(random.random(size) < 0.1, random.normal(0.4, 0.2, size), works)


KINDS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda random, size: random.normal(0.88, 0.05, size), 0.88),
    "skewed": (skewed, 0.88),
    "a tenth fails": (failing, 0.85),
}


def draw_study(random: np.random.Generator, kind: str, num_groups: int, scans: int) -> tuple[np.ndarray, np.ndarray]:
    """Return values (N,) and their groups (N,): patients with `scans` scans each."""
    draw, mean = KINDS[kind]
    groups = np.repeat(np.arange(num_groups), scans)
    patients = draw(random, num_groups)[groups]
    if scans == 1:
        return patients, groups
    own = draw(random, len(groups))
    return mean + np.sqrt(0.75) * (patients - mean) + np.sqrt(0.25) * (own - mean), groups


def intervals(values: np.ndarray, groups: np.ndarray, num_samples: int, seed: int) -> list[tuple[float, float]]:
    """Return the interval of each of NAMES."""
    num_groups = int(groups[-1]) + 1
    of_cases = draw_weights(range(len(values)), num_samples, seed) @ values / len(values)
    sums, counts = np.bincount(groups, values)[:, None], np.bincount(groups).astype(float)[:, None]
    weights = np.concatenate([np.ones((1, num_groups)), draw_weights(range(num_groups), num_samples, seed)])
    means, errors = (column[:, 0] for column in means_and_errors(weights, sums, counts))
    percentiles = [tuple(np.percentile(samples, [2.5, 97.5])) for samples in (of_cases, means[1:])]
    left_out = (sums.sum() - sums[:, 0]) / (counts.sum() - counts[:, 0])  # jackknife
    bend = left_out.mean() - left_out
    acceleration = (bend**3).sum() / (6 * (bend**2).sum() ** 1.5)
    bias = stats.norm.ppf(np.clip((means[1:] < means[0]).mean(), 1e-4, 1 - 1e-4))
    z = bias + stats.norm.ppf([0.025, 0.975])
    bca = np.percentile(means[1:], 100 * stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return [*percentiles, tuple(bca), studentised_interval(means, errors)]


def coverage(kind: str, num_groups: int, scans: int, num_studies: int, num_samples: int = 1000) -> np.ndarray:
    """Return how often each of NAMES contains the mean: (4,)."""
    random, (_, mean) = np.random.default_rng([num_groups, scans]), KINDS[kind]
    holds = np.zeros(len(NAMES))
    for study in range(num_studies):
        found = intervals(*draw_study(random, kind, num_groups, scans), num_samples, study)
        holds += [low <= mean <= high for low, high in found]
    return holds / num_studies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="of each kind (default: 2000)")
    num_studies = parser.parse_args().studies
    print(f"{'cases':<16}{'groups':>7}{'scans':>6}" + "".join(f"{name:>22}" for name in NAMES))
    for kind in KINDS:
        for num_groups, scans in ((5, 1), (10, 1), (20, 1), (42, 1), (10, 5), (20, 5), (42, 5)):
            found = "".join(f"{rate:>22.1%}" for rate in coverage(kind, num_groups, scans, num_studies))
            print(f"{kind:<16}{num_groups:>7}{scans:>6}{found}", flush=True)


if __name__ == "__main__":
    main()

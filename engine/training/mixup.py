"""Mixup: training on weighted means of two cases."""

import mlx.core as mx
import numpy as np

_STEPS = 4096  # of the table of quantiles, whose error in a weight is below 1/4096
_STREAM = 1  # added to the seed, from which the network's first weights are drawn


class Mixup:
    """Blends each case of a batch with another case; one weight for the whole batch follows Beta(alpha, alpha).

    mixup(x) returns the blends, the partners' indices (N,) and the weight of x, which blends the losses too. A small
    alpha leaves most batches nearly unchanged; under 1 all weights are equally likely. Draws depend on `state`, a
    tree of one array that mx.compile can capture, and not on `mx.random`: networks with different dropout see the same
    blends. MLX has no Beta distribution, so a uniform number selects one of its quantiles. Zhang et al. 2018,
    arXiv:1710.09412.
    """

    def __init__(self, alpha: float, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        """Set up process `rank` of `world`, which share the state and draw different numbers.

        Raises ValueError unless alpha is above 0.
        """
        if not alpha > 0:
            raise ValueError(f"mixup needs an alpha above 0; got {alpha}")
        from scipy.stats import beta  # takes half a second to import, so only where it is needed

        quantiles = beta.ppf((np.arange(_STEPS) + 0.5) / _STEPS, alpha, alpha)
        self._quantiles = mx.array(quantiles.astype(np.float32))
        self._rank, self._world = rank, world
        key = np.random.SeedSequence([seed, _STREAM]).generate_state(2, np.uint32)
        self.state: dict[str, mx.array] = {"key": mx.array(key)}  # (2,) uint32

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        self.state["key"], key = mx.random.split(self.state["key"])
        for_weight, for_partners = mx.random.split(mx.random.split(key, self._world)[self._rank])
        weight = self._quantiles[mx.random.randint(0, _STEPS, (), key=for_weight)]  # float32 scalar
        partners = mx.random.permutation(x.shape[0], key=for_partners)
        blend = weight.astype(x.dtype)
        return blend * x + (1 - blend) * x[partners], partners, weight

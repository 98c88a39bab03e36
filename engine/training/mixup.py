"""Mixup: training on blends of two cases."""

import mlx.core as mx
import numpy as np

_STEPS = 4096  # of the table of quantiles: what it adds to a weight's error is below 1/4096
_STREAM = 1  # beside the seed: the network's first weights are drawn from the seed itself


class Mixup:
    """Blends each case of a batch with another one, all by one weight that follows Beta(alpha, alpha).

    mixup(x) returns the blends, the partners' indices (N,) and the weight of x itself, which the loss is blended
    by as well. Small alphas leave most batches nearly as they are; 1 makes every weight as likely. Draws depend
    on `state`, a tree of one array that mx.compile can capture, and never on `mx.random`'s: networks that draw
    otherwise, as dropout of another kind does, see the same blends. MLX draws no Beta variates, so a uniform one
    is looked up among the distribution's quantiles. Zhang et al. 2018, arXiv:1710.09412.
    """

    def __init__(self, alpha: float, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        """`rank` of `world` processes, which share the state and draw each its own.

        Raises ValueError unless alpha is above 0.
        """
        if not alpha > 0:
            raise ValueError(f"mixup needs an alpha above 0; got {alpha}")
        from scipy.stats import beta  # takes half a second to import: only where it is used

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

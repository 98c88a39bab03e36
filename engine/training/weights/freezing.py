"""Freezes parameters, for the whole run or until one of its steps."""

import math

import mlx.nn as nn
from mlx.utils import tree_flatten

from configs.schema.weights import FreezeConfig
from engine.training.weights.names import matching


class Freezing:
    """The parameters of a model that `freeze` names, frozen from the first `set_step` on; without a config none.

    names         of these parameters
    thaw_at_step  the number of updates after which they are trained; infinite: never

    Raises ValueError for a pattern that matches nothing, and where no parameter is left to train.
    """

    def __init__(self, model: nn.Module, config: FreezeConfig | None = None) -> None:
        self._config = config
        self._frozen: list[tuple[nn.Module, list[str]]] = []  # layers, and the keys of their own parameters
        self._norms: list[tuple[str, nn.BatchNorm]] = []
        self.names: set[str] = set()
        self.thaw_at_step = math.inf
        self.is_frozen = False
        if config is None:
            return
        self.thaw_at_step = config.thaw_at_step or math.inf
        parameters = dict(tree_flatten(model.parameters()))
        trained = dict(tree_flatten(model.trainable_parameters()))
        matched = set().union(*(matching(p, parameters, "freeze.patterns") for p in config.patterns))
        for path, layer in model.named_modules():
            prefix = f"{path}." if path else ""
            keys = [key for key in layer if f"{prefix}{key}" in matched & trained.keys()]
            if keys:
                self._frozen.append((layer, keys))
                self.names |= {f"{prefix}{key}" for key in keys}
            if isinstance(layer, nn.BatchNorm) and any(f"{prefix}{key}" in matched for key in layer):
                self._norms.append((path, layer))
        if self.names == trained.keys():
            raise ValueError(
                f"freeze.patterns={list(config.patterns)} match all parameters, so nothing would be trained; "
                "leave the head out"
            )
        self._frozen_size = sum(trained[name].size for name in self.names)
        self._size = sum(p.size for p in trained.values())

    def set_step(self, step: float) -> bool:
        """Freeze or thaw as is due after `step` updates; return whether that changed anything."""
        freeze = self._config is not None and (step < self.thaw_at_step or math.isinf(self.thaw_at_step))
        if freeze == self.is_frozen:
            return False
        for layer, keys in self._frozen:
            (layer.freeze if freeze else layer.unfreeze)(keys=keys, recurse=False)
        self.is_frozen = freeze
        return True

    def hold_statistics(self) -> None:
        """Put the batch norms whose statistics are frozen into evaluation mode, and the others into training mode."""
        for _, norm in self._norms:
            norm.train(not self._holds)

    @property
    def held_statistics(self) -> set[str]:
        """The names of the running statistics that are frozen now."""
        keys = ("running_mean", "running_var")
        return {f"{path}.{key}" if path else key for path, _ in self._norms for key in keys if self._holds}

    @property
    def _holds(self) -> bool:
        return self.is_frozen and self._config is not None and self._config.norm_statistics

    def __str__(self) -> str:
        if self._config is None:
            return "nothing"
        text = f"{self._frozen_size:,} of {self._size:,} parameters ({', '.join(self._config.patterns)})"
        if self._norms and self._config.norm_statistics:
            text += f" and the statistics of {len(self._norms)} batch norms"
        return text if math.isinf(self.thaw_at_step) else f"{text}, until step {self.thaw_at_step}"

"""What the network predicts of a case: a label volume, a class, or several classes that may coincide."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.layouts.cases import Case, some
from data.sampling.order import balanced_order, epoch_order

_log = logging.getLogger("mlx_volumes")


class Target:
    """A case's label in training and evaluation; here a label volume: y (D, H, W) uint8 or int32 is cut with x."""

    def check(self, splits: Mapping[str, Sequence[Case]]) -> None:
        """Warn where a split lacks a class; in label volumes that shows only in the voxels."""

    def statistics(self) -> dict[str, Any]:
        """Return what a run must know of the labels beside their names, JSON-able."""
        return {}

    def count(self, cases: Sequence[Case]) -> list[int]:
        """Return the cases of each class; unlabelled ones count nowhere. Empty for label volumes."""
        return []

    def order(self, cases: Sequence[Case], seed: int, epoch: int) -> list[int]:
        """Return the cases' indices in the order of an epoch."""
        return epoch_order(len(cases), seed, epoch)

    def encode(self, case: Case, labels: np.ndarray | None) -> np.ndarray:
        """Return y of a sample; `labels` are those that were cut with it."""
        assert labels is not None, f"case {case.id} has no label volume"
        return labels

    def join(self, case: Case, loaded: Any) -> Any:
        """Return what the input loaded for evaluation, with the label; a `Prepared` has it already."""
        return loaded


@dataclass(frozen=True, eq=False)
class Views:
    """A case as the network sees it in evaluation, where its predictions for all views are averaged."""

    id: str
    views: np.ndarray  # (V, D, H, W, C) float32; V is 1 for volumes, clips × crops for video
    label: int | np.ndarray | None  # class number; with classes that may coincide (K,) float32 of 0 and 1
    group: str | None


class Classes(Target):
    """A class for each case, y () int32; or, `multi_label`, classes that may coincide, y (K,) float32 of 0 and 1.

    `balanced`: an epoch draws as many cases of each class (data.balance=classes).
    """

    def __init__(self, class_names: Sequence[str], multi_label: bool, balanced: bool) -> None:
        if multi_label and balanced:
            raise ValueError("data.balance=classes needs one class a case; weigh the classes in the loss instead")
        self._class_names, self._multi_label, self._balanced = class_names, multi_label, balanced

    def check(self, splits: Mapping[str, Sequence[Case]]) -> None:
        for name, cases in splits.items():
            counts = self.count(cases)
            missing = [label for label, count in zip(self._class_names, counts, strict=True) if not count]
            if missing and any(counts):
                _log.warning("split %s has no case of %s", name, some(missing))

    def statistics(self) -> dict[str, Any]:
        return {"multi_label": self._multi_label}

    def count(self, cases: Sequence[Case]) -> list[int]:
        return [sum(k in case.classes for case in cases) for k in range(len(self._class_names))]

    def order(self, cases: Sequence[Case], seed: int, epoch: int) -> list[int]:
        if not self._balanced:
            return super().order(cases, seed, epoch)
        return balanced_order([int(self.encode(case)) for case in cases], seed, epoch)

    def encode(self, case: Case, labels: np.ndarray | None = None) -> np.ndarray:
        return np.array(case.label, np.float32 if self._multi_label else np.int32)

    def join(self, case: Case, loaded: Any) -> Views:
        label: Any = case.label
        if self._multi_label and label is not None:
            label = self.encode(case)
        return Views(case.id, loaded, label, case.group)

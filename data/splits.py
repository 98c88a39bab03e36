"""Which cases train, validate and test."""

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from configs import Config
from configs.schema.data import Split
from data.layouts.cases import Case, some
from data.layouts.registry import list_cases

_log = logging.getLogger("mlx_volumes")
Splits = dict[str, list[str]]  # "train", "val", "test" -> case ids, sorted


def make_splits(cases: Sequence[Case], split: Split, fold: int, seed: int) -> Splits:
    """Return case ids by split, sorted, the same for a seed whatever the order of the cases.

    The folds of `kfold` are the source's own, where it has any. For `kfold` and `ratio`, cases without a label
    and those that the source calls `test` are never drawn: they are in `test`. Every other case is in `val` of
    exactly one of the folds; fold sizes differ by one at most, or, with `by_group` and groups, as little as whole
    groups allow. Cases with a label to train on but none to score against are in each `train`. Where cases have
    classes, each part also gets its share of each, for which fold sizes may differ by two. For `lists` and `given`,
    a case that is not named is in no split. Warns where a group's cases are in several splits. Raises ValueError.
    """
    splits = _make_splits(cases, split, fold, seed)
    _require_train_labels(cases, splits)
    _warn_of_torn_groups(cases, splits)
    return splits


def count_validation_cases(config: Config) -> int:
    """Return how many labelled cases the config's split leaves for validation; no file of a case is opened.

    Raises ValueError where cases are not found, or cannot be split like that.
    """
    cases = list_cases(config).cases
    validating = set(make_splits(cases, config.data.split, config.data.fold, config.data.split.seed)["val"])
    return sum(case.id in validating and case.label is not None for case in cases)


def _make_splits(cases: Sequence[Case], split: Split, fold: int, seed: int) -> Splits:
    if split.kind == "lists":
        return _checked(_listed(cases, split), cases, "data.split.train")
    if split.kind == "given":
        return _checked(_given(cases), cases, "the source's own split")
    drawn = [case for case in cases if case.label is not None and case.split != "test"]
    own_folds = split.kind == "kfold" and any(case.fold for case in drawn)
    if any(case.split for case in drawn):
        _log.warning("data.split.kind=%s draws a new split; the source's own needs data.split.kind=given", split.kind)
    elif split.kind == "ratio" and any(case.fold for case in drawn):
        _log.warning("data.split.kind=ratio draws a new split; the source's folds need data.split.kind=kfold")
    units = _units(drawn, split.by_group)
    counted = _counted(drawn)
    weak = [case.id for case in cases if case.label is None and case.train_label is not None and case.split != "test"]
    kept = {*weak, *(case.id for case in drawn)}
    test = sorted(case.id for case in cases if case.id not in kept)
    if split.kind == "kfold":
        targets = [len(drawn) / split.folds] * split.folds
        parts = _own_folds(drawn, split.folds) if own_folds else _deal(units, targets, counted, seed)
        if not all(parts):
            raise ValueError(
                f"data.split.folds={split.folds} needs as many labelled cases or groups, there are {len(units)}"
            )
        train = [case for number, part in enumerate(parts) if number != fold for case in part]
        return {"train": sorted(train + weak), "val": sorted(parts[fold]), "test": test}
    parts = _deal(units, _counts(len(drawn), split.ratio), counted, seed)
    for name, share, part in zip(("train", "val", "test"), split.ratio, parts, strict=True):
        if share and not part:
            raise ValueError(
                f"data.split.ratio={list(split.ratio)} leaves no case for {name}: there are {len(drawn)} labelled "
                f"cases in {len(units)} groups"
            )
    return {"train": sorted(parts[0] + weak), "val": sorted(parts[1]), "test": sorted(test + parts[2])}


def _own_folds(cases: Sequence[Case], folds: int) -> list[list[str]]:
    """Return the ids of the cases of each of the source's folds, in the order of their numbers or names."""
    if missing := [case.id for case in cases if case.fold is None]:
        raise ValueError(f"no fold for {some(missing)}; fill in their cells, or set split=test in their rows")
    names = fold_names(cases)
    if len(names) != folds:
        fix = f"set data.split.folds={len(names)}" if len(names) > 1 else "choose another with data.columns.fold"
        raise ValueError(f"data.split.folds={folds}: the column of folds holds {some(names)}; {fix}")
    return [[case.id for case in cases if case.fold == name] for name in names]


def fold_names(cases: Iterable[Case]) -> list[str]:
    """Return the names of the source's folds, by number where they are numbers."""
    names = {case.fold for case in cases if case.fold is not None}
    return sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))


def _units(cases: Iterable[Case], by_group: bool) -> list[list[str]]:
    """Return what moves as one, a group's cases or a single case; sorted, so that the order of files has no effect."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for case in cases:
        grouped = by_group and case.group is not None
        groups.setdefault((grouped, str(case.group) if grouped else case.id), []).append(case.id)
    return [sorted(groups[key]) for key in sorted(groups)]


def _counted(cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """Return for each case 1, and 1 or 0 for each class: what the parts share evenly."""
    num_classes = 1 + max((max(case.classes, default=-1) for case in cases), default=-1)
    return {case.id: np.array([1.0, *(float(k in case.classes) for k in range(num_classes))]) for case in cases}


def _deal(
    units: list[list[str]], targets: Sequence[float], counted: Mapping[str, np.ndarray], seed: int
) -> list[list[str]]:
    """Deal out the shuffled units, large ones first, each to the part that lacks most of what it holds.

    Greedy, as scikit-learn's StratifiedGroupKFold is, but for parts of any size and for classes that coincide.
    What a part lacks is weighed against how much of it there is, so that rare classes are shared out as evenly
    as frequent ones.
    """
    held = np.array([np.sum([counted[case_id] for case_id in unit], axis=0) for unit in units])  # (units, 1 + classes)
    totals = np.maximum(held.sum(axis=0), 1) if len(units) else np.ones(1)
    lacking = np.outer(np.array(targets) / max(sum(targets), 1), totals)  # (parts, 1 + classes)
    parts: list[list[str]] = [[] for _ in targets]
    order = np.random.default_rng(seed).permutation(len(units))
    for index in sorted(order, key=lambda index: -len(units[index])):  # sorted is stable: ties stay shuffled
        best = int(np.argmax(np.round(lacking @ (held[index] / totals**2), 12)))
        lacking[best] -= held[index]
        parts[best] += units[index]
    return parts


def _counts(total: int, ratio: Sequence[float]) -> list[int]:
    """Return whole numbers in the given ratio that add up to `total`, by largest remainder."""
    exact = np.array(ratio) / sum(ratio) * total
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    return counts.tolist()


def _listed(cases: Sequence[Case], split: Split) -> Splits:
    known = [case.id for case in cases]
    seen: dict[str, str] = {}
    for name in ("train", "val", "test"):
        for case_id in getattr(split, name):
            if case_id not in known:
                near = difflib.get_close_matches(case_id, known, n=1, cutoff=0) or ["none"]
                raise ValueError(f"data.split.{name}: no case {case_id!r}; the nearest is {near[0]!r}")
            if case_id in seen:
                raise ValueError(f"data.split.{name}: case {case_id!r} is in data.split.{seen[case_id]} already")
            seen[case_id] = name
    return {name: sorted(getattr(split, name)) for name in ("train", "val", "test")}


def _given(cases: Sequence[Case]) -> Splits:
    splits: Splits = {"train": [], "val": [], "test": []}
    for case in cases:
        if case.split is not None:
            splits[case.split].append(case.id)
    if not any(splits.values()):
        folds = fold_names(cases)
        fix = f"use kfold with data.split.folds={len(folds)}" if folds else "use kfold, ratio or lists"
        raise ValueError(f"data.split.kind=given: the source gives no split; {fix}")
    return {name: sorted(ids) for name, ids in splits.items()}


def _require_train_labels(cases: Sequence[Case], splits: Splits) -> None:
    """Raise ValueError where some cases have a label to train on, but not all of those that train."""
    weak = {case.id for case in cases if case.train_label is not None}
    if weak and (missing := sorted(set(splits["train"]) - weak)):
        raise ValueError(
            f"data.train_labels: none for {len(missing)} of the {len(splits['train'])} training cases: "
            f"{some(missing)}; add theirs, or say which cases train with data.split.kind=given or lists"
        )


def _warn_of_torn_groups(cases: Sequence[Case], splits: Splits) -> None:
    """Warn of groups in several splits: their cases are alike, so scores are optimistic."""
    found: dict[str, set[str]] = {}
    placed = {case_id: name for name, ids in splits.items() for case_id in ids}
    for case in cases:
        if case.group is not None and case.id in placed:
            found.setdefault(case.group, set()).add(placed[case.id])
    if torn := sorted(group for group, names in found.items() if len(names) > 1):
        _log.warning(
            "%d of %d groups have cases in several splits (%s): scores will be optimistic; use "
            "data.split.kind=kfold or ratio with data.split.by_group=true",
            len(torn),
            len(found),
            some(torn),
        )


def _checked(splits: Splits, cases: Sequence[Case], where: str) -> Splits:
    """Return the splits; raise ValueError without training cases, and for unlabelled cases in train or val."""
    if not splits["train"]:
        raise ValueError(f"{where}: no training case")
    labels = {"train": [case.to_train_on() for case in cases], "val": cases}
    for name, labelled in labels.items():
        unlabelled = {case.id for case in labelled if case.label is None}
        if missing := [case_id for case_id in splits[name] if case_id in unlabelled]:
            raise ValueError(f"split {name}: cases without a label: {some(missing)}; move them to test")
    placed = {case_id for ids in splits.values() for case_id in ids}
    if left_out := sorted(case.id for case in cases if case.id not in placed):
        _log.warning("in no split: %s", some(left_out))
    return splits

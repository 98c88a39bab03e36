"""Whether metadata, how files were made rather than what they show, predict the class."""

from collections.abc import Sequence

import numpy as np

from data.metadata import FEWEST, as_numbers, make_tree
from planning.survey.facts import Facts, Finding, Kind

TELLING = 0.2  # Cramér's V, or 2 × AUC - 1: facts that reach it are named
GAIN = 0.05  # of balanced accuracy over guessing, at least
FOLDS = 5


def find_shortcuts(surveyed: Sequence[Facts], kind: Kind) -> list[Finding]:
    """Find out whether metadata alone predict the class; return one finding, which names the metadata that do, or none.

    They predict it if a small decision tree, scored on folds that keep groups whole, beats guessing by more than two
    standard errors. Cases of one group and class count as one there: they are alike.
    """
    found = [(facts, facts.metadata()) for facts in surveyed if len(facts.classes) == 1]
    cases = [(facts, metadata) for facts, metadata in found if metadata]
    labels = np.array([facts.classes[0] for facts, _ in cases], int)
    groups = [f"group {facts.case.group}" if facts.case.group else facts.case.id for facts, _ in cases]
    classes, units = np.unique(labels), len(set(zip(groups, labels.tolist(), strict=True)))
    if len(classes) < 2 or units < FEWEST or np.bincount(labels)[classes].min() < FOLDS or len(set(groups)) < FOLDS:
        return []
    table = {name: [metadata[name] for _, metadata in cases] for name in cases[0][1]}
    table = {name: values for name, values in table.items() if len(set(values)) > 1}
    if not table:
        return []
    guess = 1 / len(classes)
    score = _score(np.stack([as_numbers(values) for values in table.values()], axis=1), labels, groups)
    if score - guess < max(GAIN, 2 * np.sqrt(guess * (1 - guess) / units)):
        return []
    ranked = sorted(((*_associate(values, labels), name) for name, values in table.items()), reverse=True)
    named = [f"{name} ({said})" for strength, said, name in ranked if strength >= TELLING] or [ranked[0][2]]
    others = "groups" if len(set(groups)) < len(groups) else "cases"
    gain = f"metadata alone give a balanced accuracy of {score:.2f} on other {others}, guessing gives {guess:.2f}"
    text = f"how the {kind.name} were made predicts their class: {', '.join(named)}; {gain}"
    advice = "A network can learn that instead of what they show: only what it does better counts"
    return [Finding(". ".join(filter(None, (text, advice, kind.advice))), brief=gain)]


def _associate(values: Sequence[float | str], labels: np.ndarray) -> tuple[float, str]:
    """Return how well one kind of metadata by itself tells the classes apart, 0 … 1, and that in words."""
    from scipy.stats.contingency import association  # costs half a second, and only classification needs it
    from sklearn.metrics import roc_auc_score

    numbers, classes = as_numbers(values), np.unique(labels)
    if isinstance(values[0], str):
        table = [[int((labels[numbers == kind] == c).sum()) for c in classes] for kind in np.unique(numbers)]
        strength = float(association(table, method="cramer"))
        return strength, f"Cramér's V {strength:.2f}"
    areas = [float(roc_auc_score(labels == c, numbers)) for c in classes]
    area = max(max(a, 1 - a) for a in areas)
    return 2 * area - 1, f"AUC {area:.2f}"


def _score(table: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> float:
    """Return the balanced accuracy of a small tree on table (cases, facts), cross-validated by group."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    return float(
        balanced_accuracy_score(labels, cross_val_predict(make_tree(), table, labels, groups=groups, cv=folds))
    )

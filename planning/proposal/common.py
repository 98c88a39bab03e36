"""Decisions that every plan begins with: the run's name, where the cases are, and who trains."""

import re
from collections.abc import Iterator

from configs.schema.data import Split
from data.layouts.cases import some
from machine.resources import available_threads
from planning.proposal.rules import Decision
from planning.survey.labelled import LabelledSurvey
from planning.survey.survey import Survey


def run_name(survey: Survey | LabelledSurvey) -> str:
    """A name for the run, of the data's path."""
    root = survey.config.data.root.resolve()
    name = root.stem if root.is_file() else root.name
    if survey.config.data.source == "csv" and root.is_file():
        name = f"{root.parent.name}_{name}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "planned"


def describe_source(survey: Survey | LabelledSurvey) -> Iterator[Decision]:
    """The keys that find the cases and name their classes."""
    data = survey.config.data
    yield Decision("data.source", data.source, "the layout found")
    yield Decision("data.root", str(data.root))
    if data.source == "folders":
        yield Decision("data.images", data.images)
        yield Decision("data.labels", data.labels)
    columns = data.columns.model_dump(mode="json", exclude_none=True)
    if columns:
        yield Decision("data.columns", columns)
    unnamed = "made up from the label values found" if isinstance(survey, Survey) else "the numbers found"
    why = "as the source names them" if survey.named else f"{unnamed}: put in your own"
    yield Decision("data.class_names", list(survey.class_names), why)
    if data.channels is not None:
        yield Decision("data.channels", list(data.channels))


def share_out(survey: Survey | LabelledSurvey, split: Split, num_train: int, num_val: int) -> Iterator[Decision]:
    """How cases are split, and what becomes of bad ones."""
    if split.kind == "given":
        yield Decision("data.split.kind", "given", f"the source's own: {num_train} cases train, {num_val} validate")
    else:
        groups = len({facts.case.group for facts in survey.cases if facts.case.group})
        whole = f"; {groups} groups stay whole" if groups else ""
        why = f"fold 0 trains on {num_train} cases, validates on {num_val}{whole}"
        yield Decision("data.split.kind", "kfold", why)
        yield Decision("data.split.folds", split.folds)
    if bad := sorted({problem.case_id for problem in survey.problems}):
        why = f"{len(bad)} cases cannot be used ({some(bad)}): see python -m planning.inspect"
        yield Decision("data.on_error", "skip", why)
    else:
        yield Decision("data.on_error", "stop", "no case has a problem today")


def count_workers() -> Decision:
    """Threads that read and augment."""
    cores = available_threads()
    return Decision("data.workers", max(1, min(8, cores - 1)), f"threads that augment; planned on {cores} cores")

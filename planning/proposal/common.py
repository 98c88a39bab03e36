"""What every planned config has: its head, where the cases are, and how they are split."""

import re
from collections.abc import Iterable, Iterator

from data.layouts.cases import some
from planning.proposal.cohort import Cohort
from planning.proposal.rules import Decision, Plan
from planning.survey.survey import Survey


def make_plan(
    cohort: Cohort, counted: str, memory: str, num_channels: int, opening: Iterable[Decision], rest: Iterable[Decision]
) -> Plan:
    """Return the plan of `counted` cases: the run's name, `opening`, where the cases are, and the `rest`.

    `memory` is what training takes, in words; `num_channels` is of the network's input.
    """
    survey, name = cohort.survey, _run_name(cohort.survey)
    head = (
        f"Planned from {counted} of {survey.config.data.root}; every value can be changed.",
        "  python train.py --config FILE --dry-run    checks it, shows a batch, prints memory and time",
        "  python train.py --config FILE",
        f"  python evaluate.py --run runs/{name}",
        f"Memory: about {memory} GB allowed.",
        *(f"To beat: {finding.brief}." for finding in survey.findings if finding.brief and not finding.case_ids),
        "Result: not yet measured.",
    )
    named = Decision("name", name, "the run's folder is runs/NAME")
    decisions = (named, *opening, *_describe_source(survey), *_share_out(cohort), *rest)
    return Plan(head, decisions, survey.target.task, num_channels, cohort.num_train, survey.class_names)


def _run_name(survey: Survey) -> str:
    """Return a name for the run, of the data's path."""
    root = survey.config.data.root.resolve()
    name = root.stem if root.is_file() else root.name
    if survey.config.data.source == "csv" and root.is_file():
        name = f"{root.parent.name}_{name}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "planned"


def _describe_source(survey: Survey) -> Iterator[Decision]:
    """Yield the keys that find the cases and name their classes."""
    data = survey.config.data
    yield Decision("data.source", data.source, "the layout found")
    yield Decision("data.root", str(data.root))
    if data.source == "folders":
        images = data.images if isinstance(data.images, str) else list(data.images)
        yield Decision("data.images", images, survey.files)
        yield Decision("data.labels", data.labels)
    if data.train_labels is not None:
        yield Decision("data.train_labels", data.train_labels, "trained on; scores are against the others")
    if data.dicom_series is not None:
        yield Decision("data.dicom_series", data.dicom_series)
    columns = data.columns.model_dump(mode="json", exclude_defaults=True)
    if columns:
        yield Decision("data.columns", columns)
    target = survey.target
    why = "as the source names them" if target.named else f"{target.unnamed}: put in your own"
    if data.regions is None:
        yield Decision("data.class_names", list(survey.class_names), why)
    else:
        regions = {name: list(values) for name, values in data.regions.items()}
        yield Decision("data.regions", regions, "the label values of each; each is predicted by itself")
        if data.region_values is not None:
            yield Decision("data.region_values", list(data.region_values), "written in this order")
    if data.label_map is not None:
        yield Decision("data.label_map", data.label_map, "classes and regions are those after it")
    if data.channels is not None:
        yield Decision("data.channels", list(data.channels))


def _share_out(cohort: Cohort) -> Iterator[Decision]:
    """Yield how cases are split, and what becomes of bad ones."""
    survey, split = cohort.survey, cohort.split
    if split.kind == "given":
        why = f"the source's own: {cohort.num_train} cases train, {cohort.num_val} validate"
        yield Decision("data.split.kind", "given", why)
    else:
        groups = len({facts.case.group for facts in survey.cases if facts.case.group})
        whole = f"; {groups} groups stay whole" if groups else ""
        why = f"fold 0 trains on {cohort.num_train} cases, validates on {cohort.num_val}{whole}"
        yield Decision("data.split.kind", "kfold", why)
        yield Decision("data.split.folds", split.folds)
    if bad := sorted({problem.case_id for problem in survey.problems}):
        why = f"{len(bad)} cases cannot be used ({some(bad)}): see python -m planning.inspect"
        yield Decision("data.on_error", "skip", why)
    else:
        yield Decision("data.on_error", "stop", "no case has a problem today")

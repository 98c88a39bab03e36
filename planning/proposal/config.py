"""A survey turned into a config: each decision with its reason, by rules for its labels and its input."""

from collections.abc import Callable

from planning.proposal.classes import plan_classes
from planning.proposal.label_volumes import plan_label_volumes
from planning.proposal.rules import Plan
from planning.survey.survey import Survey

RULES: dict[str, Callable[[Survey, float], Plan]] = {
    "segmentation": plan_label_volumes,
    "classification": plan_classes,
}


def plan_config(survey: Survey, memory_gb: float) -> Plan:
    """Plan a config for the surveyed data, training within about `memory_gb` by estimate.

    Raises ValueError where there is nothing to train on: too few labelled cases or classes, too little memory.
    """
    return RULES[survey.target.task](survey, memory_gb)

"""Decisions written as YAML, each below its reason."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from configs import ConfigError
from configs.plain_yaml import read_yaml
from engine.config import check_config
from machine.resources import available_threads
from machine.terminal import printable


@dataclass(frozen=True)
class Decision:
    """A config key by its dotted path, its value, and why, in a line."""

    path: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """A planned config, and what it is for: a task, `num_channels` of the input, `num_train` cases, classes."""

    head: tuple[str, ...]
    decisions: tuple[Decision, ...]
    task: str
    num_channels: int
    num_train: int
    class_names: tuple[str, ...]

    def text(self) -> str:
        """Return the plan as YAML."""
        return render(self.head, self.decisions)

    def check(self) -> None:
        """Raise ValueError, in one line, where the files' numbers lead to a config that training would refuse."""
        try:
            check_config(read_yaml(self.text()), where="planned")
        except ConfigError as error:
            problems = "; ".join(line.strip() for line in str(error).splitlines()[1:])
            root = next(decision.value for decision in self.decisions if decision.path == "data.root")
            raise ValueError(f"{root}: its files would need a config that training refuses: {problems}") from None


@dataclass(frozen=True)
class Proposed:
    """A network by its registered name, why it is proposed, and the training cases that it takes at least."""

    name: str
    why: str = ""  # may name {cases} and the network's arguments
    least_cases: int = 0


MANY_CLIPS = 2000  # training clips from which on a deep network learns from the frames themselves
# The networks that are proposed, by what the cases are; the last one that has cases enough is taken. No other line here
# names one: what arguments it takes for so many cases, and the memory for them, its own arguments tell (`propose` and
# `list_convolutions` of NetworkArgs). Only the U-Net's levels are designed here, in network.py, for they decide the
# patch.
NETWORKS = {
    "label volumes": (Proposed("unet3d"),),
    "volumes": (Proposed("resnet3d", "{depth} layers for {cases} training cases: deeper ones need more"),),
    "clips": (
        Proposed("cnn3d", "{cases} training clips: a small network"),
        Proposed("r3d_18", "{cases} training clips: enough for 18 layers", MANY_CLIPS),
    ),
}


def choose_network(kind: str, num_train: int) -> Proposed:
    """Return the network to propose for `num_train` cases of this kind, a key of NETWORKS."""
    return [proposed for proposed in NETWORKS[kind] if num_train >= proposed.least_cases][-1]


PRECISION = Decision("train.precision", "auto", "bfloat16 where the device computes it, which is faster; else float32")


def decide(section: str, decisions: Iterable[Decision] | Mapping[str, Any]) -> Iterator[Decision]:
    """Return the decisions, or values by key, with paths that begin at the config's root rather than at `section`."""
    if isinstance(decisions, Mapping):
        decisions = [Decision(key, value) for key, value in decisions.items()]
    return (replace(decision, path=f"{section}.{decision.path}") for decision in decisions)


def rotate(coarse_axis: int | None, probability: float, degrees: int, thick: str) -> Decision:
    """Decide on rotation: of a volume with a coarse axis about that alone, as slices are `thick`."""
    ranges = [[-degrees, degrees] if coarse_axis in (None, axis) else [0, 0] for axis in range(3)]
    why = "about D, H, W" if coarse_axis is None else f"about {'DHW'[coarse_axis]} alone: {thick}"
    return Decision("augment.rotate", {"probability": probability, "degrees": ranges}, why)


def average_weights(decay: float) -> Decision:
    return Decision("optim.ema_decay", decay, f"weights are averaged over about the last {1 / (1 - decay):.0f} steps")


def mirror(flipped: bool) -> Decision:
    why = "flipping W at test time as well ([2]) costs twice the time" if flipped else "training flips none"
    return Decision("evaluate.mirror_axes", [], why)


def count_workers() -> Decision:
    """Decide how many threads read and augment."""
    cores = available_threads()
    return Decision("data.workers", max(1, min(8, cores - 1)), f"threads that augment; planned on {cores} cores")


def render(head: Iterable[str], decisions: Sequence[Decision]) -> str:
    """Return YAML in the order of the decisions, which must not return to a section once they have left it."""
    lines = [_comment(line) for line in head]
    within: list[str] = []
    for decision in decisions:
        *sections, key = decision.path.split(".")
        shared = 0
        while shared < min(len(within), len(sections)) and within[shared] == sections[shared]:
            shared += 1
        lines += [f"{'  ' * depth}{sections[depth]}:" for depth in range(shared, len(sections))]
        within, indent = sections, "  " * len(sections)
        if decision.why:
            lines.append(indent + _comment(decision.why))
        lines.append(f"{indent}{key}: {_flow(decision.value)}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """Return a comment on one line, whatever names are in it."""
    return "# " + " ".join(text.splitlines())


def _flow(value: Any) -> str:
    """Return a value on one line: quoted where YAML would take it for something else, escaped for a terminal."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    text = text.removesuffix("...\n").strip()
    return text if [text] == printable(text).splitlines() else json.dumps(value)

"""Evaluate a run's checkpoint, or predict new volumes or clips with it.

python evaluate.py --run runs/demo_unet [--split val] [--checkpoint last] [key.path=value ...]
python evaluate.py --run runs/demo_unet --images FOLDER
python evaluate.py --run runs/demo_unet --export model.zip      (docs/finetune.md; --run model.zip then predicts)
python evaluate.py --run runs/demo_clips --baseline runs/demo_clips_single_frame
python evaluate.py --run runs/demo_unet --mc-dropout 20         (uncertainty: docs/uncertainty.md)
python evaluate.py --run runs/seed0 runs/seed1 runs/seed2       (their mean, a deep ensemble)
python evaluate.py --compare runs/ablations/channel_dropout      (the cells of a sweep: docs/ablations.md)
"""

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine  # noqa: F401  # it tells how to start where packages are missing

if TYPE_CHECKING:  # imported where they are needed, so that --help and wrong paths are answered at once
    import mlx.nn as nn
    import numpy as np

    from configs import Config
    from data.dataset import VolumeData
    from data.layouts.cases import Case
    from engine.distributed.group import Group
    from engine.evaluation.members import Member
    from engine.evaluation.segmentation import Failure, Save
    from engine.runs.precision import PredictionPrecision
    from engine.runs.run_folder import RunFolder

_log = logging.getLogger("mlx_volumes")

MAY_CHANGE = (
    "ops",
    "threads",
    "memory_limit_gb",
    "data.source",
    "data.root",
    "data.images",
    "data.labels",
    "data.columns",
    "data.class_names",
    "data.label_map",
    "data.cache",
    "train.precision",
    "evaluate",
)
"""Keys that may be set here: where the data and their labels lie, how prediction runs. Training settled the rest."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Evaluate a run's checkpoint, or predict new volumes or clips with it.",
        epilog="Writes metrics.json, cases.csv, report.html and, of volumes, predictions/. Exit code: 0, 1 where a "
        "case failed, 2 for a mistake in the command.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--run", nargs="+", metavar="DIR", help="a run's folder, as train.py wrote it, or a pack.zip; several: ensemble"
    )
    what.add_argument("--compare", metavar="DIR", help="compare the cells of a sweep's folder (docs/ablations.md)")
    parser.add_argument(
        "--checkpoint", metavar="last|best|PATH", help="default: last; best was chosen by the validation cases"
    )
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="val", help="default: val")
    parser.add_argument(
        "--images", metavar="FOLDER", help="predict this folder's volumes or clips, which have no labels"
    )
    parser.add_argument(
        "--baseline",
        metavar="DIR",
        help="a classification run, evaluated on the same split, whose scores are set beside these",
    )
    parser.add_argument(
        "--mc-dropout", type=int, metavar="N", help="predict the mean of N draws of the network by its dropout layers"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="default: eval/SPLIT in the run's folder, with _mc_dropout or _ensemble"
    )
    parser.add_argument(
        "--export", metavar="FILE.zip", help="evaluate nothing: pack config, weights and metrics into one file"
    )
    parser.add_argument("--licence", metavar="TEXT", help="of the pack, e.g. CC-BY-4.0 (default: unspecified)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help=f"config keys to set, below {', '.join(MAY_CHANGE)}; e.g. data.root=ELSEWHERE evaluate.overlap=0.25",
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.run:  # which takes all words up to the next option
        first, *more = arguments.run
        arguments.run = [first, *(word for word in more if not _is_override(word))]
        arguments.overrides += filter(_is_override, more)
    return arguments


def _is_override(word: str) -> bool:
    """Whether a word is key.path=value rather than a folder, whose name may hold an = too."""
    key, sign, _ = word.partition("=")
    return bool(sign) and "/" not in key and not Path(word).exists()


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 where a case failed or memory ran out, 2 for a user's mistake."""
    arguments = parse_arguments(argv)
    from engine.distributed.group import ALONE, GroupError, join_group, set_up_logging

    group = ALONE
    try:
        if arguments.compare:
            from studies.comparison_report import compare_sweep

            print(f"report: {compare_sweep(arguments.compare)}")
            return 0
        group = join_group()
        set_up_logging(group)
        with group.together():
            return evaluate(arguments, group)
    except (ValueError, OSError, GroupError) as error:
        if group.speaks(error):
            print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        if group.speaks(error):
            print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    finally:
        group.leave()


def evaluate(arguments: argparse.Namespace, group: "Group") -> int:
    import engine.config  # noqa: F401  # a pack's config is checked against all that is registered
    from engine.runs.pack import open_run

    if (arguments.licence and not arguments.export) or (arguments.export and arguments.images):
        raise ValueError("--export stands alone but for --checkpoint and --licence, and --licence goes with --export")
    if arguments.mc_dropout is not None and (arguments.mc_dropout < 2 or len(arguments.run) > 1):
        raise ValueError("--mc-dropout N takes at least 2 draws, of one run; an ensemble has its members")
    if arguments.export and (len(arguments.run) > 1 or arguments.mc_dropout):
        raise ValueError("--export packs one run, without --mc-dropout")
    run = open_run(arguments.run[0])
    config = load_run_config(run, arguments.overrides)
    checkpoint = run.checkpoint(arguments.checkpoint)
    from ops import backend, memory

    backend.choose(config.ops, config.threads)  # first: it sets the allocator, before other threads start
    memory.set_limit(config.memory_limit_gb)
    if arguments.export:
        return export(run, config, checkpoint, arguments, group)
    from engine.evaluate import Job, classify, segment
    from engine.evaluation.seen import divide, find_choice, own_splits
    from engine.evaluation.temperature import choose_temperature
    from engine.runs.precision import PredictionPrecision
    from engine.runs.run_folder import DEFAULT_CHECKPOINT
    from engine.training.check_compatibility import check_array_sizes

    data, cases, faults = open_cases(run, config, arguments)
    check_array_sizes(config, data, training=False)
    if arguments.baseline and (config.task != "classification" or arguments.images):
        raise ValueError("--baseline compares classifications of labelled cases; leave it out here")
    model, facts = load_model(config, data, checkpoint)
    precision = PredictionPrecision(group)
    members, prediction, seen = find_members(arguments, run, config, data, cases, model, precision)
    temperature = choose_temperature(run, config.evaluate.temperature, prediction["kind"], facts)
    name = f"images_{Path(arguments.images).resolve().name}" if arguments.images else arguments.split
    name += "" if prediction["kind"] == "plain" else f"_{prediction['kind']}"
    output = Path(arguments.output) if arguments.output else run.evaluation(name)
    output.mkdir(parents=True, exist_ok=True)
    place = arguments.images or config.data.root
    _log.info("%d cases of %s, %s weights of %s", len(cases), place, facts["weights"], checkpoint)
    metrics = {
        "split": "images" if arguments.images else arguments.split,
        "checkpoint": {"name": arguments.checkpoint or DEFAULT_CHECKPOINT, **facts},
        "prediction": prediction,
        "precision": precision.summary,
        "settings": {"data_root": arguments.images or str(config.data.root), **config.evaluate.model_dump(mode="json")},
    }
    parts: dict[str, list[str]] = {}
    splits = {} if arguments.images else own_splits(run, config.data.root, data.fingerprint)
    if splits or seen:  # or another member's training cases
        parts = divide([case.id for case in cases], splits, seen)
        metrics["training_cases"] = len(seen)
    if "val" in parts and (choice := find_choice(run, checkpoint, config.checkpoint.metric)):
        metrics["optimistic"] = choice
    job = Job(run, config, data, cases, faults, model, members, temperature, output, metrics, group, parts)
    if config.task == "classification":
        failures = classify(job, arguments.baseline)
    else:
        save = make_save(data, output, config.evaluate.save_predictions)
        failures = segment(job, save, make_reader(data, cases))
    return 1 if failures else 0


def export(run: "RunFolder", config: "Config", checkpoint: Path, arguments: argparse.Namespace, group: "Group") -> int:
    """Pack the run into one file, and say what is in it."""
    from engine.runs.pack import PackedRun, describe, export_run
    from engine.runs.run_folder import DEFAULT_CHECKPOINT
    from models import build_model

    if isinstance(run, PackedRun):
        raise ValueError(f"{run.pack.path} is a pack already: copy it")
    if not group.writes:
        return 0
    facts = run.read_json("statistics")
    model = build_model(config.model.name, config.model.args, facts["num_channels"], len(facts["class_names"]))
    name, licence = arguments.checkpoint or DEFAULT_CHECKPOINT, arguments.licence
    print(describe(export_run(arguments.export, run, config, model, checkpoint, name, licence)))
    return 0


def load_run_config(run: "RunFolder", overrides: Sequence[str]) -> "Config":
    """The run's config with the overrides on top; bad cases are skipped, and reported at the end."""
    from configs.schema.load import ConfigError, apply_overrides
    from engine.config import check_config
    from engine.runs.check_resume import is_within

    for override in overrides:
        key = override.partition("=")[0]
        if not is_within(key, MAY_CHANGE):
            raise ConfigError(
                f"{override}: {key} was settled when {run.path} was trained; keys that may be set here are "
                f"{', '.join(MAY_CHANGE)}, and those below them"
            )
    tree = apply_overrides(run.read_config_tree(), [*overrides, "data.on_error=skip"])
    return check_config(tree, where=str(run.config_path))


def openers(config: "Config") -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What opens the task's labelled data, and what opens a folder without labels."""
    if config.task == "classification":
        from data.labelled import open_labelled, open_unlabelled

        return open_labelled, open_unlabelled
    from data.dataset import open_data, open_images

    return open_data, open_images


def open_cases(
    run: "RunFolder", config: "Config", arguments: argparse.Namespace
) -> "tuple[Any, list[Any], list[Failure]]":
    """The data, the cases to evaluate, and those of them that their headers rule out.

    Cases that training skipped stay skipped, and are no failures.
    """
    from engine.evaluation.segmentation import Failure, evenly_spaced

    open_split, open_folder = openers(config)
    statistics = run.read_json("statistics")
    if arguments.images:
        data = open_folder(arguments.images, config, statistics)
        return data, data.cases("all"), [Failure(*fault) for fault in data.skipped]
    split = arguments.split
    splits = {} if split == "all" else {split: run.read_json("splits").get(split)}
    if splits and not splits[split]:
        raise ValueError(f"{run.path}: the run has no {split} cases; choose another --split")
    data = open_split(config, statistics=statistics, splits=splits)
    own_root = Path(run.read_config_tree()["data"]["root"]).resolve() == config.data.root.resolve()
    skipped = {entry["case"] for entry in run.read_json("skipped")} if own_root else set()
    cases = evenly_spaced([case for case in data.cases(split) if case.id not in skipped], config.evaluate.cases)
    wanted = splits.get(split) or [case_id for case_id, _, _ in data.skipped]
    faults = [Failure(*fault) for fault in data.skipped if fault[0] in wanted and fault[0] not in skipped]
    return data, cases, faults


def load_model(config: "Config", data: Any, checkpoint: Path) -> "tuple[nn.Module, dict[str, Any]]":
    """The network with the checkpoint's weights, and what metrics.json says about them."""
    from engine.runs.checkpoints import load_weights, read_state
    from models import build_model

    if checkpoint.is_file():
        from engine.runs.pack import load_packed

        args = (config.model.name, config.model.args, data.num_channels, data.num_outputs)
        model, facts = load_packed(checkpoint, lambda: build_model(*args))
        return model.eval(), facts
    state = read_state(checkpoint)
    model = build_model(config.model.name, config.model.args, data.num_channels, data.num_outputs)
    weights = load_weights(model, checkpoint, config.evaluate.weights)
    model.eval()
    return model, {"step": state["step"], "weights": weights, "path": str(checkpoint.resolve())}


def find_members(
    arguments: argparse.Namespace,
    run: "RunFolder",
    config: "Config",
    data: Any,
    cases: "list[Any]",
    model: "nn.Module",
    precision: "PredictionPrecision",
) -> "tuple[list[Member], dict[str, Any], set[str]]":
    """Whose mean is predicted, what metrics.json says about them, and the cases that any of them was trained on."""
    from engine.evaluation.ensemble import find_seen, join_config
    from engine.evaluation.members import Member, draw_members
    from engine.evaluation.segmentation import make_predict
    from engine.runs.pack import open_run
    from models.layers.dropout import dropout_table, held_masks

    def seen_by(member: "RunFolder", its_data: Any) -> list[str]:
        if arguments.images:
            return []
        return find_seen([c.id for c in cases], arguments.split, member, config.data.root, its_data.fingerprint)

    predict, seen = make_predict(model, precision.of(config), config.train.compile), set(seen_by(run, data))
    if arguments.mc_dropout:
        layers = [row for row in dropout_table(model) if row.rate > 0]
        if not layers:
            raise ValueError(f"--mc-dropout: {run.path} has no dropout layer with a rate above 0 (model.args.dropout)")
        count, seed = arguments.mc_dropout, config.evaluate.seed
        facts = {"kind": "mc_dropout", "samples": count, "seed": seed, "dropout": [astuple(row) for row in layers]}
        return draw_members(predict, partial(held_masks, model), count, seed), facts, seen
    members, paths = [Member(predict)], [str(run.path)]
    open_split, open_folder = openers(config)
    for path in arguments.run[1:]:
        other = open_run(path)
        own_config = join_config(config, other, load_run_config(other, arguments.overrides), run)
        checkpoint, statistics = other.checkpoint(arguments.checkpoint), other.read_json("statistics")
        if arguments.images:
            own_data = open_folder(arguments.images, own_config, statistics)
        else:
            own_data = open_split(own_config, statistics=statistics, splits={})
        seen |= set(seen_by(other, own_data))
        other_model, _ = load_model(own_config, own_data, checkpoint)
        other_predict = make_predict(other_model, precision.of(own_config), own_config.train.compile)
        members.append(Member(other_predict, data=own_data, config=own_config))
        paths.append(str(other.path))
    return members, {"kind": "ensemble", "members": paths} if paths[1:] else {"kind": "plain"}, seen


def make_save(data: "VolumeData", output: Path, save_predictions: bool) -> "Save":
    """Writes a case's prediction, and further volumes where there are any, on its source file's grid."""
    from data.files.volumes import write_volume

    def save(case: "Case", prepared: Any, labels: "np.ndarray", volumes: "Mapping[str, np.ndarray]") -> None:
        if save_predictions:
            write_volume(output / "predictions" / f"{case.id}.nii.gz", labels, prepared.source)
        for name, volume in volumes.items():
            if save_predictions or name == "probabilities":
                write_volume(output / name / f"{case.id}.nii.gz", volume, prepared.source)

    return save


def make_reader(data: "VolumeData", cases: "list[Case]") -> "Callable[[str], np.ndarray]":
    """Case id -> the first channel (D, H, W) of its image, as in the file."""
    from data.prepare.volumes import read_case_image

    by_id = {case.id: case for case in cases}

    def read(case_id: str) -> "np.ndarray":
        return read_case_image(by_id[case_id], data.config.data.channels)[0][..., 0]

    return read


if __name__ == "__main__":
    sys.exit(main())

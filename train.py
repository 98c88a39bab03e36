"""Train a network from a config, or many of them where the config holds a sweep.

python train.py --config configs/demo_unet.yaml [key.path=value ...] [--dry-run] [--resume]
python train.py --config configs/ablations/channel_dropout.yaml [--dry-run] [--only PATTERN]    (docs/ablations.md)
mlx.launch -n 2 .venv/bin/python train.py --config configs/demo_unet.yaml    (docs/distributed.md)
"""

import argparse
import logging
import sys
from typing import TYPE_CHECKING, Any

import machine  # noqa: F401  # it tells how to start where packages are missing

if TYPE_CHECKING:  # imported where they are needed, so that --help and a config's mistakes are told at once
    from configs import Config
    from data.dataset import VolumeData
    from data.labelled import ClassificationData
    from engine.distributed.group import Group
    from engine.runs.run_folder import RunFolder
    from engine.runs.stopping import StopRequest
    from engine.training.load_weights import Start
    from engine.training.loop import Validate
    from engine.training.step import TrainStep
    from studies.estimate import Pace

    Data = VolumeData | ClassificationData

_log = logging.getLogger("mlx_volumes")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a 3-D CNN from a config. Ctrl-C, SIGTERM, or a file STOP in the run's folder end it "
        "after the current step, saved; --resume goes on from there.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, see configs/")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="config keys to set, e.g. optim.learning_rate=3e-4"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config and data, run one step, print parameters, dropout layers, memory and time, "
        "write batch.png, and stop",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    parser.add_argument(
        "--only", metavar="PATTERN", help="of a sweep: the cells, or CELL/SEED, that match, e.g. '*rate=0.2*/seed0'"
    )
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, 1 where the run failed, 2 for a user's mistake, 130 or 143 after a signal."""
    arguments = parse_arguments(argv)
    from engine.config import load_config
    from engine.distributed.group import ALONE, GroupError, join_group, set_up_logging

    group = ALONE
    try:
        group = join_group()
        set_up_logging(group)
        with group.together():
            overrides = [*arguments.overrides, *(["resume=true"] if arguments.resume else [])]
            config = settle(load_config(arguments.config, overrides), group)
            if config.sweep is not None:
                return sweep(config, arguments, group)
            if arguments.only is not None:
                raise ValueError(f"--only chooses runs of a sweep; {arguments.config} has no sweep section")
            return dry_run(config, group) if arguments.dry_run else train(config, group)
    except (ValueError, OSError) as error:
        return fail(error, 2, group)
    except (GroupError, MemoryError) as error:
        return fail(error, 1, group)
    except KeyboardInterrupt:
        return 130
    finally:
        group.leave()


def settle(config: "Config", group: "Group") -> "Config":
    """Choose the operators, limit the memory; return the config with the precision in which they train."""
    from engine.runs.precision import settle_training
    from ops import backend, memory

    backend.choose(config.ops, config.threads)  # first: it sets the allocator, before other threads start
    memory.set_limit(config.memory_limit_gb)
    return settle_training(config, group)


def train(config: "Config", group: "Group") -> int:
    """Train the run to the end of its budget; return the exit code."""
    from data.files.volumes import FileProblem
    from engine.runs.check_resume import check_config_unchanged
    from engine.runs.checkpoints import steps_in
    from engine.runs.environment import write_facts
    from engine.runs.run_folder import RunFolder
    from engine.runs.stopping import StopRequest
    from engine.training.loop import NonFiniteError, fit, restore
    from engine.training.match_weights import format_start

    run = RunFolder(config.run_folder, group.writes)
    resumed = group.writes and config.resume and run.exists()
    if resumed:
        check_config_unchanged(run, config)
    elif group.writes:
        run.require_absent()
        if config.resume:
            _log.info("%s: no run to resume yet, this begins one", run.path)
    start = None if resumed and steps_in(run.checkpoints) else read_weights(config, group)
    data = prepare_data(config, run if resumed else None, group)
    step = build_step(config, data, group, start)
    if group.writes:
        write_facts(run, config, data, resumed, group)
    if start is not None:
        run.write_json("init", start.to_json())
        _log.info("%s", format_start(start))
    position = restore(step, data, run, group)

    stop = StopRequest(run.stop_path, speaks=group.writes)
    validate, train_cases = build_validation(config, data, stop, group), data.cases("train")
    try:
        with stop, group.together():
            fit(step, data, run, config, position, stop, validate, lambda index: train_cases[index].id, group)
    except (NonFiniteError, FileProblem, OSError) as error:
        return fail(error, 1, group)
    if group.writes:
        from engine.reports.segmentation_report import write_run_report

        _log.info("report: %s", write_run_report(run))
    return stop.exit_code


def dry_run(config: "Config", group: "Group") -> int:
    """Check everything, train two steps that nobody keeps, and say what a run would take."""
    from data.preview import save_labelled_preview, save_preview
    from engine.training.batches import Feed
    from engine.training.dry_run import format_rehearsal, rehearse
    from engine.training.loop import Plan
    from engine.training.match_weights import format_start
    from models import count_parameters
    from models.layers.dropout import dropout_table, format_table

    start = read_weights(config, group)
    data = prepare_data(config, None, group)
    step = build_step(config, data, group, start)
    plan = Plan.of(config, data.batches_per_epoch)
    with Feed(data, plan.steps_per_epoch, config.train.accumulate) as feed:
        batches, _ = feed.next(0)
    rehearsal = rehearse(step, batches)
    if not group.writes:
        return 0
    batch, cases = batches[0], data.cases("train")
    config.run_folder.mkdir(parents=True, exist_ok=True)
    picture = config.run_folder / "batch.png"
    shown = (picture, batch["x"], batch["y"], data.class_names, [cases[int(i)].id for i in batch["index"]])
    if config.task == "classification":
        save_labelled_preview(*shown, is_clip=config.data.clip is not None)
    else:
        save_preview(*shown)
    print(f"parameters  {count_parameters(step.model):,}")
    if config.freeze is not None:
        print(f"frozen      {step.freezing}")
    print(format_table(dropout_table(step.model)))
    if start is not None:
        print(format_start(start))
    print(format_rehearsal(rehearsal, plan))
    print(f"batch       {picture}")
    return 0


def sweep(config: "Config", arguments: argparse.Namespace, group: "Group") -> int:
    """Train all runs of the sweep, or say what there is to do; return the exit code."""
    from data.splits import count_validation_cases
    from ops import backend, memory
    from studies.estimate import list_sweep, rehearse_run
    from studies.sweep import run_sweep

    if group.size > 1:
        raise ValueError("a sweep starts a process for each of its runs; call it without mlx.launch")
    if not arguments.dry_run:
        return run_sweep(config, arguments.only, count_validation_cases)

    def rehearse(cell: "Config") -> "Pace":
        backend.choose(cell.ops, cell.threads)
        memory.set_limit(cell.memory_limit_gb)
        start = read_weights(cell, group)
        data = prepare_data(cell, None, group)
        step = build_step(cell, data, group, start)
        return rehearse_run(cell, data, step, lambda config, stop: build_validation(config, data, stop, group))

    print(list_sweep(config, arguments.only, rehearse))
    return 0


def prepare_data(config: "Config", run: "RunFolder | None", group: "Group") -> "Data":
    """Open the data and prepare every case; a resumed run, given in rank 0, keeps its splits and statistics."""
    from engine.training.progress import ShowPreparation

    kept = {} if run is None else {name: run.read_json(name) for name in ("statistics", "splits")}
    kept = group.share_json(kept)
    data: Data
    if config.task == "classification":
        from data.labelled import open_labelled

        data = open_labelled(config, **kept, rank=group.rank, world=group.size)
    else:
        from data.dataset import open_data

        data = open_data(config, **kept, rank=group.rank, world=group.size)
    data.prepare_all(progress=ShowPreparation())
    group.require_same("the data", f"fingerprint {data.fingerprint}, splits {data.splits}")
    _log.info("cases: %s", ", ".join(f"{len(ids)} {split}" for split, ids in data.splits.items()))
    if data.skipped:
        _log.warning("skipped %d cases: %s", len(data.skipped), ", ".join(sorted({s[0] for s in data.skipped})))
    return data


def read_weights(config: "Config", group: "Group") -> "Start | None":
    """What the config's `init` names, in rank 0, which gives it to the others."""
    from engine.training.load_weights import read_start

    return read_start(config.init) if config.init is not None and group.writes else None


def build_step(config: "Config", data: "Data", group: "Group", start: "Start | None" = None) -> "TrainStep":
    """Build model, loss and optimiser from the config, seeded; the model begins from `start`, where there is one."""
    import mlx.core as mx

    from engine.training.check_compatibility import check_array_sizes, check_fits_the_data
    from engine.training.freezing import Freezing
    from engine.training.load_weights import loaded_parameters
    from engine.training.loop import Plan
    from engine.training.losses import balanced_weights, build_loss
    from engine.training.match_weights import begin_from
    from engine.training.optim import build_optimizer
    from engine.training.step import TrainStep
    from models import build_model
    from models.layers.dropout import check_norms
    from models.layers.norms import synchronise_batch_norms

    check_fits_the_data(config, data)
    check_array_sizes(config, data, training=True)
    plan = Plan.of(config, data.batches_per_epoch)
    loss_config = config.loss
    if loss_config.class_weights == "balanced":
        labels: list[Any] = [case.label for case in data.cases("train")]
        weights = balanced_weights({name: labels.count(k) for k, name in enumerate(data.class_names)})
        loss_config = loss_config.model_copy(update={"class_weights": weights})
        _log.info("class weights: %s", ", ".join(f"{weight:.3g}" for weight in weights))
    loss = build_loss(loss_config, data.num_outputs, group.gather if group.size > 1 else None)
    mx.random.seed(config.seed)
    model = build_model(config.model.name, config.model.args, data.num_channels, data.num_outputs)
    if group.writes:
        check_norms(model, config.train.recalibrate_norms)
    if config.init is not None:
        begin_from(model, start, config.init, data.class_names, group)
    if group.size > 1 and config.distributed.batch_norm == "synchronised":
        synchronise_batch_norms(model, group.gather_for_all)
    freezing = Freezing(model, config.freeze)
    loaded = loaded_parameters(config, start, group) if config.optim.decay_to_start is not None else set()
    optimizer = build_optimizer(config.optim, plan.total_steps, model, freezing, loaded)
    if config.freeze is not None:
        _log.info("frozen: %s", freezing)
    return TrainStep(model, optimizer, loss, config.train, config.optim, group, freezing, config.seed)


def build_validation(config: "Config", data: "Data", stop: "StopRequest", group: "Group") -> "Validate | None":
    """What scores the model during training; None without cases for it."""
    from engine.runs.stopping import StoppableData

    cases = [case for case in data.cases("val") if case.label is not None]
    if not cases:
        return None
    if config.task == "classification":
        from engine.evaluation import classification

        return classification.make_validation(config, data.class_names, StoppableData(data, stop), cases, group)
    from engine.evaluation import segmentation

    return segmentation.make_validation(config, data.class_names, StoppableData(data, stop), cases, group)


def fail(error: Exception, code: int, group: "Group") -> int:
    """Print the message of an error, with what was noted on it, in one process; return the exit code."""
    if not group.speaks(error):
        return code
    print("\n".join([f"train.py: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Train a network from a config, or many of them where the config holds a sweep.

python train.py --config configs/demo_unet.yaml [key.path=value ...] [--dry-run] [--resume]
python train.py --config configs/ablations/channel_dropout.yaml [--dry-run] [--only PATTERN]    (docs/ablations.md)
mlx.launch -n 2 .venv/bin/python train.py --config configs/demo_unet.yaml    (docs/distributed.md)
"""

import argparse
import sys
from typing import TYPE_CHECKING

import machine  # noqa: F401  # prints how to start where packages are missing
from machine.terminal import say

if TYPE_CHECKING:
    from configs import Config
    from engine.distributed.group import Group


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a 3-D CNN from a config. Ctrl-C, SIGTERM, SIGHUP, or a file STOP in the run's folder end it "
        "after the current step, saved; --resume continues from there.",
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
    parser.add_argument("--resume", action="store_true", help="continue from the run's last checkpoint")
    parser.add_argument(
        "--only", metavar="PATTERN", help="of a sweep: the cells, or CELL/SEED, that match, e.g. '*rate=0.2*/seed0'"
    )
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, 1 where the run failed, 2 for a user's mistake, 129, 130 or 143 after a signal."""
    arguments = parse_arguments(argv)
    from engine.config import load_config  # here, so that --help and a config's mistakes appear at once
    from engine.distributed.group import ALONE, GroupError, join_group, set_up_logging
    from engine.runs.precision import set_up_device, settle_training

    group = ALONE
    try:
        group = join_group()
        set_up_logging(group)
        with group.together():
            overrides = [*arguments.overrides, *(["resume=true"] if arguments.resume else [])]
            config = load_config(arguments.config, overrides)
            set_up_device(config)
            config = settle_training(config, group)
            if config.sweep is None and arguments.only is not None:
                raise ValueError(f"--only chooses runs of a sweep; {arguments.config} has no sweep section")
            return run(config, arguments.dry_run, arguments.only, group)
    except (ValueError, OSError, GroupError, MemoryError) as error:
        group.print_error(error, "train.py")
        return 1 if isinstance(error, GroupError | MemoryError) else 2
    finally:
        group.leave()


def run(config: "Config", is_dry: bool, only: str | None, group: "Group") -> int:
    """Train the run or sweep, or print what it takes; return the exit code."""
    from data.files.errors import FileProblem  # after reading the config: these take seconds to import
    from data.splits import count_validation_cases
    from engine.train import begin, dry_run
    from engine.training.loop import NonFiniteError
    from studies.sweep.estimate import list_sweep
    from studies.sweep.run import run_sweep

    if config.sweep is not None:
        if group.size > 1:
            raise ValueError("a sweep starts its own processes, one per run; call it without mlx.launch")
        if not is_dry:
            return run_sweep(config, only, count_validation_cases)
        say(list_sweep(config, only))
    elif is_dry:
        say(dry_run(config, group), end="\n" if group.writes else "")
    else:
        training = begin(config, group)
        try:
            training.fit()
        except (NonFiniteError, FileProblem, OSError) as error:
            group.print_error(error, "train.py")
            return 1
        return training.stop.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

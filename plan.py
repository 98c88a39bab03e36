"""Plan a config from a data set.

python plan.py PATH > configs/mine.yaml
python plan.py PATH --from runs/RUN > configs/mine.yaml
"""

import argparse
import sys

import machine  # noqa: F401  # prints how to start where packages are missing
from machine.terminal import say


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    from planning.inspect import add_reading_arguments

    parser = argparse.ArgumentParser(
        description="Measure the data set at PATH and print a config for it: spacing, patch, network, batch size "
        "and the rest, each with its reason. Redirect it into a file, and train with that file."
    )
    add_reading_arguments(parser)
    parser.add_argument(
        "--memory",
        type=_gigabytes,
        metavar="GB",
        help="memory for training, estimated (default: on a GPU MLX's limit, on a CPU 4)",
    )
    parser.add_argument(
        "--from", dest="start", metavar="RUN", help="plan to fine-tune this run, a folder that train.py wrote or a pack"
    )
    return parser.parse_intermixed_args(argv)


def default_memory_gb() -> float:
    """Return the memory for training on this device: on a GPU MLX's limit, on a CPU 4 GB or all of a smaller one."""
    from ops import memory

    limit_gb = memory.default_limit()[0] / 1e9
    return round(limit_gb if memory.on_gpu() else min(4.0, limit_gb), 1)


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"expected GB, above 0 and at most a million, got {text!r}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's mistake."""
    arguments = parse_arguments(argv)
    from planning.inspect import survey_with_progress
    from planning.proposal.config import plan_config
    from planning.proposal.fine_tune import fine_tune, read_trained

    try:
        trained = None if arguments.start is None else read_trained(arguments.start)
        memory_gb = default_memory_gb() if arguments.memory is None else arguments.memory
        survey = survey_with_progress(arguments)
        plan = plan_config(survey, memory_gb)
        if trained is not None:
            plan = fine_tune(plan, trained)
        plan.check()
    except (ValueError, OSError) as error:
        say(f"plan.py: {error}", sys.stderr)
        return 2
    say(plan.text(), end="")
    for problem in survey.problems:
        say(f"plan.py: left out {problem.case_id}: {problem.path}: {problem.reason}", sys.stderr)
    if survey.findings:
        hint = f"python -m planning.inspect {arguments.path} names them"
        count = f"{len(survey.findings)} {'thing is' if len(survey.findings) == 1 else 'things are'}"
        say(f"plan.py: {count} worth checking: {hint}", sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Plan a config from a data set.

python plan.py PATH > configs/mine.yaml
"""

import argparse
import sys


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    from data.inspect import add_reading_arguments

    parser = argparse.ArgumentParser(
        description="Measure the data set at PATH and print a config for it: spacing, patch, network, batch size "
        "and the rest, each with its reason. Redirect it into a file, and train with that."
    )
    add_reading_arguments(parser)
    parser.add_argument(
        "--memory", type=_gigabytes, default=4.0, metavar="GB", help="that training may take, by estimate (default: 4)"
    )
    return parser.parse_intermixed_args(argv)


def _gigabytes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's mistake."""
    arguments = parse_arguments(argv)
    from data.inspect import survey_with_progress
    from data.plan.config import plan_text
    from data.plan.labelled_config import labelled_plan_text
    from data.survey.labelled import LabelledSurvey

    try:
        survey = survey_with_progress(arguments)
        if isinstance(survey, LabelledSurvey):
            text = labelled_plan_text(survey, arguments.memory)
        else:
            text = plan_text(survey, arguments.memory)
    except (ValueError, OSError) as error:
        print(f"plan.py: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    for problem in survey.problems:
        print(f"plan.py: left out {problem.case_id}: {problem.path}: {problem.reason}", file=sys.stderr)
    if survey.remarks:
        hint = f"python -m data.inspect {arguments.path} names them"
        print(f"plan.py: {len(survey.remarks)} things are worth a look: {hint}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

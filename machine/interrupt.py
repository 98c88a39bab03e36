"""Ctrl-C in a command: one line and exit code 130, whenever it comes, packages' imports included.

Any Python from 3.7 on reads this file.
"""

import os
import signal
import sys

EXIT_CODE = 128 + signal.SIGINT
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def end_in_one_line() -> None:
    """From here on an interrupt that nobody handles ends this process so, where it is a command of the project.

    A notebook, and a script of a user's own, keep their way.
    """
    if _is_command():
        sys.excepthook = _end_uncaught
        sys.unraisablehook = _end_unraisable


def _is_command() -> bool:
    """Return whether `python FILE.py` or `python -m MODULE` started a file of the project."""
    if sys.argv[:1] == ["-m"]:  # its file is being looked for
        return True
    file = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or os.sep)
    elsewhere = (sys.prefix, os.path.join(_ROOT, ".venv"), os.path.join(_ROOT, "tests"))
    return file.startswith(_ROOT + os.sep) and not file.startswith(tuple(path + os.sep for path in elsewhere))


def _end_uncaught(kind, error, trace):  # type: ignore[no-untyped-def]
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write("\ninterrupted\n")
    sys.exit(EXIT_CODE)


def _end_unraisable(problem):  # type: ignore[no-untyped-def]
    """An interrupt within a callback, of an import or a finalizer, is lost to the code around it: end here."""
    if not issubclass(problem.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(problem)
        return
    sys.stderr.write("\ninterrupted\n")
    sys.stderr.flush()
    os._exit(EXIT_CODE)

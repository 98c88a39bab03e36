"""What is wrong with a file, said once, in the same form everywhere."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

RESTORE = "restore the file from its origin"
INSTALL = 'pip install -e ".[formats]"'
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class FileProblem(ValueError):
    """A file that cannot be used as it is: `path`, `reason` in one line, `fix` says what to do."""

    def __init__(self, path: Path | str, reason: str, fix: str) -> None:
        super().__init__(f"{path}: {reason}; {fix}")
        self.path = Path(path)
        self.reason = reason
        self.fix = fix

    def __reduce__(self) -> tuple[type["FileProblem"], tuple[Path, str, str]]:
        return type(self), (self.path, self.reason, self.fix)


@contextmanager
def fault_of(path: Path | str) -> Iterator[None]:
    """Raise whatever the work on one file raises as a FileProblem with the file's name; FileProblems pass.

    It is the boundary around everything that is read: no library's error, foreseen or not, leaves it unnamed.
    """
    try:
        yield
    except FileProblem:
        raise
    except MemoryError:
        fix = "leave it out, or read it on a machine with more memory"
        raise FileProblem(path, "takes more memory than there is", fix) from None
    except Exception as error:  # of any kind: the file is the only thing that differs from case to case
        said = " ".join(str(error).split())
        reason = f"cannot be read ({type(error).__name__}{': ' if said else ''}{said})"
        raise FileProblem(path, reason, RESTORE) from error


@contextmanager
def damage_of(path: Path, what: str, most_letters: int | None = None) -> Iterator[None]:
    """Raise whatever a parser raises of the file's contents as a FileProblem: `what`, and what the parser says.

    most_letters  of what it says; None for all
    """
    try:
        yield
    except (FileProblem, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise FileProblem(path, f"{what} ({said[:most_letters]})", RESTORE) from None


def names_its_file(
    read: Callable[Concatenate[Path, Arguments], Result],
) -> Callable[Concatenate[Path | str, Arguments], Result]:
    """Put a function whose first argument is the file that it reads inside `fault_of` that file."""

    @functools.wraps(read)
    def guarded(path: Path | str, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with fault_of(path):
            return read(Path(path), *args, **kwargs)

    return guarded


def readable_size(num_bytes: int) -> str:
    """A byte count for people, in powers of 1000: `3.1 kB`, `2.2 TB`."""
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            break
        size /= 1000
    return f"{size:.4g} {unit}"

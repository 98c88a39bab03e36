"""What is wrong with a file, said once, in the same form everywhere."""

from pathlib import Path


class FileProblem(ValueError):
    """A file that cannot be used as it is: `path`, `reason` in one line, `mend` says what to do about it."""

    def __init__(self, path: Path | str, reason: str, mend: str) -> None:
        super().__init__(f"{path}: {reason}; {mend}")
        self.path = Path(path)
        self.reason = reason
        self.mend = mend

    def __reduce__(self) -> tuple[type["FileProblem"], tuple[Path, str, str]]:
        return type(self), (self.path, self.reason, self.mend)


def readable_size(num_bytes: int) -> str:
    """A byte count for people, in powers of 1000: `3.1 kB`, `2.2 TB`."""
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            break
        size /= 1000
    return f"{size:.4g} {unit}"

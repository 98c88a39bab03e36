"""Which files of a folder are DICOM, told by their names and first bytes; none is parsed here."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_DEPTH = 5  # folders below the one asked for: patient, study, series, and two more
_LOOKED_AT = 20  # files of a folder that are opened to tell whether it holds DICOM
_MAGIC = b"DICM"
_MAGIC_AT = 128


def may_be_dicom(path: Path) -> bool:
    """Return whether a file's name fits: ends in one of SUFFIXES, in none, or in digits: IM0001, 1.2.840.17."""
    name, suffix = path.name, path.suffix.lower()
    if name.startswith(".") or name.upper().startswith("DICOMDIR"):
        return False
    return suffix in ("", ".", *SUFFIXES) or suffix[1:].isdecimal()


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM: by SUFFIXES, else by its name and its first bytes."""
    if not may_be_dicom(path) or path.is_dir():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():  # opening a pipe waits
            return False
        with path.open("rb") as file:
            return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False


def is_series(path: Path) -> bool:
    """Return whether a path is a DICOM file, or a folder that `holds_dicom`."""
    return holds_dicom(path) if path.is_dir() else is_dicom(path)


def holds_dicom(folder: Path) -> bool:
    """Return whether DICOM files lie in a folder, or up to MAX_DEPTH below it, among the first that may be."""
    return any(True for _ in _folders_with_dicom(folder))


def holds_slices(folder: Path) -> bool:
    """Return whether DICOM files lie right in a folder, among the first that may be."""
    return folder.is_dir() and _is_first_dicom(_split(folder)[0])


def list_files(path: Path) -> list[Path]:
    """Return the files of `walk` that may be DICOM by their names, sorted."""
    return sorted(file for file in walk(path) if may_be_dicom(file))


def walk(path: Path) -> Iterator[Path]:
    """Yield the files in a folder and up to MAX_DEPTH below it; of a file those in its folder. No hidden ones."""
    yield from _walk(path, MAX_DEPTH) if path.is_dir() else _walk(path.parent, 0)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    files, folders = _split(folder)
    yield from files
    for below in folders if depth else ():
        yield from _walk(below, depth - 1)


def _folders_with_dicom(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    files, folders = _split(folder)
    if _is_first_dicom(files):
        yield folder
    for below in folders if depth else ():
        yield from _folders_with_dicom(below, depth - 1)


def _is_first_dicom(files: list[Path]) -> bool:
    return any(map(is_dicom, [file for file in files if may_be_dicom(file)][:_LOOKED_AT]))


def _split(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files and the folders in a folder, sorted, without hidden ones; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError:
        return [], []
    names = [(folder / name, is_folder) for name, is_folder in found]
    return [path for path, is_folder in names if not is_folder], [path for path, is_folder in names if is_folder]

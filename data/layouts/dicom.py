"""Cases that are DICOM series: a tree of patients, and which of several series is meant."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from configs.schema.data import DataConfig
from data.files.errors import FileProblem
from data.files.formats.dicom.folder import holds_slices, is_series, walk
from data.files.formats.dicom.series import choose_series, describe_series
from data.files.formats.registry import format_of
from data.layouts.cases import Case, Listing, describe_folder, list_volumes, some, stem
from data.layouts.names import label_word

_log = logging.getLogger("mlx_volumes")


def find_dicom(config: DataConfig) -> Listing:
    """Return a case of each folder in the root that holds DICOM slices, at any depth of patient, study and series.

    Its label is the only volume in another format in that folder or below it, or the only one that is named as a
    label. A root with slices right in it is one case. Raises ValueError where none is found, or several labels.
    """
    root = config.root
    folders = [root] if holds_slices(root) else [path for path in list_volumes(root) if is_series(path)]
    if not folders:
        raise ValueError(f"data.root={root}: no folder with DICOM slices; found {describe_folder(root)}")
    cases = tuple(Case(stem(folder), (folder,), _label_in(folder)) for folder in folders)
    if not any(case.label for case in cases):
        _log.warning(
            "%s: no labels, all %d cases are unlabelled; a label is a file such as seg.nii.gz in a case's folder "
            "(convert SEG with segimage2itkimage, RTSTRUCT with dcmrtstruct2nii)",
            root,
            len(cases),
        )
    return Listing(cases)


def name_series(cases: Iterable[Case], wanted: str | None) -> tuple[Case, ...]:
    """Return the cases, each folder of DICOM series among their images as the one series that `wanted` names.

    It is `data.dicom_series`: see `choose_series`. Cases without such a series are left out, with a warning; a folder
    with several, or with a file that is damaged, stays as it is: reading it says so.
    """
    if wanted is None:
        return tuple(cases)
    chosen, missing = [], []
    for case in cases:
        images: list[Path] = []
        for path in case.images:
            try:
                found = choose_series(path, wanted) if path.is_dir() and is_series(path) else path
            except FileProblem:
                found = path
            if found is None:
                missing.append(f"{path} ({describe_series(path)})")
            else:
                images.append(found)
        if len(images) == len(case.images):
            chosen.append(replace(case, images=tuple(images)))
    if missing:
        _log.warning("data.dicom_series=%s: left out %d folders without it: %s", wanted, len(missing), some(missing))
    if not chosen:
        raise ValueError(f"data.dicom_series={wanted!r}: no folder holds such a series; there are {some(missing)}")
    return tuple(chosen)


def _label_in(folder: Path) -> Path | None:
    """Return the label volume in a case's folder. Raises ValueError where several may be it."""
    found = [path for path in walk(folder) if (known := format_of(path)) is not None and known.is_at is None]
    named = [path for path in found if label_word(path.name)]
    labels = found if len(found) == 1 else named
    if len(found) > 1 and len(labels) != 1:
        names = some(path.relative_to(folder) for path in labels or found)
        raise ValueError(f"{folder}: which is the label, {names}? leave one, or list the cases in a CSV")
    return labels[0] if labels else None

"""Labels to train on where those to score against are others: scribbles, weak or noisy labels (`data.train_labels`)."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from configs.schema.data import DataConfig
from data.layouts.cases import Case, describe_folder, list_volumes, some, stem

_log = logging.getLogger("mlx_volumes")


def add_train_labels(cases: Sequence[Case], config: DataConfig) -> tuple[Case, ...]:
    """Return the cases with the label volumes to train on, as `data.train_labels` names them.

    Where a table's column or pattern gave them they are there already; else they lie in the folder of that name, each
    named as the case's label or as the case. Raises ValueError without that folder, or where no name fits.
    """
    if config.train_labels is None or any(case.train_label is not None for case in cases):
        return tuple(cases)
    root = config.root if config.root.is_dir() else config.root.parent
    folder = root / config.columns.folder / config.train_labels
    if not folder.is_dir():
        raise ValueError(
            f"data.train_labels={config.train_labels!r}: no such column or folder in {config.root}; "
            f"{folder.parent} holds {describe_folder(folder.parent)}"
        )
    found = {stem(path): path for path in list_volumes(folder)}
    names = {case.id: [*([stem(case.label_file)] if case.label_file else []), case.id] for case in cases}
    matched = {case_id: [name for name in tried if name in found] for case_id, tried in names.items()}
    if not any(matched.values()):
        raise ValueError(
            f"data.train_labels={config.train_labels!r}: no file of {folder} ({some(map(str, found)) or 'empty'}) has "
            f"the name of a label or a case ({some(tried[0] for tried in names.values())}); rename them"
        )
    if unused := sorted(set(found) - {tried[0] for tried in matched.values() if tried}):
        _log.warning("%s: no case for %s", folder, some(unused))
    return tuple(replace(case, train_label=found[tried[0]]) if (tried := matched[case.id]) else case for case in cases)

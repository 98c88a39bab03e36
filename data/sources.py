"""Where cases come from: a registry of the layouts that data sets have on disk."""

from collections.abc import Callable
from pathlib import Path

from configs.data_schema import DataConfig
from data.cases import Case, Listing, describe_folder, with_safe_ids
from data.source_files import find_csv, find_folders
from data.source_files import find_images as _find_images
from data.source_json import find_msd, find_nnunet

__all__ = ["LAYOUTS", "SOURCES", "Case", "Listing", "find_cases", "find_images"]

SOURCES: dict[str, Callable[[DataConfig], Listing]] = {
    "msd": find_msd,
    "nnunet": find_nnunet,
    "folders": find_folders,
    "csv": find_csv,
}
LAYOUTS = {
    "msd": "dataset.json that lists image and label files",
    "nnunet": "imagesTr/case_0000.nii.gz and labelsTr/case.nii.gz",
    "folders": "images/ and labels/ with files of the same names",
    "csv": "a table with the columns image and label",
}


def find_cases(config: DataConfig) -> Listing:
    """The cases under `config.root`, as `config.source` finds them; no volume is opened.

    `class_names` are the config's, else the source's, else None. Raises ValueError where the root does not
    hold that layout, naming what it holds.
    """
    root = config.root
    if not root.exists():
        raise ValueError(f"data.root={root}: no such folder; correct it, or fetch the data set")
    if config.source != "csv" and not root.is_dir():
        raise ValueError(f"data.root={root}: data.source={config.source} needs a folder, this is a file")
    if config.source == "msd" and not (root / "dataset.json").exists():
        layouts = "; ".join(f"{name}: {layout}" for name, layout in LAYOUTS.items())
        raise ValueError(
            f"data.root={root}: no dataset.json, which data.source=msd needs; found {describe_folder(root)}. "
            f"Choose data.source by the layout ({layouts})"
        )
    listing = SOURCES[config.source](config)
    cases = with_safe_ids(listing.cases, root)
    if not cases:
        raise ValueError(f"data.root={root}: no cases; data.source={config.source} expects {LAYOUTS[config.source]}")
    return Listing(cases, config.class_names or listing.class_names, listing.channel_names)


def find_images(folder: Path | str) -> tuple[Case, ...]:
    """Unlabelled cases of a folder of volumes, to predict; case_0000, case_0001 ... are one case's channels."""
    return with_safe_ids(_find_images(Path(folder)), Path(folder))

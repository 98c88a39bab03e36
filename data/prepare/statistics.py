"""What prediction must know of the training data: kept in the run as JSON, and given back later."""

from collections.abc import Mapping
from typing import Any

from data.layouts.cases import Listing
from data.prepare.normalise import Intensities
from data.prepare.volumes import Preparation

Statistics = Mapping[str, Any]


def agreed_class_names(listing: Listing, statistics: Statistics | None) -> tuple[str, ...]:
    """Return names by label value, from the listing or, where that has none, from the run's statistics.

    Raises ValueError when neither has any, or they differ.
    """
    names = listing.class_names
    trained = tuple(statistics["class_names"]) if statistics is not None else None
    if names is None and trained is None:
        raise ValueError(
            "data.class_names: the source does not name the classes; list them, background first, as in "
            "data.class_names=[background,organ]"
        )
    if names is not None and trained is not None and tuple(names) != trained:
        raise ValueError(
            f"the data's classes are {list(names)}, the run was trained with {list(trained)}; "
            "evaluate data of the same classes, or set data.class_names"
        )
    chosen = tuple(names or trained or ())
    if len(chosen) < 2 and listing.labels == "volume":
        raise ValueError(f"data.class_names={list(chosen)} needs the background and at least one class")
    return chosen


def agreed_intensities(preparation: Preparation, statistics: Statistics) -> tuple[Intensities, ...] | None:
    """Return the intensities in the run's statistics; raises ValueError when they are of another normalisation."""
    if missing := {"normalisation", "intensities"} - statistics.keys():
        raise ValueError(f"statistics.json: {', '.join(sorted(missing))} missing; restore the run's file")
    if statistics["normalisation"] != preparation.normalisation:
        raise ValueError(
            f"data.normalisation={preparation.normalisation}, but the run's statistics are for "
            f"{statistics['normalisation']}; keep the run's"
        )
    entries = statistics["intensities"]
    return None if entries is None else tuple(Intensities(**entry) for entry in entries)

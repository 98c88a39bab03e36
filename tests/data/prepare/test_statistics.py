"""What a run keeps of its training data, and whether other data fits it."""

import pytest

from data.layouts.cases import Listing
from data.prepare.normalise import Intensities
from data.prepare.statistics import agreed_class_names, agreed_intensities
from data.prepare.volumes import Preparation

STATISTICS = {
    "class_names": ["background", "organ"],
    "normalisation": "ct",
    "intensities": [{"low": -10.0, "high": 90.0, "mean": 40.0, "std": 12.0}],
}


def test_class_names_of_the_listing_or_of_the_run() -> None:
    assert agreed_class_names(Listing((), ("a", "b")), None) == ("a", "b")
    assert agreed_class_names(Listing(()), STATISTICS) == ("background", "organ")
    assert agreed_class_names(Listing((), ("background", "organ")), STATISTICS) == ("background", "organ")
    with pytest.raises(ValueError, match=r"data\.class_names: the source does not name the classes"):
        agreed_class_names(Listing(()), None)
    with pytest.raises(ValueError, match=r"data's classes are \['a', 'b'\], the run was trained with"):
        agreed_class_names(Listing((), ("a", "b")), STATISTICS)
    with pytest.raises(ValueError, match=r"data\.class_names=\['a'\] needs the background and at least one class"):
        agreed_class_names(Listing((), ("a",)), None)


def test_intensities_of_the_run():
    assert agreed_intensities(Preparation(2, normalisation="ct"), STATISTICS) == (Intensities(-10, 90, 40, 12),)
    with pytest.raises(ValueError, match=r"data\.normalisation=none, but the run's statistics are for ct"):
        agreed_intensities(Preparation(2, normalisation="none"), STATISTICS)

"""Real data sets, where there are any."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def datasets() -> Path:
    """The folder of shared data sets: MLX_VOLUMES_DATASETS, or shared/datasets beside the clone."""
    beside = Path(__file__).parents[3] / "shared" / "datasets"
    folder = Path(os.environ.get("MLX_VOLUMES_DATASETS", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set MLX_VOLUMES_DATASETS to their folder")
    return folder

"""What holds for the batches of every input."""

import numpy as np
import pytest

from configs import Config
from data.dataset import Dataset, open_data

Batch = dict[str, np.ndarray]


def batches(data: Dataset, epoch: int = 0, first_batch: int = 0) -> list[Batch]:
    with data.train_stream(epoch, first_batch) as stream:
        return list(iter(stream.next, None))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys() == {"x", "y", "index"}
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def assert_an_epoch_goes_on(data: Dataset, epoch: int, first_batch: int) -> None:
    """A resumed epoch goes on where it stopped."""
    assert_same(batches(data, epoch, first_batch), batches(data, epoch)[first_batch:])


def assert_processes_share_batches_of_four(config: Config) -> None:
    """Ranks take turns within a batch, and their number must divide its size."""
    whole = batches(open_data(config))
    parts = [batches(open_data(config, rank=rank, world=2)) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, share in enumerate(shares):
            for key in share:
                np.testing.assert_array_equal(batch[key][rank::2], share[key])
    with pytest.raises(ValueError, match=r"train\.batch_size=4 must be divisible by the number of processes, 3"):
        open_data(config, world=3)


def assert_too_few_cases(config: Config, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.batch_size={expected}"):
        _ = open_data(config).batches_per_epoch

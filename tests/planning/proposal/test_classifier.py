"""Networks for cases with classes: by how many cases there are, and within the memory."""

import mlx.core as mx
import pytest

from engine.config import config_class
from models import build_model
from models.cnn3d import CNN3dArgs
from planning.proposal.classifier import Classifier, design_classifier


def design(kind: str, size: tuple[int, int, int], num_channels: int, num_train: int) -> Classifier:
    return design_classifier(config_class().choices.networks, kind, size, num_channels, num_train)


@pytest.mark.parametrize(
    ("num_train", "depth", "width"), [(40, 10, 16), (250, 10, 32), (1188, 18, 32), (5000, 18, 64), (20_000, 34, 64)]
)
def test_more_cases_make_deeper_networks(num_train: int, depth: int, width: int) -> None:
    network = design("volumes", (56, 56, 56), 1, num_train)
    assert (network.name, network.args) == ("resnet3d", {"depth": depth, "width": width})
    assert network.why == f"{depth} layers for {num_train} training cases: deeper ones need more"


def test_small_axes_keep_their_voxels_and_resnet18_its_weights() -> None:
    args = design("volumes", (24, 64, 64), 1, 1000).args
    assert (args["stem_stride"], args["stem_kernel"], args["max_pool"]) == ([1, 2, 2], [3, 7, 7], False)
    assert design("volumes", (28, 28, 28), 1, 1000).args["stem_stride"] == [1, 1, 1]

    # Peaks of two training steps in float32 on a CPU, with Adam: what the estimate was fitted to.
    assert design("volumes", (64, 64, 64), 1, 1000).weights == pytest.approx(8_298_402, rel=0.01)


@pytest.mark.parametrize(("frames", "pool"), [(2, [1, 2, 2]), (4, [1, 2, 2]), (8, None), (16, None)])
def test_short_clips_keep_their_frames(frames: int, pool: list[int] | None) -> None:
    args = design("clips", (frames, 16, 16), 1, 40).args
    assert args.get("pool") == pool
    model = build_model("cnn3d", CNN3dArgs.model_validate(args), 1, 2)
    assert model(mx.zeros((1, frames, 16, 16, 1))).shape == (1, 2)


@pytest.mark.parametrize(
    ("network", "batch_size", "measured_gb"),
    [
        (design("volumes", (56, 56, 56), 1, 1000), 4, 0.496),
        (design("volumes", (56, 56, 56), 1, 1000), 8, 0.574),
        (design("volumes", (32, 32, 32), 1, 100), 4, 0.423),
        (design("clips", (16, 80, 80), 1, 100), 4, 0.436),
        (design("clips", (16, 112, 112), 3, 1000), 8, 0.875),
        (design("clips", (16, 112, 112), 3, 5000), 2, 1.366),
    ],
)
def test_the_memory_is_near_what_was_measured(network: Classifier, batch_size: int, measured_gb: float) -> None:
    assert network.training_gb(batch_size) == pytest.approx(measured_gb, rel=0.12)


def test_the_batch_fits_memory_and_cases() -> None:
    network = design("clips", (16, 80, 80), 1, 100)
    assert network.largest_batch(4.0, 1000) == 16
    assert network.largest_batch(4.0, 40) == 8
    assert network.largest_batch(4.0, 3) == 3
    assert network.largest_batch(network.training_gb(4), 1000) == 4
    four, eight, twelve = (network.training_gb(size) for size in (4, 8, 12))
    assert eight - four == pytest.approx(twelve - eight)

"""Several predictions of one case: of draws of one network, or of several networks."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs import Config
from engine.evaluation.labelling import activation
from engine.evaluation.sliding_window import Activate, Predict, Triple, predict_slabs
from engine.metrics.uncertainty import Moments

Hold = Callable[[int], AbstractContextManager[Any]]  # seed -> a context within which the network is one draw


@dataclass(frozen=True)
class Member:
    """One of those whose probabilities are averaged.

    predict  the network
    draw     case id -> a context within which `predict` is this member
    data     what prepares the cases for this network; None: the evaluation's own
    config   the network's, which says what windows it sees; None: the evaluation's
    """

    predict: Predict
    draw: Callable[[str], AbstractContextManager[Any]] = nullcontext
    data: Any = None
    config: Config | None = None


def draw_members(predict: Predict, hold: Hold, count: int, seed: int) -> list[Member]:
    """`count` draws of one network by its dropout (Gal and Ghahramani 2016, arXiv:1506.02142).

    A draw depends on (seed, case id, number) alone, and lasts for the whole case: windows agree where they overlap.
    """

    def draw(number: int) -> Callable[[str], AbstractContextManager[Any]]:
        return lambda case_id: hold(sample_seed(seed, case_id, number))

    return [Member(predict, draw(number)) for number in range(count)]


def sample_seed(seed: int, case_id: str, number: int) -> int:
    """Return the seed of one draw for one case, of 63 bits."""
    digest = hashlib.sha256(f"{seed} {number} {case_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def window_settings(config: Config) -> tuple[Triple, float, int, Sequence[int], Activate]:
    """Return what `predict_slabs` takes after the volumes."""
    settings = config.evaluate
    patch_size = settings.window_size_voxels or config.data.patch_size_voxels
    return patch_size, settings.overlap, settings.window_batch, settings.mirror_axes, activation(config)


def predict_together(
    members: Sequence[Member], case: Any, prepared: Any, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Return the members' mean probabilities (d, h, w, K) and `MEASURES` (d, h, w, 3) of a case, on its prepared grid.

    prepared: the case as the evaluation's own data prepare it. Raises ValueError where a member's data bring the
    case to another grid. Memory: see `Moments`; one member's prediction passes slab by slab.
    """
    moments = None
    for number, member in enumerate(members, 1):
        own = prepared if member.data is None else member.data.load(case)
        if own.grid.shape != prepared.grid.shape or not np.array_equal(own.grid.affine, prepared.grid.affine):
            raise ValueError(
                f"the members of the ensemble prepare case {case.id} on different grids, {prepared.grid.shape} and "
                f"{own.grid.shape}; give runs of one data.spacing_mm and data.crop_nonzero"
            )
        with member.draw(case.id):
            for _, first, slab in predict_slabs(
                member.predict, [own.volume], *window_settings(member.config or config)
            ):
                if moments is None:
                    moments = Moments(own.volume.shape[:3], slab.shape[-1], config.data.regions is not None)
                moments.add(number, first, slab)
    assert moments is not None  # there is a member, and every volume has a voxel
    return moments.finish(len(members))

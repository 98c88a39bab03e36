"""Intensities brought to a common scale, per channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Normalisation = Literal["zscore", "zscore_nonzero", "percentile", "ct", "none"]


@dataclass(frozen=True)
class Intensities:
    """Foreground intensities of one channel over the training split: what `ct` scales by."""

    low: float
    high: float
    mean: float
    std: float


def normalise(
    volume: np.ndarray,
    kind: Normalisation,
    percentiles: tuple[float, float] = (0.5, 99.5),
    intensities: Sequence[Intensities] | None = None,
) -> list[str]:
    """Scale a float32 volume (D, H, W, C) in place, channel by channel; return notes on what it could not do.

    zscore          (v - mean) / sd over the whole channel
    zscore_nonzero  the same over its voxels other than 0, which stay 0
    percentile      clipped to the channel's `percentiles`, then scaled to 0..1
    ct              clipped to the training foreground's percentiles, then (v - its mean) / its sd
    none            left alone

    A channel without spread becomes 0 everywhere, which is noted, never a division by zero.
    Raises ValueError when `ct` has no `intensities`, or as many as the volume has not channels.
    """
    if kind == "none":
        return []
    if kind == "ct" and (intensities is None or len(intensities) != volume.shape[-1]):
        raise ValueError(
            f"data.normalisation=ct needs the training split's intensities for {volume.shape[-1]} channels; "
            f"got {0 if intensities is None else len(intensities)}; give the run's statistics"
        )
    notes = []
    for channel in range(volume.shape[-1]):
        voxels = volume[..., channel]  # (D, H, W), a view
        if kind == "zscore":
            mean, std = moments(voxels)
            low, high, shift, scale = None, None, mean, std
        elif kind == "zscore_nonzero":
            mean, std = moments(voxels, nonzero=True)
            low, high, shift, scale = None, None, mean, std
        elif kind == "percentile":
            low, high = (float(v) for v in np.percentile(voxels, percentiles))
            shift, scale = low, high - low
        else:
            assert intensities is not None
            known = intensities[channel]
            low, high, shift, scale = known.low, known.high, known.mean, known.std
        # Below float32's resolution at that magnitude, spread is rounding noise.
        if scale <= 1e-6 * max(abs(shift), 1e-30):
            notes.append(f"channel {channel} has no spread (sd or range {scale:.3g}): set to 0")
            voxels[...] = 0
            continue
        for plane in voxels:  # (H, W): temporaries stay small
            empty = plane == 0 if kind == "zscore_nonzero" else None
            if low is not None:
                np.clip(plane, low, high, out=plane)
            plane -= np.float32(shift)
            plane *= np.float32(1 / scale)
            if empty is not None:
                plane[empty] = 0
    return notes


def moments(voxels: np.ndarray, nonzero: bool = False) -> tuple[float, float]:
    """Return the mean and standard deviation (population) of (D, H, W), summed in float64 plane by plane; with
    `nonzero` over the voxels other than 0. (0, 0) where there are none.
    """
    count, total = 0, 0.0
    for plane in voxels:
        chosen = plane[plane != 0] if nonzero else plane
        count += chosen.size
        total += float(chosen.sum(dtype=np.float64))
    if count == 0:
        return 0.0, 0.0
    mean, squares = total / count, 0.0
    for plane in voxels:
        chosen = plane[plane != 0] if nonzero else plane
        squares += float(np.square(chosen - mean, dtype=np.float64).sum())
    return mean, float(np.sqrt(squares / count))


def foreground_intensities(
    samples: Sequence[np.ndarray], percentiles: tuple[float, float] = (0.5, 99.5)
) -> list[Intensities]:
    """Return intensities per channel from foreground voxels (n, C), one array a training case.

    Every voxel of these counts alike. Raises ValueError when there is none.
    """
    values = np.concatenate([np.asarray(s, np.float64) for s in samples]) if samples else np.zeros((0, 1))
    if len(values) == 0:
        raise ValueError(
            "data.normalisation=ct scales by the foreground of the training split, but none of its labels has "
            "any; check the labels, or use data.normalisation=zscore"
        )
    low, high = np.percentile(values, percentiles, axis=0)
    mean, std = values.mean(axis=0), values.std(axis=0)
    return [
        Intensities(float(a), float(b), float(m), float(s)) for a, b, m, s in zip(low, high, mean, std, strict=True)
    ]

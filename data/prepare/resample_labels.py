"""Labels from one grid onto another that shares its axes: every label keeps its volume.

The largest interpolated share alone would not do: what is thin, round or small has few voxels by more than half, so it
would shrink on a coarser grid, and at whole ratios of the spacings half of the border's voxels are ties.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from data.files.grid import Grid
from data.prepare.resample import Taps, interpolated_slabs, linear_taps, smooth, smoothing_sigmas

Pairs = list[tuple[np.ndarray, np.ndarray]]  # by label: flat target voxels (n,), its shares of them (n,) float32
Box = tuple[slice, ...]

_LEAST = 1e-3  # a smaller share of a voxel counts for nothing, a larger one than 1 less this for all
_NEARER = 1e-3  # what the nearest source voxel's label is ahead in a tie
_TEMPERATURES, _STEPS = (0.1, 0.03, 0.01, 0.003), 5
_MOST_LOST = 0.2  # of a voxel, where one goes to another label than the best


def resample_label(label: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Return the label (D, H, W) on the target grid, same integer dtype, with no value that the source lacks.

    Each value's indicator is smoothed where the grid gets coarser, as `resample_image` smooths, and interpolated
    linearly: its share of each target voxel. A voxel goes to the value whose share, plus an amount of the value's own,
    is largest; the amounts are such that each value gets as many voxels as its volume asks for. Ties go to the nearest
    source voxel's value, so that no value is preferred. The most frequent one takes what is left: the two grids'
    fields may differ by half a voxel at either end.

    A value of less than half a target voxel in all is lost; of structures below a voxel, those stay that fill most of
    one. Extra memory: some 10 bytes a target voxel, and one value's box of the source in float32 at a time.
    """
    taps = linear_taps(source, target)
    values, counts = np.unique(label, return_counts=True)
    if len(values) == 1:
        return np.full(target.shape, values[0], label.dtype)
    if all(tap is None for tap in taps):
        return label.copy()
    most = int(counts.argmax())
    wanted = np.rint(counts * (source.voxel_volume_mm3 / target.voxel_volume_mm3)).astype(np.int64)
    sigmas, boxes = smoothing_sigmas(source, target), ndimage.find_objects(label)
    result = np.full(target.shape, values[most], label.dtype)
    flat, rest = result.reshape(-1), np.ones(result.size, np.float32)  # rest: the share of the most frequent value
    pairs: Pairs = []
    for number, value in enumerate(values.tolist()):
        if number == most:
            pairs.append((np.zeros(0, np.intp), np.zeros(0, np.float32)))
            continue
        box = boxes[value - 1] if value > 0 else tuple(slice(0, n) for n in label.shape)
        voxels, shares = _shares(label, value, box, taps, sigmas, target.shape)
        rest[voxels] -= shares
        whole = shares > 1 - _LEAST
        flat[voxels[whole]] = value
        rest[voxels[whole]] = 1  # settled
        wanted[number] -= np.count_nonzero(whole)
        pairs.append((voxels[~whole], shares[~whole]))
    rows = np.flatnonzero(rest < 1 - _LEAST)
    shares, candidates = _table(rows, rest, pairs, most)
    nearest = np.searchsorted(values, _nearest(label, taps).reshape(-1)[rows])
    shares += np.float32(_NEARER) * (candidates == nearest)
    flat[rows] = values[_share_out(shares, candidates, wanted, most)]
    return result


def _shares(
    label: np.ndarray, value: int, box: Box, taps: list[Taps], sigmas: Sequence[float], shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (flat target voxels, shares) where `value`, all of which lies in `box` of the source, has a share."""
    reads, writes = [], []
    own_taps: list[Taps] = []
    for size, inside, tap, sigma in zip(label.shape, box, taps, sigmas, strict=True):
        reach = int(4 * sigma + 0.5)  # of the Gaussian
        low, high = max(inside.start - reach, 0), min(inside.stop + reach, size)
        if tap is None:
            reads.append(slice(low, high))
            writes.append(slice(low, high))
            own_taps.append(None)
            continue
        index, weight = tap
        reached = np.flatnonzero(((index >= low) & (index < high)).any(axis=1))
        if not len(reached):
            return np.zeros(0, np.intp), np.zeros(0, np.float32)
        wrote = slice(int(reached[0]), int(reached[-1]) + 1)
        low = max(min(low, int(index[wrote].min())), 0)
        high = max(high, int(index[wrote].max()) + 1)
        reads.append(slice(low, high))
        writes.append(wrote)
        own_taps.append((index[wrote] - low, weight[wrote]))
    part = (label[tuple(reads)] == value).astype(np.float32)
    smooth(part, sigmas)
    own_shape = tuple(wrote.stop - wrote.start for wrote in writes)
    voxels, shares = [], []
    for planes, slab in interpolated_slabs(part, own_taps, own_shape):
        there = np.nonzero(slab > _LEAST)
        shares.append(slab[there])
        starts = (writes[0].start + planes.start, writes[1].start, writes[2].start)
        voxels.append(np.ravel_multi_index([axis + start for axis, start in zip(there, starts, strict=True)], shape))
    return np.concatenate(voxels), np.concatenate(shares)


def _table(rows: np.ndarray, rest: np.ndarray, pairs: Pairs, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (shares, numbers of the labels), each (columns, rows): the labels that the voxel of each row may go to.

    The first column is the most frequent label; labels that a voxel hasn't have the share -inf.
    """
    row_of = np.full(len(rest), -1, np.int32)
    row_of[rows] = np.arange(len(rows), dtype=np.int32)
    filled = np.ones(len(rows), np.int16)
    for voxels, _ in pairs:
        filled[row_of[voxels][row_of[voxels] >= 0]] += 1
    shares = np.full((int(filled.max(initial=1)), len(rows)), -np.inf, np.float32)
    candidates = np.full(shares.shape, most, np.int16)
    shares[0] = rest[rows]
    filled[:] = 1
    for number, (voxels, own) in enumerate(pairs):
        row = row_of[voxels]
        own, row = own[row >= 0], row[row >= 0]
        shares[filled[row], row] = own
        candidates[filled[row], row] = number
        filled[row] += 1
    return shares, candidates


def _share_out(shares: np.ndarray, candidates: np.ndarray, wanted: np.ndarray, most: int) -> np.ndarray:
    """Return the number of a label for each row, so that label k gets `wanted[k]` rows, all but the most frequent one.

    A transport problem, in which a voxel costs what its label lacks of all of it. The amounts added to the shares are
    its dual, those of the problem with less and less entropy (Cuturi 2013, «Sinkhorn distances»).
    """
    wanted = wanted.clip(0)
    wanted[most] = max(shares.shape[1] - (wanted.sum() - wanted[most]), 0)
    amounts = np.where((wanted > 0) | (np.arange(len(wanted)) == most), 0.0, -np.inf)
    for temperature in _TEMPERATURES:
        for _ in range(_STEPS):
            soft = (shares + amounts[candidates].astype(np.float32)) / np.float32(temperature)
            soft = np.exp(soft - soft.max(axis=0))
            soft /= soft.sum(axis=0)
            has = np.bincount(candidates.reshape(-1), soft.reshape(-1), len(wanted))
            amounts += temperature * np.log(wanted.clip(1) / has.clip(1e-3))
    return _move(shares + amounts[candidates].astype(np.float32), candidates, wanted)


def _move(scores: np.ndarray, candidates: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the label of the highest score for each row, but for those rows that `wanted` asks for elsewhere.

    What a label has too many goes to those that have too few, over others between them where need be, by the chain
    that loses the least.
    """
    best = scores.argmax(axis=0)[None]
    chosen = np.take_along_axis(candidates, best, 0)[0].astype(np.intp)
    num_labels, lacking = len(wanted), wanted - np.bincount(chosen, minlength=len(wanted))
    loss = np.take_along_axis(scores, best, 0) - scores
    column, row = np.nonzero((loss < _MOST_LOST) & (candidates != chosen))
    order = np.argsort(loss[column, row], kind="stable")
    column, row = column[order], row[order]
    loss, to = loss[column, row], candidates[column, row].astype(np.intp)
    while (lacking > 0).any() and (lacking < 0).any():
        step = chosen[row] * num_labels + to  # from one label to another, the cheapest first
        steps, first, available = np.unique(step, return_index=True, return_counts=True)
        graph = csr_array((loss[first] + 1e-6, np.divmod(steps, num_labels)), (num_labels, num_labels))
        sources, sinks = np.flatnonzero(lacking < 0), np.flatnonzero(lacking > 0)
        distances, before = dijkstra(graph, indices=sources, return_predecessors=True)
        start, end = np.unravel_index(distances[:, sinks].argmin(), (len(sources), len(sinks)))
        if not np.isfinite(distances[start, sinks[end]]):
            break
        chain = [int(sinks[end])]
        while chain[-1] != sources[start]:
            chain.append(int(before[start, chain[-1]]))
        links = [a * num_labels + b for b, a in pairwise(chain)]
        num = min(-lacking[chain[-1]], lacking[chain[0]], *(available[np.searchsorted(steps, link)] for link in links))
        for link in links:
            moved = row[np.flatnonzero(step == link)[:num]]
            chosen[moved] = link % num_labels
            keep = ~np.isin(row, moved)
            row, to, loss, step = row[keep], to[keep], loss[keep], step[keep]
        lacking[chain[-1]] += num
        lacking[chain[0]] -= num
    return chosen


def _nearest(label: np.ndarray, taps: list[Taps]) -> np.ndarray:
    """Return the label of the source voxel nearest to each target voxel; of two as near, the one further on."""
    for axis, tap in enumerate(taps):
        if tap is not None:
            index, weight = tap
            label = label.take(np.where(weight[:, 1] >= 0.5, index[:, 1], index[:, 0]), axis)
    return label

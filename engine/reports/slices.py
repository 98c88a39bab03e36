"""Three planes through a case's foreground, kept small until the report knows which cases to show."""

import zlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Slices:
    """The planes of (D, H, W) label volumes that hold most foreground, one across each axis."""

    positions: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    packed: tuple[tuple[bytes, bytes | None], ...]  # compressed uint16 prediction and reference, per axis

    def prediction(self, axis: int) -> np.ndarray:
        """(rows, columns) of the plane across `axis`: (H, W), (D, W) or (D, H)."""
        return self._unpack(self.packed[axis][0], axis)

    def reference(self, axis: int) -> np.ndarray | None:
        packed = self.packed[axis][1]
        return None if packed is None else self._unpack(packed, axis)

    def cut(self, volume: np.ndarray, axis: int) -> np.ndarray:
        """Return the same plane of another (D, H, W) volume on the same grid."""
        return np.take(volume, self.positions[axis], axis)

    def _unpack(self, packed: bytes, axis: int) -> np.ndarray:
        shape = [size for i, size in enumerate(self.shape) if i != axis]
        return np.frombuffer(zlib.decompress(packed), np.uint16).reshape(shape)


@dataclass(frozen=True)
class PackedPlane:
    """One plane of several maps, (M, rows, columns), kept small in float16."""

    shape: tuple[int, int, int]
    packed: bytes

    @classmethod
    def pack(cls, maps: np.ndarray) -> "PackedPlane":
        """maps: (rows, columns, M)."""
        plane = np.moveaxis(maps, -1, 0).astype(np.float16)
        return cls(plane.shape, zlib.compress(plane.tobytes(), level=1))

    def unpack(self) -> np.ndarray:
        """(M, rows, columns) float32."""
        return np.frombuffer(zlib.decompress(self.packed), np.float16).reshape(self.shape).astype(np.float32)


def cut_slices(prediction: np.ndarray, reference: np.ndarray | None, spacing_mm: tuple[float, float, float]) -> Slices:
    """Planes across the reference's foreground where there is one, else across the prediction's."""
    foreground = prediction if reference is None or not reference.any() else reference
    d = _fullest(np.array([np.count_nonzero(plane) for plane in foreground]))
    h = _fullest(sum(np.count_nonzero(plane, axis=1) for plane in foreground))
    w = _fullest(sum(np.count_nonzero(plane, axis=0) for plane in foreground))
    positions = (d, h, w)
    packed = tuple(
        (
            _pack(np.take(prediction, position, axis)),
            None if reference is None else _pack(np.take(reference, position, axis)),
        )
        for axis, position in enumerate(positions)
    )
    return Slices(positions, spacing_mm, prediction.shape, packed)


def _fullest(counts: np.ndarray) -> int:
    return int(counts.argmax()) if counts.any() else len(counts) // 2


def _pack(plane: np.ndarray) -> bytes:
    return zlib.compress(plane.astype(np.uint16).tobytes(), level=1)

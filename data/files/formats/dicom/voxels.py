"""The pixels of a DICOM file, decoded by pydicom, or by SimpleITK where pydicom cannot."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.files.errors import INSTALL, RESTORE, FileProblem
from data.files.formats.dicom.instances import Instance, damaged, is_packed, open_plain

_RLE = "1.2.840.10008.1.2.5"
_ITEM = b"\xfe\xff\x00\xe0"  # before each fragment of compressed pixels, and before its length
_BESIDES_PIXELS = 64 << 20  # of a deflated file


def read_frames(instance: Instance) -> Iterator[np.ndarray]:
    """Yield the frames (rows, columns) of a file as stored, unused bits cleared. Raises FileProblem."""
    count = 0
    with damaged(instance.path):
        for frame in _decode(instance):
            if frame.shape != instance.size:
                raise FileProblem(instance.path, f"pixels of shape {frame.shape}, promised {instance.size}", RESTORE)
            yield _used_bits(frame, instance)
            count += 1
        if count != len(instance.slices):
            raise FileProblem(instance.path, f"{count} frames, promised {len(instance.slices)}", RESTORE)


def _decode(instance: Instance) -> Iterator[np.ndarray]:
    from pydicom.pixels import iter_pixels

    promised = instance.size[0] * instance.size[1] * len(instance.slices) * instance.dtype.itemsize
    with open_plain(instance.path, promised + _BESIDES_PIXELS) as file:
        named = {} if instance.syntax.endswith(".99") else {"transfer_syntax_uid": instance.syntax}
        frames = iter_pixels(file, raw=True, **named)
        if not is_packed(instance.syntax) or instance.syntax == _RLE or len(instance.slices) > 1:
            yield from frames
            return
        try:
            found = list(frames)
        except (RuntimeError, NotImplementedError, ValueError, AttributeError):  # by codec and what is installed
            found = [_decode_with_simpleitk(instance)]
    yield from found


def _decode_with_simpleitk(instance: Instance) -> np.ndarray:
    """Return the pixels (rows, columns) of a file of one frame, as stored: SimpleITK applies the scale factors."""
    try:
        import SimpleITK
    except ImportError:
        from pydicom.uid import UID

        reason = f"compressed as {UID(instance.syntax).name}, which is not decoded here"
        raise FileProblem(instance.path, reason, f"{INSTALL}, or decompress it with gdcmconv --raw") from None
    _check_fragments(instance.path)
    try:
        values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(instance.path)))[0]
    except RuntimeError:
        raise FileProblem(instance.path, "pixels that neither pydicom nor SimpleITK decodes", RESTORE) from None
    slope, inter = instance.slices[0].scale
    return np.rint((values.astype(np.float64) - inter) / (slope or 1.0)).astype(instance.dtype)


def _check_fragments(path: Path) -> None:
    """Raise FileProblem for compressed pixels that promise more bytes than follow: GDCM takes the memory at once."""
    import pydicom

    pixels, at = pydicom.dcmread(path, force=True).PixelData, 0
    while at < len(pixels):
        length = int.from_bytes(pixels[at + 4 : at + 8], "little")
        if pixels[at : at + 4] != _ITEM or at + 8 + length > len(pixels):
            raise FileProblem(path, "damaged: compressed pixels that are no whole fragments", RESTORE)
        at += 8 + length


def _used_bits(frame: np.ndarray, instance: Instance) -> np.ndarray:
    """Return values of the bits that are stored: in the others there may be anything, such as overlays."""
    stored, highest = instance.bits
    allocated = instance.dtype.itemsize * 8
    if stored == allocated or is_packed(instance.syntax):
        return frame
    raised = frame.astype(instance.dtype) << (allocated - 1 - highest)  # the sign to the top; then it comes down again
    return raised >> (allocated - stored)

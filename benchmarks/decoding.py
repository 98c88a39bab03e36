"""Reading clips against PyAV alone and imageio's plug-ins, clip by clip in one run.

python -m benchmarks.decoding FOLDER [--clips 20] [--short-side 128] [--json FILE]
"""

import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import av
import imageio.v3 as iio

from benchmarks.shared.command import make_parser, write_rows
from data.files.clips import read_clip, read_frames

Reader = Callable[[Path, int], int]  # (clip, short side) -> how many frames


def ours(path: Path, short_side: int) -> int:
    """Read all frames, resized, with their times."""
    return len(read_clip(path, short_side).times_s)


def pyav(path: Path, short_side: int) -> int:
    """Decode all frames at full size: the least that reading takes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(len(frame.to_ndarray(format="rgb24")) > 0 for frame in container.decode(stream))


def imageio_pyav(path: Path, short_side: int) -> int:
    """Read all frames at full size through imageio's PyAV plug-in."""
    return sum(1 for _ in iio.imiter(path, plugin="pyav", thread_count=1))


def imageio_ffmpeg(path: Path, short_side: int) -> int:
    """Read all frames at full size through imageio's ffmpeg plug-in, which pip installs as imageio-ffmpeg."""
    return sum(1 for _ in iio.imiter(path, plugin="FFMPEG"))


def measure(paths: list[Path], short_side: int) -> list[dict[str, float | str]]:
    """Return a row per reader: median milliseconds per frame, wall-clock and of all threads and child processes; the
    wall-clock's ratio to PyAV's; and milliseconds for only the last frame of a clip."""
    readers: dict[str, Reader] = {"pyav": pyav, "ours": ours, "imageio pyav": imageio_pyav}
    if find_spec("imageio_ffmpeg") is not None:
        readers["imageio ffmpeg"] = imageio_ffmpeg
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    jumps: dict[str, list[float]] = {name: [] for name in readers}
    for path in paths:  # readers take turns, so that other load on the machine affects all of them
        for name, read in readers.items():
            clock, work = time.perf_counter(), sum(os.times()[:4])
            frames = read(path, short_side)
            spent[name].append(((time.perf_counter() - clock) / frames, (sum(os.times()[:4]) - work) / frames))
        footage = read_clip(path, short_side, keep_frames=False)
        last = len(footage.times_s) - 1
        for name in readers:
            clock = time.perf_counter()
            if name == "ours":
                read_frames(path, footage, [last], short_side)
            elif name != "pyav":
                iio.imread(path, plugin="pyav" if name == "imageio pyav" else "FFMPEG", index=last)
            jumps[name].append(time.perf_counter() - clock)
    medians = {
        name: [1e3 * statistics.median(part) for part in zip(*pairs, strict=True)] for name, pairs in spent.items()
    }
    return [
        {
            "reader": name,
            "milliseconds": clock,
            "cpu_milliseconds": work,
            "over_pyav": clock / medians["pyav"][0],
            "last_frame_milliseconds": 0.0 if name == "pyav" else 1e3 * statistics.median(jumps[name]),
        }
        for name, (clock, work) in medians.items()
    ]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="clips, *.mp4 at any depth")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--short-side", type=int, default=128)
    options = parser.parse_args()
    found = sorted(options.folder.rglob("*.mp4"))
    if not found:
        raise SystemExit(f"{options.folder}: no .mp4 files")
    rows = measure(found[:: max(len(found) // options.clips, 1)][: options.clips], options.short_side)
    print(f"{'reader':16}{'ms a frame':>12}{'CPU ms':>10}{'over PyAV':>12}{'last frame, ms':>16}")
    for row in rows:
        print(
            f"{row['reader']:16}{row['milliseconds']:12.2f}{row['cpu_milliseconds']:10.2f}{row['over_pyav']:12.2f}"
            f"{row['last_frame_milliseconds']:16.1f}"
        )
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()

"""Memory of classifying a long video in windows: one generated here, by a run of `make demo`'s clips.

python -m benchmarks.long_video runs/demo_clips [--minutes 20] [--window-seconds 1.5] [--hop-seconds 0.5]
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from data.synthetic.moving_shapes import DIRECTIONS, FRAMES_PER_SECOND, SIZE_PIXELS, make_clip
from engine.evaluate import evaluate

SECONDS = 10  # that a shape moves one way


def write_video(path: Path, minutes: float) -> Path:
    """Write a video of shapes that move another way every SECONDS, frame by frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width = stream.height = SIZE_PIXELS
        stream.pix_fmt = "yuv420p"
        for part in range(round(60 * minutes / SECONDS)):
            direction = list(DIRECTIONS.values())[part % len(DIRECTIONS)]
            for picture in make_clip(np.random.default_rng(part), direction, SECONDS * FRAMES_PER_SECOND):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run the command: print seconds, windows and the largest resident memory of the process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_video", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="a run of configs/demo_clips.yaml")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--window-seconds", type=float, default=1.5)
    parser.add_argument("--hop-seconds", type=float, default=0.5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(Path(folder) / "long.mp4", options.minutes)
        started = time.perf_counter()
        how = {"window_seconds": options.window_seconds, "hop_seconds": options.hop_seconds}
        found = evaluate(options.run, images=video, output=Path(folder) / "out", **how)
        seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    (windows,) = found.metrics["windows"].values()
    print(f"{options.minutes:g} minutes, {windows} windows: {seconds:.0f} s, peak memory {peak:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Generated clips, as real mp4 files, of classes that differ in motion alone: what the demo classifies.

A blob drifts to the left, to the right, up or down over a still background and comes back in on the other side.
Where it starts is uniform over the frame, so single frames of all classes are alike, and a network that sees one
frame can only guess.

python -m data.synthetic.moving_shapes FOLDER
"""

import argparse
import gc
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from scipy.ndimage import gaussian_filter

DIRECTIONS = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)}  # of (row, column)
SIZE_PIXELS = 48
FRAMES_PER_SECOND = 12


def write_moving_shapes(folder: Path, clips: int = 80, seed: int = 0, frames: int = 16) -> Path:
    """Write `clips` clips of each class below `folder/<class>` and return the folder.

    Their frames depend on the arguments alone, up to the encoder's rounding. Raises ValueError when the folder
    holds files already.
    """
    if clips < 1 or frames < 2:
        raise ValueError(f"clips={clips} must be at least 1 and frames={frames} at least 2")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected a new or empty folder; choose another, or remove it first")
    for number, (name, direction) in enumerate(DIRECTIONS.items()):
        (folder / name).mkdir(parents=True)
        for clip in range(clips):
            path = folder / name / f"{name}_{clip:03d}.mp4"
            pictures = make_clip(np.random.default_rng([seed, number, clip]), direction, frames)
            iio.imwrite(path, pictures, plugin="pyav", codec="libx264", fps=FRAMES_PER_SECOND)
    return folder


def make_clip(rng: np.random.Generator, direction: tuple[int, int], frames: int = 16) -> np.ndarray:
    """Return one clip (frames, SIZE_PIXELS, SIZE_PIXELS, 3) uint8; `direction` is (rows, columns) of a step."""
    background = gaussian_filter(rng.standard_normal((SIZE_PIXELS, SIZE_PIXELS, 3)), (3, 3, 0), mode="wrap")
    background = 110 + 25 * background / background.std()
    colour = rng.uniform(-90, 90, 3)
    colour += 90 * np.sign(colour)  # stands out against the background
    radius, speed = rng.uniform(5, 8), rng.uniform(2.0, 3.5)
    start = rng.uniform(0, SIZE_PIXELS, 2)
    pictures = np.empty((frames, SIZE_PIXELS, SIZE_PIXELS, 3), np.uint8)
    for time, picture in enumerate(pictures):
        centre = start + time * speed * np.array(direction)
        rows, columns = (_around(np.arange(SIZE_PIXELS) - c) for c in centre)
        distance = np.hypot(rows[:, None], columns)
        inside = 1 / (1 + np.exp(np.clip(2 * (distance - radius), -30, 30)))  # a soft edge
        noise = rng.normal(0, 4, picture.shape)
        picture[...] = np.clip(background + inside[..., None] * colour + noise, 0, 255)
    return pictures


def _around(distance: np.ndarray) -> np.ndarray:
    """Return the shorter distance, past the frame's edge where that is the shorter one."""
    return (distance + SIZE_PIXELS / 2) % SIZE_PIXELS - SIZE_PIXELS / 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command: write clips into a folder, and print where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m data.synthetic.moving_shapes",
        description="Write generated clips of shapes that move four ways.",
    )
    parser.add_argument("folder", type=Path, help="new folder for a folder of clips for each class")
    parser.add_argument("--clips", type=int, default=80, help="how many of each class (default: 80)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files (default: 0)")
    options = parser.parse_args(arguments)
    gc.freeze()  # imageio collects garbage twice a file; modules loaded by now need no collection
    try:
        folder = write_moving_shapes(options.folder, options.clips, options.seed)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{len(DIRECTIONS) * options.clips} clips: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

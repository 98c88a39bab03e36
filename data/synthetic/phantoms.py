"""Phantoms that look like head MRI, written as real NIfTI files in a Medical Segmentation Decathlon folder.

`python -m data.synthetic.phantoms FOLDER` writes them. A head with smooth texture holds three labelled structures: a
`nucleus` and a `crescent` of one intensity, told apart by place and shape, and the `vessel`, a thin, bright,
open ring. An unlabelled decoy has the intensity of the first two, the scalp that of the vessel. Each case has
its own anatomy, bias field, noise, spacing, obliquity, orientation and data type.
"""

import argparse
import json
import sys
from pathlib import Path

import nibabel
import numpy as np

CLASS_NAMES = ("background", "nucleus", "crescent", "vessel")

_EXTENT_MM = np.array([68.0, 80.0, 64.0])  # field of view along x, y, z; the head fills about 0.8 of it
_DTYPES = (np.int16, np.float32, np.uint8)  # uint8 is written with a slope


def write_phantoms(folder: Path, cases: int = 40, seed: int = 0, shape: tuple[int, int, int] = (40, 56, 48)) -> Path:
    """Write `cases` phantoms below `folder` and return the path of their `dataset.json`.

    `shape` (D, H, W) is the mean size in voxels; the extent in mm stays, so smaller is coarser. Files depend
    on (seed, case, shape) alone. Raises ValueError when the folder holds files already.
    """
    if cases < 1:
        raise ValueError(f"cases={cases} must be at least 1")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected a new or empty folder; choose another, or remove it first")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)

    training = []
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        image, label, affine = make_phantom(rng, shape)
        orientation = _random_orientation(rng)
        files = {"image": f"./imagesTr/phantom_{case:03d}.nii.gz", "label": f"./labelsTr/phantom_{case:03d}.nii.gz"}
        _save(folder / files["image"], image, affine, orientation, _DTYPES[case % len(_DTYPES)])
        _save(folder / files["label"], label, affine, orientation, np.uint8)
        training.append(files)

    facts = {
        "name": "phantoms",
        "description": "Synthetic head MRI with two structures and a thin one",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in enumerate(CLASS_NAMES)},
        "numTraining": cases,
        "numTest": 0,
        "training": training,
        "test": [],
    }
    path = folder / "dataset.json"
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return path


def make_phantom(
    rng: np.random.Generator, shape: tuple[int, int, int] = (40, 56, 48)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one phantom: image (X, Y, Z) float32 of about 0..1000, label (X, Y, Z) uint8, affine (4, 4) to RAS+ mm.

    `shape` (D, H, W) is the mean size in voxels; one random axis has thicker slices.
    """
    spacing = _EXTENT_MM / np.array(shape[::-1]) * rng.uniform(0.9, 1.1, 3)
    spacing[rng.integers(3)] *= rng.uniform(1.2, 1.4)
    size = np.maximum(np.rint(_EXTENT_MM / spacing), 4).astype(int)  # (X, Y, Z)
    affine = np.eye(4)
    affine[:3, :3] = _rotation(rng.uniform(-8, 8, 3)) * spacing
    centre = rng.uniform(-20, 20, 3)  # of the head, in scanner coordinates
    affine[:3, 3] = centre - affine[:3, :3] @ ((size - 1) / 2)

    voxels = np.indices(size).reshape(3, -1)
    points = (affine[:3, :3] @ voxels + (affine[:3, 3:] - centre[:, None])).astype(np.float32)  # (3, voxels), mm
    points /= rng.uniform(0.93, 1.07, (3, 1))  # heads differ in size
    points = points + np.stack([_waves(points, rng, 4, (50, 90), 2.0) for _ in range(3)])  # and in form
    image, label = _anatomy(points, rng)

    field = _waves(points, rng, 4, (90, 200), 0.25)
    image = image * np.exp(field) + 25 * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.abs(image) * rng.uniform(0.8, 1.2)  # magnitude images have no negative values
    return image.reshape(size).astype(np.float32), label.reshape(size), affine


def _anatomy(points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return intensities float32 and labels uint8 at points (3, voxels) in mm, x to the right, y front, z up."""

    def near(*position: float) -> np.ndarray:
        return np.array(position) + rng.uniform(-1.5, 1.5, 3)

    texture = _waves(points, rng, 16, (9, 30), 1.0)
    head = _ellipsoid(points, np.zeros(3), (28, 33, 26))
    brain = _ellipsoid(points, np.zeros(3), (23, 28, 21))
    side = int(rng.choice([-1, 1]))
    nucleus = _ellipsoid(points, near(side * 8, 10, -5), rng.uniform(7, 10, 3))
    crescent = _arc(points, near(0, -6, -7), 13.0, -90, 65, axes=(0, 1)) - rng.uniform(5, 6.5)
    vessel = _arc(points, near(0, -1, 7), 15.0, rng.uniform(0, 360), 150, axes=(0, 1)) - rng.uniform(2.4, 2.9)
    decoy = _ellipsoid(points, near(-side * 12, 6, -5), rng.uniform(4, 5.5, 3))

    image = np.zeros(points.shape[1], np.float32)
    grey = rng.uniform(600, 660)  # nucleus, crescent and decoy differ by less than their texture
    for distance, value in (
        (head, rng.uniform(800, 900)),
        (head + 3, 100.0),  # skull
        (brain, 420 + 60 * np.tanh(2 * texture)),
        (decoy, grey + 15 * texture),
        (nucleus, grey + 15 * texture),
        (crescent, grey + 15 * texture),
        (vessel, rng.uniform(850, 950)),
    ):
        inside = 1 / (1 + np.exp(np.clip(distance / 0.4, -30, 30)))  # partial volume at the border
        image += inside * (value - image)
    label = np.zeros(points.shape[1], np.uint8)
    for value, distance in enumerate((nucleus, crescent, vessel), start=1):
        label[distance < 0] = value
    return image, label


def _ellipsoid(points: np.ndarray, centre: np.ndarray, radii: tuple[float, ...] | np.ndarray) -> np.ndarray:
    """Return the approximate signed distance in mm from an ellipsoid, negative inside."""
    radii = np.asarray(radii)
    scaled = (points - centre[:, None]) / radii[:, None]
    return (np.linalg.norm(scaled, axis=0) - 1) * radii.min()


def _arc(
    points: np.ndarray, centre: np.ndarray, radius: float, direction: float, half_angle: float, axes: tuple[int, int]
) -> np.ndarray:
    """Return the distance in mm from an arc of a circle in the plane of `axes`, about `direction` (degrees)."""
    a, b = axes
    rest = points[3 - a - b] - centre[3 - a - b]
    turn = np.deg2rad(direction)
    along = (points[a] - centre[a]) * np.cos(turn) + (points[b] - centre[b]) * np.sin(turn)
    across = (points[b] - centre[b]) * np.cos(turn) - (points[a] - centre[a]) * np.sin(turn)
    angle = np.clip(np.arctan2(across, along), -np.deg2rad(half_angle), np.deg2rad(half_angle))
    return np.sqrt((along - radius * np.cos(angle)) ** 2 + (across - radius * np.sin(angle)) ** 2 + rest**2)


def _waves(
    points: np.ndarray, rng: np.random.Generator, count: int, lengths_mm: tuple[float, float], amplitude: float
) -> np.ndarray:
    """Return a smooth random function of the points: plane waves of random direction, length and phase."""
    directions = rng.standard_normal((count, 3))
    directions *= 2 * np.pi / rng.uniform(*lengths_mm, (count, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
    phases = directions.astype(np.float32) @ points + rng.uniform(0, 2 * np.pi, (count, 1)).astype(np.float32)
    return (amplitude * np.sqrt(2 / count)) * np.cos(phases).sum(axis=0)  # standard deviation: amplitude


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Return the (3, 3) rotation about z, then y, then x."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    return matrix


def _random_orientation(rng: np.random.Generator) -> np.ndarray:
    """Draw which axis of the file each of x, y, z becomes, and whether it is flipped: nibabel's (3, 2) form."""
    return np.stack([rng.permutation(3), rng.choice([-1, 1], 3)], axis=1)


def _save(path: Path, array: np.ndarray, affine: np.ndarray, orientation: np.ndarray, dtype: type) -> None:
    image = nibabel.Nifti1Image(array, affine).as_reoriented(orientation)
    if dtype == np.int16:
        image = nibabel.Nifti1Image(np.rint(image.dataobj).astype(np.int16), image.affine)
    image.set_data_dtype(dtype)  # nibabel scales floats into the range of uint8
    image.set_qform(image.affine, code=1)
    image.set_sform(image.get_qform(), code=1)  # the quaternion is rounded; let the two agree
    nibabel.save(image, path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command: write phantoms into a folder, and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m data.synthetic.phantoms", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="new folder for dataset.json, imagesTr and labelsTr")
    parser.add_argument("--cases", type=int, default=40, help="how many (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files (default: 0)")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        default=(40, 56, 48),
        metavar=("D", "H", "W"),
        help="mean size in voxels; smaller is coarser (default: 40 56 48)",
    )
    options = parser.parse_args(arguments)
    try:
        path = write_phantoms(options.folder, options.cases, options.seed, tuple(options.shape))
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{options.cases} phantoms: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

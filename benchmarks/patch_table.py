"""Compute which patch and batch of the standard U-Net fit which device, from measured bytes per voxel.

    python -m benchmarks.patch_table [--measured FLOAT32 BFLOAT16]

Measures how many bytes a voxel of the batch adds to the peak of loss and gradients, in the form that GPUs run (see
`benchmarks.step_memory`, which does it on the CPU), of a U-Net 32/64/128 at two sizes, where weights hardly count, each
in its own process. From that it computes, for the widths 32 … 320, what fits the memory limit that `ops/memory.py`
sets: weights, their gradients and Adam's moments, and the activations. `--measured` gives the bytes per voxel instead.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass

from benchmarks.shared.command import call_apart
from configs.schema.model import MAX_ELEMENTS
from models.unet3d import UNet3dArgs
from ops.memory import GPU_SHARE
from planning.proposal.network import BYTES_A_WEIGHT

WIDTHS = (32, 64, 128, 256, 320, 320)
MEASURED_WIDTHS = WIDTHS[:3]
SHAPES = ((1, 16, 32, 32, 1), (1, 32, 32, 32, 1))
PRECISIONS = ("float32", "bfloat16")
STEP = 32  # voxels, the product of the strides
UNFOLD_BYTES = 64 << 20  # that ops/convolution/rules.py lets a call take


@dataclass(frozen=True)
class Device:
    name: str
    working_set_gb: float  # in 10^9 bytes: that Metal recommends, or the memory that CUDA has

    @property
    def limit_bytes(self) -> float:
        return GPU_SHARE * self.working_set_gb * 1e9


# Metal recommends about two thirds of the memory up to 32 GB, three quarters beyond: see mx.device_info().
DEVICES = (
    Device("Apple, 16 GB", 11.5),
    Device("Apple, 24 GB", 17.2),
    Device("Apple, 36 GB", 29.0),
    Device("Apple, 64 GB", 51.5),
    Device("Apple, 128 GB", 103.1),
    Device("CUDA, 24 GB", 25.8),
    Device("CUDA, 80 GB", 85.9),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=float, nargs=2, metavar=("FLOAT32", "BFLOAT16"), help="bytes a voxel")
    arguments = parser.parse_args()
    measured = arguments.measured or [measure_bytes_a_voxel(precision) for precision in PRECISIONS]
    print(json.dumps({"bytes_a_voxel": dict(zip(PRECISIONS, measured, strict=True))}), file=sys.stderr)
    print(format_table(dict(zip(PRECISIONS, measured, strict=True))))


def measure_bytes_a_voxel(precision: str) -> float:
    """Return the bytes per voxel of a batch of the standard U-Net; the levels not measured count by their maps."""
    peaks = [call_apart("benchmarks.patch_table", "measure_peak", number, precision) for number in range(len(SHAPES))]
    voxels = [math.prod(shape) for shape in SHAPES]
    return (peaks[1] - peaks[0]) / (voxels[1] - voxels[0]) * maps_a_voxel(WIDTHS) / maps_a_voxel(MEASURED_WIDTHS)


def measure_peak(number: int, precision: str) -> int:
    """Return the peak bytes of loss and gradients on a batch of SHAPES[number]."""
    from benchmarks.shared.cases import Case
    from benchmarks.step_memory import LIMIT_BYTES, measure

    row = measure(Case("unet", SHAPES[number], 3, MEASURED_WIDTHS), "mlx", LIMIT_BYTES, precision)
    return int(row["peak_bytes"])


def maps_a_voxel(widths: tuple[int, ...]) -> float:
    """Return the channels of one map at each level, summed, per voxel of the patch."""
    return sum(width / 8**level for level, width in enumerate(widths))


def count_weights(widths: tuple[int, ...]) -> int:
    """Count the weights of two 3×3×3 convolutions at each level, down and up, and of the transposed ones."""
    total, above = 0, 1
    for level, width in enumerate(widths):
        total += 27 * width * (above + width) + (27 * above * (3 * above) + 8 * above * width if level else 0)
        above = width
    return total


def step_bytes(voxels: float, bytes_a_voxel: float) -> float:
    """Return the memory in bytes of a step on that many voxels in the batch."""
    return BYTES_A_WEIGHT * count_weights(WIDTHS) + UNFOLD_BYTES + bytes_a_voxel * voxels


def fits(patch: int, batch: int, bytes_a_voxel: float, device: Device) -> bool:
    elements = batch * UNet3dArgs(widths=WIDTHS).largest_activation((patch,) * 3)
    return elements <= MAX_ELEMENTS and step_bytes(batch * patch**3, bytes_a_voxel) <= device.limit_bytes


def largest_patch(batch: int, bytes_a_voxel: float, device: Device) -> int:
    """Return the voxels per side, 0 where none fits."""
    sides = range(STEP, 1024, STEP)
    return max((side for side in sides if fits(side, batch, bytes_a_voxel, device)), default=0)


def largest_batch(patch: int, bytes_a_voxel: float, device: Device) -> int:
    return max((n for n in range(1, 129) if fits(patch, n, bytes_a_voxel, device)), default=0)


def format_table(bytes_a_voxel: dict[str, float]) -> str:
    """Return the table in Markdown."""
    lines = ["| device | limit | " + " | ".join(f"{p}: patch at batch 2, batch of 128³" for p in bytes_a_voxel) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(bytes_a_voxel))
    for device in DEVICES:
        cells = [
            f"{largest_patch(2, per_voxel, device)}³, {largest_batch(128, per_voxel, device)}"
            for per_voxel in bytes_a_voxel.values()
        ]
        lines.append(f"| {device.name} | {device.limit_bytes / 1e9:.1f} GB | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

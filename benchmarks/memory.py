"""Check that training's memory does not grow while shapes change, and that a second run repeats the first.

    python -m benchmarks.memory [--steps 300]

Trains a U-Net 16/32/64 with Dropout3d on volumes of 16 to 40 voxels an axis, of twelve shapes that come in random
order, twice in one process. Prints resident memory at step 100 and at the last step. Exits with 1 if it grew by more
than 2 %, or if any loss or gradient norm of the two runs differs. On a GPU this is only the host's memory; set
MLX_VOLUMES_DEVICE=cpu in the environment to measure all of it.
"""

import argparse
import sys

import numpy as np

from benchmarks.shared.cases import CASES, make_step, our_network
from engine.training.step import StepResult
from machine.resources import resident_bytes

WARM = 100  # steps after which memory is first read
ALLOWED = 1.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    if steps <= WARM:
        parser.error(f"--steps {steps}: memory is first read at step {WARM}, and must be read again later")
    first, resident = run(steps)
    growth = resident[-1] / resident[WARM - 1]
    print(f"resident    {resident[WARM - 1] / 1e6:.1f} MB at step {WARM}, {resident[-1] / 1e6:.1f} MB at step {steps}")
    print(f"growth      {growth - 1:+.2%}")
    second, _ = run(steps)
    same = first == second
    print("second run  " + ("the same, bit for bit" if same else "differs"))
    sys.exit(0 if growth <= ALLOWED and same else 1)


def run(steps: int) -> tuple[list[StepResult], list[int]]:
    """Train that many steps; return each step's result, and the resident memory in bytes after it."""
    step = make_step(*our_network(CASES["unet16"]), {"steps": steps, "precision": "float32"}, {"ema_decay": 0.99})
    rng = np.random.default_rng(0)
    shapes = [(2, 40, 40, 40), *((2, *sides) for sides in 4 * rng.integers(4, 11, (11, 3)))]
    results, resident = [], []
    for i in range(steps):
        shape = shapes[rng.integers(len(shapes)) if i else 0]
        x = rng.standard_normal((*shape, 1), dtype=np.float32)
        results.append(step([{"x": x, "y": rng.integers(0, 3, shape, dtype=np.int32)}]))
        resident.append(resident_bytes())
    return results, resident


if __name__ == "__main__":
    main()

"""Computes a row of the check in its own process: python -m benchmarks.device_check.rows JOB

JOB is JSON: kind, name, precision and size of the check; side, "device" or "reference"; form, of the operators; and
file, where the arrays go.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Size = tuple[int, int, int]
Arrays = dict[str, np.ndarray]

ENOUGH_SECONDS = 2.0  # of timing


def compute_row(job: dict[str, Any]) -> None:
    """Compute one row, write its arrays, print milliseconds and peak memory."""
    import mlx.core as mx

    from ops import backend, memory

    if job["side"] == "reference":
        mx.set_default_device(mx.cpu)
    backend.choose(job["form"])
    memory.set_limit()
    build = {"operator": operator, "step": step, "prediction": prediction}[job["kind"]]
    compute = build(job["name"], job["precision"], tuple(job["size"]))
    active = mx.get_active_memory()
    mx.reset_peak_memory()
    seconds: list[float] = []

    def timed() -> Any:
        started = time.perf_counter()
        result = compute()
        seconds.append(time.perf_counter() - started)
        return result

    np.savez(job["file"], **timed())
    peak_bytes = mx.get_peak_memory() - active
    while job["side"] == "device" and len(seconds) < 4 and sum(seconds) < ENOUGH_SECONDS:
        timed()
    later = sorted(seconds[1:] or seconds)  # the first call compiles kernels
    print(json.dumps({"milliseconds": 1e3 * later[len(later) // 2], "peak_bytes": peak_bytes}))


def operator(name: str, precision: str, size: Size) -> Callable[[], Arrays]:
    """Return what computes the operator's value and gradients."""
    import mlx.core as mx

    from benchmarks.operators.cases import our_arrays, our_gradients, resized
    from ops import memory

    case = resized(size)[name]
    inputs, cotangent = our_arrays(case, precision)

    def compute() -> Arrays:
        value, gradients = our_gradients(case, inputs, cotangent)
        memory.evaluate(value, gradients)
        named = {"value": value, **{f"gradient {i + case.image}": g for i, g in enumerate(gradients)}}
        return {name: np.array(a.astype(mx.float32)) for name, a in named.items()}

    return compute


def network(name: str) -> tuple[Any, int, bool]:
    """Return a network with default arguments, its number of outputs, and whether its label is a volume."""
    import mlx.core as mx

    from models import MODELS, build_model
    from models.cnn3d import CNN3dArgs
    from models.resnet3d import ResNet3dArgs
    from models.unet3d import UNet3dArgs
    from models.video_resnet import VideoResNetArgs

    mx.random.seed(0)
    # As for small volumes: batch norm over two voxels gives a noisy gradient.
    small = ResNet3dArgs(depth=10, width=16, stem_kernel=(3, 3, 3), stem_stride=(1, 1, 1), max_pool=False)
    args = {"unet3d": UNet3dArgs(), "cnn3d": CNN3dArgs(), "resnet3d": small}.get(name, VideoResNetArgs())
    return build_model(name, args, 1, 3), 3, MODELS[name].args.segments


def step(name: str, precision: Any, size: Size) -> Callable[[], Arrays]:
    """Return what computes a training step's loss and gradients, these as plain SGD's change of the weights."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from benchmarks.shared.cases import make_step
    from engine.training.losses import StandardLossArgs, build_loss

    model, num_outputs, segments = network(name)
    model.train()
    loss = build_loss(StandardLossArgs(name="dice_ce" if segments else "cross_entropy"), num_outputs)
    optim = {"name": "sgd", "learning_rate": 1.0, "momentum": 0, "weight_decay": 0, "schedule": "constant"}
    do = make_step(model, loss, {"steps": 10**6, "precision": precision}, {**optim, "clip_norm": None})
    rng = np.random.default_rng(0)
    shape = (2, *size, 1)
    x = rng.standard_normal(shape, dtype=np.float32)
    y = rng.integers(0, num_outputs, shape[:4] if segments else shape[:1], dtype=np.int32)

    def weights() -> np.ndarray:
        flat = tree_flatten(model.trainable_parameters())
        return np.concatenate([np.array(a.astype(mx.float32)).ravel() for _, a in sorted(flat)])

    def compute() -> Arrays:
        before = weights()
        result = do([{"x": x, "y": y}])
        gradients = before - weights()
        return {"loss": np.array([result.loss]), "gradient": gradients}

    return compute


def prediction(name: str, precision: str, size: Size) -> Callable[[], Arrays]:
    """Return what computes class probabilities of a volume in several windows, or of a batch of two."""
    from engine.evaluation.cases import make_predict
    from engine.evaluation.classification import predict_cases
    from engine.evaluation.sliding_window import predict_probabilities

    model, _, segments = network(name)
    predict = make_predict(model.eval(), precision)
    rng = np.random.default_rng(0)

    def compute() -> Arrays:
        if segments:
            volume = rng.standard_normal((size[0] + size[0] // 2, *size[1:], 1), dtype=np.float32)
            return {"probabilities": predict_probabilities(predict, volume, size)}
        views = rng.standard_normal((2, *size, 1), dtype=np.float32)
        return {"probabilities": np.stack(list(predict_cases(predict, [views], 2, multi_label=False)))}

    return compute


if __name__ == "__main__":
    compute_row(json.loads(sys.argv[1]))

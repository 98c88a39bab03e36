"""Time to the same Dice: one U-Net, one recipe and the same batches in this project and in PyTorch.

    python -m benchmarks.time_to_dice --root HIPPOCAMPUS [--steps 600] [--json FILE]

Both train in float32 on fold 0, in processes that take turns step by step; a side's clock runs only in its own
training steps, which include reading data. Both begin with the same weights; each library draws its own dropout
masks. Validation computes the mean Dice over the validation cases.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.cases import Step
from benchmarks.shared.command import make_parser, write_rows
from benchmarks.shared.workers import Worker, serve
from machine.resources import available_threads

MODULE = "benchmarks.time_to_dice"
OVERRIDES = (
    "model.args.widths=[16,32,64]",
    "model.args.deep_supervision=false",
    "model.args.dropout={kind: channel, rate: 0.1, places: [encoder, bottleneck, decoder]}",
    "loss.batch_dice=false",
    "optim.ema_decay=null",
    "optim.warmup_steps=20",
    "train.precision=float32",
)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the hippocampus data set, unpacked")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=100, help="steps between validations")
    parser.add_argument("--memory-format", default="channels_last", help="PyTorch's: see benchmarks.train_step")
    parser.add_argument("--threads", type=int, default=available_threads())
    args = parser.parse_args()
    common = {"root": str(args.root), "steps": args.steps, "threads": args.threads, "format": args.memory_format}
    sides = ("ours", "torch")
    workers = {side: Worker(MODULE, {**common, "side": side}) for side in sides}
    clock, rows = dict.fromkeys(sides, 0.0), []
    print(f"{'step':>6}{'ours s':>9}{'Dice':>8}{'torch s':>10}{'Dice':>8}")
    try:
        for step in range(1, args.steps + 1):
            for side in sides:
                clock[side] += workers[side].do("step")[0]
            if step % args.every == 0:
                dice = {side: workers[side].do("validate")[1] for side in sides}
                rows.append({"step": step, "seconds": dict(clock), "dice": dice})
                ours, torch = (f"{clock[side]:9.1f}{dice[side]:8.4f}" for side in sides)
                print(f"{step:6d}{ours} {torch}", flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    write_rows(args.json, rows)


def work(job: dict[str, Any]) -> None:
    """Run as a worker process."""

    def libraries() -> None:
        import ops

        ops.choose("auto", threads=job["threads"])

    serve(lambda: build(job), libraries)


def build(job: dict[str, Any]) -> dict[str, Step]:
    """Return the commands `step`, on the next batch of the run's plan, and `validate`."""
    import mlx.core as mx

    from data.dataset import open_data
    from engine.config import load_config
    from engine.evaluation.sliding_window import predict_labels
    from engine.metrics.segmentation import dice_per_class

    overrides = [*OVERRIDES, f"data.root={job['root']}", f"train.steps={job['steps']}"]
    config = load_config("configs/hippocampus_unet.yaml", overrides)
    data = open_data(config)
    data.prepare_all()
    batches, patch_size = _batches(data), config.data.patch_size_voxels
    train, logits = (_ours if job["side"] == "ours" else _torch)(job, config, data.num_outputs)

    def validate() -> float:
        cases = [data.load(case) for case in data.cases("val")]
        labels = predict_labels(lambda x: mx.array(logits(np.array(x))), [c.volume for c in cases], patch_size)
        references = [data.read_label(case)[0] for case in data.cases("val")]
        pairs = zip(labels, references, strict=True)
        scores = [dice_per_class(a, b, data.num_outputs) for a, b in pairs]
        return float(np.nanmean(scores))

    def step() -> float:
        batch = next(batches)
        return train(batch["x"], batch["y"])

    return {"step": step, "validate": validate}


Train = Callable[[np.ndarray, np.ndarray], float]
Logits = Callable[[np.ndarray], np.ndarray]  # (N, D, H, W, C) -> (N, D, H, W, K)


def _batches(data: Any) -> Iterator[dict[str, np.ndarray]]:
    epoch = 0
    while True:
        with data.train_stream(epoch) as stream:
            while (batch := stream.next()) is not None:
                yield batch
        epoch += 1


def _ours(job: dict[str, Any], config: Any, num_outputs: int) -> tuple[Train, Logits]:
    import mlx.core as mx

    from engine.training.losses import build_loss
    from engine.training.optim import build_optimizer
    from engine.training.step import TrainStep
    from models import build_model

    mx.random.seed(0)
    model = build_model(config.model.name, config.model.args, 1, num_outputs)
    optimizer = build_optimizer(config.optim, job["steps"])
    step = TrainStep(model, optimizer, build_loss(config.loss, num_outputs), config.train, config.optim)

    def train(x: np.ndarray, y: np.ndarray) -> float:
        model.train()
        return step([{"x": x, "y": y}]).loss

    def logits(x: np.ndarray) -> np.ndarray:
        model.eval()
        return np.array(model(mx.array(x)))

    return train, logits


def copy_weights(ours: Any, theirs: Any) -> None:
    """Copy our U-Net's weights to PyTorch's; both begin with norms at 1 and 0, and biases at 0."""
    import torch

    def put(target: Any, weight: Any, transposed: bool = False) -> None:
        w = np.moveaxis(np.array(weight), -1, 1)  # (O, kD, kH, kW, I) -> (O, I, kD, kH, kW)
        target.weight.data = torch.from_numpy((w.swapaxes(0, 1) if transposed else w).copy())
        if target.bias is not None:
            target.bias.data.zero_()

    last = len(ours.decoder) - 1  # PyTorch's lists go up from the bottleneck, ours from the image
    levels = [*zip(theirs.encoder, [*ours.encoder, ours.bottleneck], strict=True)]
    levels += [(theirs.decoder[last - i], level) for i, level in enumerate(ours.decoder)]
    for their_level, our_level in levels:
        for their_block, our_block in zip(their_level, our_level.blocks, strict=True):
            put(their_block.conv, our_block.conv.weight)
    for i, up in enumerate(ours.up):
        put(theirs.up[last - i], up.weight, transposed=True)
    put(theirs.head, ours.heads[0].weight)


def _torch(job: dict[str, Any], config: Any, num_outputs: int) -> tuple[Train, Logits]:
    import mlx.core as mx
    import torch

    from benchmarks.shared.pytorch import TorchTrainer, UNet3d
    from models import build_model

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    mx.random.seed(0)
    model = UNet3d(config.model.args, 1, num_outputs)
    copy_weights(build_model(config.model.name, config.model.args, 1, num_outputs), model)
    trainer = TorchTrainer(model, "float32", job["format"], config.optim.weight_decay)
    peak, warmup, done = config.optim.learning_rate, config.optim.warmup_steps, 0

    def train(x: np.ndarray, y: np.ndarray) -> float:
        nonlocal done
        cosine = 0.5 * (1 + math.cos(math.pi * (done - warmup) / (job["steps"] - warmup)))
        rate = peak * (done + 1) / warmup if done < warmup else peak * cosine
        done += 1
        trainer.model.train()
        return trainer.step(trainer.tensor(x), torch.from_numpy(y).long(), rate)

    def logits(x: np.ndarray) -> np.ndarray:
        trainer.model.eval()
        with torch.no_grad():
            return trainer.logits(trainer.tensor(x)).float().movedim(1, -1).numpy()

    return train, logits


if __name__ == "__main__":
    main()

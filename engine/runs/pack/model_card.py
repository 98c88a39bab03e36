"""The README.md in a pack: what the model is, what it takes, how to predict with it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from configs import Config
from engine.metrics.segmentation import SURFACE_DEFINITION
from engine.runs.pack.manifest import Facts

LEFT_OUT = (
    "case names, file names and paths, splits, the training's command, times, machine and log, and every score of a "
    "single case"
)
"""Not in a pack: medical data are named in them."""


def write_card(config: Config, facts: Facts) -> str:
    """Return the card, in Markdown. config: the neutral one."""
    sections = [
        [f"# {config.name}", "", _what(config, facts)],
        ["## Input", "", *_input(config, facts)],
        ["## Output", "", *_output(config, facts)],
        ["## Use", "", *_use(config)],
        ["## Scores", "", *_scores(config, facts)],
        ["## Licence", "", facts.licence],
        ["## In this file", "", *_contents(facts)],
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _what(config: Config, facts: Facts) -> str:
    does = config.kind.does if config.data.clip is None else "classifies video clips"
    checkpoint = facts.checkpoint
    average = ", a moving average of training's" if checkpoint.weights == "ema" else ""
    return (
        f"A 3-D CNN ({config.model.name}, {facts.parameters:,} numbers) that {does}, trained with mlx-volumes. Weights "
        f"of step {checkpoint.step}{average}."
    )


def _input(config: Config, facts: Facts) -> Iterator[str]:
    data, statistics = config.data, facts.statistics
    if data.clip is not None:
        clip = data.clip
        rate = f"{clip.frame_rate:g} frames a second" if clip.frame_rate is not None else f"every {clip.stride}th frame"
        rate = "every frame" if clip.frame_rate is None and clip.stride == 1 else rate
        yield f"- clips of any length and size; {clip.frames} frames are taken, {rate}"
        yield f"- frames are resized to {clip.short_side_pixels} pixels on the short side, {clip.colour}"
        views = clip.clips * clip.crops
        yield f"- the network sees {_times(clip.input_size)} (time, height, width), {views} view(s) a clip"
        return
    names = f": {', '.join(statistics.channel_names)}" if statistics.channel_names else ""
    yield f"- volumes with {statistics.file_channels} channel(s){names}"
    if data.channels is not None:
        yield f"- of these channels {list(data.channels)} are used, counted from 0"
    yield "- NIfTI, Analyze, .npy or .npz, of any orientation: axes are brought to RAS+, D from foot to head, H from "
    yield "  back to front, W from left to right"
    if data.spacing_mm is None:
        yield "- voxels are taken as the file has them, not resampled: bring volumes of the training data's spacing"
    else:
        yield f"- any spacing: resampled to {_times(data.spacing_mm)} mm (D, H, W)"
    yield f"- intensities as in training: {data.normalisation}"
    yield f"- the network sees {_times(data.patch_size_voxels)} voxels (D, H, W) at a time"


def _output(config: Config, facts: Facts) -> Iterator[str]:
    several = "; a case may be of several" if facts.statistics.multi_label else ""
    yield f"{config.kind.output}{several}:"
    yield ""
    for value, name in enumerate(facts.class_names):
        yield f"- {value}: {name}"


def _use(config: Config) -> Iterator[str]:
    yield "In a clone of mlx-volumes, this file being `model.zip`:"
    yield ""
    yield "```"
    yield "python evaluate.py --run model.zip --images FOLDER                # predict"
    yield "python evaluate.py --run model.zip --split all data.root=FOLDER   # score labelled cases"
    yield "python train.py --config CONFIG init.from=model.zip               # start from these weights"
    yield "```"
    yield ""
    yield f"Labelled cases are read as data.source={config.data.source} has them; set it where yours lie otherwise."


def _scores(config: Config, facts: Facts) -> Iterator[str]:
    if not facts.metrics:
        yield "None: the run was not evaluated with these weights before it was packed."
        return
    for split, metrics in facts.metrics.items():
        yield f"Split `{split}` of the training data, {metrics['num_cases']} cases:"
        if choice := metrics.get("optimistic"):
            best, last = (choice.get(name, {}).get("value", math.nan) for name in ("best", "last"))
            yield ""
            yield "Optimistic: these cases chose the checkpoint. In training's own validation it had a "
            yield f"{config.checkpoint.metric} of {best:.4g}, the last checkpoint {last:.4g}."
        yield ""
        yield "| metric | | value | 95 % interval |"
        yield "| --- | --- | --- | --- |"
        for metric, details in metrics.get("details", {}).items():
            for name, row in _rows(details):
                interval = " – ".join(f"{end:.4g}" for end in row.get("interval_95", ()))
                yield f"| {metric} | {name} | {row.get('mean', row.get('value', math.nan)):.4g} | {interval} |"
        yield ""
    if config.kind.measures_surfaces:
        yield f"Surfaces: {SURFACE_DEFINITION}."
    yield "On data from elsewhere expect less, and measure it."


def _rows(details: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(class, numbers): of segmentation one a class and their mean, of classification one over all classes."""
    if "value" in details:
        yield "all", details
        return
    yield from ((name, row) for name, row in details.items() if isinstance(row, Mapping))


def _contents(facts: Facts) -> Iterator[str]:
    yield "- `model.safetensors`: the weights, float32"
    yield "- `config.yaml`: how they were trained, paths and case names taken out"
    yield f"- `pack.json`: format {facts.format}, classes, data statistics, scores, versions, SHA-256 of these two"
    yield ""
    yield f"Not in it: {LEFT_OUT}."


def _times(values: Any) -> str:
    return " × ".join(f"{value:g}" for value in values)

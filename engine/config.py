"""The config with all that is registered; the registries are collected here alone.

python -m engine.config writes the JSON Schema for editors (a test checks against drift).
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import configs
from configs import Config, ConfigError, apply_overrides
from configs.schema.choices import Choices, LossChoice, SourceChoice
from configs.schema.config import make_config
from configs.schema.load import bind, check_config, load_config
from data.layouts.registry import SOURCES
from data.sampling.intensity_changes import CHANGES
from engine.training.losses import LOSSES
from models import MODELS

SCHEMA_FILE = Path(configs.__file__).parent / "config.schema.json"

__all__ = ["Config", "ConfigError", "apply_overrides", "check_config", "config_class", "load_config", "schema_text"]


def config_class() -> type[Config]:
    """Return the class that configs are checked against; what was registered just now is in it."""
    networks = {name: network.args for name, network in MODELS.items()}
    losses = {name: LossChoice(loss.args, loss.targets) for name, loss in LOSSES.items()}
    sources = {
        name: SourceChoice(s.volumes is not None, s.classes is not None, s.clips, s.tells_labels)
        for name, s in SOURCES.items()
    }
    changes = {name: change.args for name, change in CHANGES.items()}
    return _make(*(tuple(named.items()) for named in (networks, losses, sources, changes)))


@lru_cache(maxsize=8)
def _make(*choices: Any) -> type[Config]:
    return make_config(Choices(*map(dict, choices)))


bind(config_class)


def schema_text() -> str:
    """Return the JSON Schema of a YAML config: the resolved config's, and `base` beside it."""
    schema = config_class().model_json_schema()
    schema["properties"]["base"] = {
        "type": "string",
        "description": "A YAML file below this one, relative to it.",
    }
    schema["required"] = []  # a child of a base file need not repeat what its parent holds
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    print(SCHEMA_FILE)

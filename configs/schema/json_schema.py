"""Write the config's JSON Schema for editors: python -m configs.schema.json_schema (a test checks against drift)."""

import json
from pathlib import Path

from configs.schema.config import Config

SCHEMA_FILE = Path(__file__).parents[1] / "config.schema.json"


def schema_text() -> str:
    """Return the JSON Schema of a YAML config: the resolved config's, and `base` beside it."""
    schema = Config.model_json_schema()
    schema["properties"]["base"] = {
        "type": "string",
        "description": "A YAML file below this one, relative to it.",
    }
    schema["required"] = []  # a child of a base file need not repeat what its parent holds
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    print(SCHEMA_FILE)

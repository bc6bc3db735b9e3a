"""Recipes for tests, built from their sections."""

from __future__ import annotations

import yaml

DIGITS = {
    "source": "edgepress.examples.digits.models:cnn",
    "weights": "package:edgepress.examples.digits/cnn.safetensors",
}


def recipe_text(**sections: object) -> str:
    """A recipe of the digits network on onnxruntime; `sections` come to its own, or take their place."""
    document = {
        "model": DIGITS,
        "data": {"source": "edgepress.examples.digits.data:digits"},
        "targets": ["onnxruntime"],
        **sections,
    }
    return yaml.safe_dump(document, sort_keys=False)

"""The texts in an ONNX file: names, operators and descriptions, which protobuf hands out unchecked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import CompressError


def require_text(model: Any, path: Path) -> None:
    """Raise CompressError when a text anywhere in `model` is not UTF-8: whoever asked for it would fail.

    Numbers and bytes are not looked at, so that large weights cost nothing.
    """
    for field in model.DESCRIPTOR.fields:
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        repeated = _is_repeated(field)
        if not repeated and not model.HasField(field.name):
            continue
        value = getattr(model, field.name)
        for inner in value if repeated else (value,):
            if field.type == field.TYPE_MESSAGE:
                require_text(inner, path)
            elif isinstance(inner, bytes):  # protobuf's way of saying that it is none
                raise CompressError(
                    f"model.source: {path} is damaged: a text in it ({field.full_name}: {inner[:40]!r}) is not UTF-8;"
                    " export it again"
                )


def _is_repeated(field: Any) -> bool:
    """Whether a field is repeated, as protobuf says it from 6 on, or before."""
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)

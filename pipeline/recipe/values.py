"""The small languages inside a recipe: times, sizes, names of functions; each says what it expected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

FUNCTION = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
"""The form of a named callable: `pkg.module:function`."""

_CAPABILITY_WORDS = "a GPU generation such as SM86"


def _model_source(value: str) -> str:
    if re.fullmatch(rf"{FUNCTION}|timm:\S+|torchvision:\S+|.+\.(pt2|onnx)", value):
        return value
    raise ValueError("expected pkg.module:factory, timm:NAME, torchvision:NAME, or a .pt2 or .onnx file")


def _metric(value: str) -> str:
    if re.fullmatch(rf"top[1-9]\d*|{FUNCTION}", value):
        return value
    raise ValueError("expected top1, topK (such as top5) or pkg.module:function")


def _compute_capability(value: str) -> str:
    if re.fullmatch(r"SM\d{2,3}", value):
        return value
    raise ValueError(f"expected {_CAPABILITY_WORDS}")


def _run_name(value: str) -> str:
    if re.fullmatch(r"[^/\\]{0,100}", value) and value.isprintable() and value not in (".", ".."):
        return value
    raise ValueError(
        "expected at most 100 characters, without / and \\: the name of a run can become a folder's"
    )


ModelSource = Annotated[str, AfterValidator(_model_source)]
MetricName = Annotated[str, AfterValidator(_metric)]
RunName = Annotated[str, AfterValidator(_run_name)]
ComputeCapability = Annotated[
    str, AfterValidator(_compute_capability), Field(json_schema_extra={"expected": _CAPABILITY_WORDS})
]

_BYTE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_TIME_UNITS = {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "s": 1e3}
_SIZE_WORDS = "a size such as 2 MB, 500 kB or 1.5 MiB"
_TIME_WORDS = "a time such as 5 ms, 800 us or 0.1 s"
_QUANTITY = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-zA-Zµμ%]*)\s*")


def quantity(value: object, units: Mapping[str, float], expected: str) -> float | None:
    """The amount in `value`'s unit times that unit; None for what is already a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"expected {expected}")
    return float(match[1]) * units[match[2]]


def _parse_bytes(value: object) -> object:
    parsed = quantity(value.upper() if isinstance(value, str) else value, _BYTE_UNITS, _SIZE_WORDS)
    return value if parsed is None else int(parsed)


def _parse_ms(value: object) -> object:
    parsed = quantity(value, _TIME_UNITS, _TIME_WORDS)
    return value if parsed is None else parsed


Milliseconds = Annotated[
    float, BeforeValidator(_parse_ms), Field(gt=0, json_schema_extra={"expected": _TIME_WORDS})
]
Bytes = Annotated[
    int, BeforeValidator(_parse_bytes), Field(gt=0, json_schema_extra={"expected": _SIZE_WORDS})
]

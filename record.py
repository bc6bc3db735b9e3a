"""Records: what is written to JSON files and read again, perhaps by a later edgepress; and the numbers in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, TypeVar

import pydantic_core
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .errors import CompressError, cause

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""Bytes, weights, operations, samples."""


def _measured(value: float) -> float:
    if not (math.isnan(value) or abs(value) <= LARGEST):
        raise ValueError(f"must be a number, and at most {LARGEST:g} in size")
    return 0.0 if abs(value) < SMALLEST else value


def _not_negative(value: float) -> float:
    if value < 0:
        raise ValueError("must not be below 0")
    return value


LARGEST, SMALLEST = 1e100, 1e-100
"""Bounds of a number that was measured: far beyond all that is, and ratios and differences of such stay numbers."""
Measured = Annotated[float, AfterValidator(_measured)]
"""NaN where it is not known; never infinite."""
NotNegative = Annotated[Measured, AfterValidator(_not_negative)]
Milliseconds = NotNegative
Ratio = NotNegative
Interval = tuple[Measured, Measured]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class Record(BaseModel):
    """What is measured or decided, as a JSON file keeps it: nothing that it does not know is read."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")  # an SQNR may be infinite


R = TypeVar("R", bound=Record)


def require_schema(content: object, where: str, what: str, version: int, hint: str) -> None:
    """CompressError, with the hint, when what was read from a file is no record of this schema version."""
    if not isinstance(content, dict) or "schema_version" not in content:
        raise CompressError(f"{where}: not {what}: it has no schema_version; {hint}")
    if content["schema_version"] != version:
        raise CompressError(
            f"{where}: schema_version is {content['schema_version']!r:.40}, this edgepress reads {version}; {hint}"
        )


def read_record(cls: type[R], path: Path, kind: str, version: int, most_bytes: int, hint: str) -> R:
    """The record that a JSON file holds; CompressError, with the place in it and the hint, when it holds none.

    kind: what such a file is called, without an article; most_bytes: larger ones are not read.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise CompressError(f"{path}: larger than any {kind}; {hint}")
        content = pydantic_core.from_json(path.read_bytes(), allow_inf_nan=False)
    except OSError as error:
        raise CompressError(f"{path}: cannot be read: {error.strerror or error}; {hint}") from error
    except ValueError as error:
        raise CompressError(f"{path}: no {kind}: {cause(error)}; {hint}") from error
    require_schema(content, str(path), f"a {kind}", version, hint)
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        told = f"{place}: {first['msg'].removeprefix('Value error, ')}"
        raise CompressError(f"{path}: no usable {kind}: {told}; {hint}") from error

"""Data from a file against a pydantic model: each problem at its place in the file, in the words of this project."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .problems import Location, explain, schema_at, unknown
from .yaml_text import Document

M = TypeVar("M", bound=BaseModel)


def validated(document: Document, kind: type[M], data: Any, base: Location) -> M | None:
    """`data`, which stands at `base`, as a `kind`; None when it is wrong, with the problems in `document`.

    Through JSON and strictly: "4" is not a number and true is not 1, while a list still makes a tuple.
    """
    try:
        return kind.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        schema = kind.model_json_schema()
        for item in error.errors(include_url=False):
            _refuse_item(document, dict(item), schema, base)
        return None


def _refuse_item(document: Document, item: dict[str, Any], schema: dict[str, Any], base: Location) -> None:
    """Record one pydantic error, unless something at its place was complained about before."""
    at_key = item["loc"][-1:] == ("[key]",)  # how pydantic marks a mapping's key as the wrong part
    inner: Location = item["loc"][:-1] if at_key else item["loc"]
    location = (*base, *inner)
    if document.is_bad(location):
        return
    if not at_key and item["type"] != "extra_forbidden":
        document.refuse(location, explain(item, schema_at(schema, inner)))
        return
    parent = schema_at(schema, inner[:-1])
    known = parent.get("properties") or parent.get("propertyNames", {}).get("enum", ())
    document.refuse(location, unknown("key", str(inner[-1]), known), at_key=True)

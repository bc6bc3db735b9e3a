"""Pages from templates. Every value is untrusted text: cleaned, then escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup

from ... import text as names
from . import words

TEMPLATES = Path(__file__).parent / "templates"


def page_environment(escape: bool, finalize: Callable[[Any], Any]) -> Environment:
    """The templates with the filters that every page shares; `finalize` goes over each value first."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=escape,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bare_ms": words.bare_ms,
        "bytes": words.byte_size,
        "clip": names.tidy,
        "count": words.count_size,
        "duration": words.duration,
        "energy": words.energy,
        "metric_interval": words.metric_interval,
        "metric_value": words.metric_value,
        "ms": words.ms,
        "number": words.number,
        "percent": words.percent,
        "ratio": words.ratio,
        "ratio_interval": words.ratio_interval,
        "share_of": _share_of,
        "short": names.short,
        "signed": words.signed,
    }
    environment.tests["known"] = words.known
    return environment


def clean(value: Any) -> Any:
    """What every value of a page goes through before it is escaped."""
    if value is None:
        return words.NOT_MEASURED
    if isinstance(value, Markup | Undefined | bool | int | float):
        return value
    return names.tidy(value if isinstance(value, str) else str(value))


def clean_markdown(value: Any) -> Any:
    """A value inside a table cell: no markup, no new row, and nobody is notified by it."""
    cleaned = clean(value)
    if not isinstance(cleaned, str):
        return cleaned
    line = re.sub(r"\s+", " ", cleaned).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~])", r"\\\1", line)
    return re.sub(r"([@#])(?=\w)", "\\1\u200b", line)  # zero-width space: no mention, no link


def _share_of(value: float, largest: float) -> str:
    return f"{min(max(100 * value / largest, 0), 100):.2f}" if largest > 0 else "0"

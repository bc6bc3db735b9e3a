"""report.html and report.md from their templates. Every value is untrusted text: cleaned, then escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup

from ... import text as names
from ..pages import words as text
from ..run_record import RunRecord
from .steps import CODE_BARS, code_sizes, coverage, sensitivity, step_views, training
from .view import (
    DeviceView,
    device_views,
    flat,
    metric_ground,
    metric_text,
    tiles,
    timed_device,
)
from .write import all_proofs

TEMPLATES = Path(__file__).parent.parent / "pages" / "templates"


def html_page(record: RunRecord) -> str:
    """The whole report as one page that needs nothing else."""
    environment = page_environment(escape=True, finalize=clean)
    devices = device_views(record)
    return environment.get_template("report.html").render(
        record=record,
        proofs=all_proofs(record),
        devices=devices,
        tiles=tiles(record, devices),
        steps=step_views(record, devices),
        timed=timed_device(devices),
    )


def markdown_page(record: RunRecord) -> str:
    """The same facts, compactly, for a comment on a pull request."""
    environment = page_environment(escape=False, finalize=clean_markdown)
    page = environment.get_template("report.md").render(
        record=record, proofs=all_proofs(record), devices=device_views(record)
    )
    return re.sub(r"\n{3,}", "\n\n", page)


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
        "bare_ms": text.bare_ms,
        "bytes": text.byte_size,
        "clip": names.tidy,
        "code_sizes": code_sizes,
        "count": text.count_size,
        "coverage": coverage,
        "duration": text.duration,
        "flat": lambda values: list(flat(values)),
        "metric_ground": metric_ground,
        "metric_text": metric_text,
        "metric_value": text.metric_value,
        "ms": text.ms,
        "number": text.number,
        "p50_text": _p50_text,
        "percent": text.percent,
        "ratio": text.ratio,
        "sensitivity": sensitivity,
        "training": training,
        "share_of": _share_of,
        "short": names.short,
        "signed": text.signed,
        "speedup_text": _speedup_text,
    }
    environment.globals["CODE_BARS"] = CODE_BARS
    environment.tests["known"] = text.known
    return environment


def clean(value: Any) -> Any:
    """What every value of a page goes through before it is escaped."""
    if value is None:
        return text.NOT_MEASURED
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


def _p50_text(device: DeviceView, role: str) -> str:
    latency = getattr(getattr(device.target, role), "latency_ms", None)
    cached = f" (cached, {latency.measured_at})" if latency is not None and latency.cached else ""
    return text.ms(device.p50(role)) + cached


def _speedup_text(device: DeviceView) -> str:
    found = [
        f"{text.ratio(s.ratio)} over {names.short(s.baseline)} ({text.ratio_interval(s.ci95)})"
        for s in device.target.speedup
    ]
    return "; ".join(found) or text.NOT_MEASURED


def _share_of(value: float, largest: float) -> str:
    return f"{min(max(100 * value / largest, 0), 100):.2f}" if largest > 0 else "0"

"""report.html and report.md from their templates. Every value is untrusted text: cleaned, then escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ... import text as names
from ..pages import words as text
from ..pages.jinja import clean, clean_markdown, page_environment
from ..run_record import RunRecord
from .proofs import all_proofs
from .steps import CODE_BARS, code_sizes, coverage, sensitivity, training
from .view import (
    DeviceView,
    device_views,
    flat,
    metric_ground,
    metric_text,
    tiles,
)
from .waterfall import divergence_text, fidelity_text, waterfall

if TYPE_CHECKING:
    from jinja2 import Environment


def html_page(record: RunRecord) -> str:
    """The whole report as one page that needs nothing else."""
    environment = _environment(escape=True, finalize=clean)
    devices = device_views(record)
    return environment.get_template("report.html").render(
        record=record,
        proofs=all_proofs(record),
        devices=devices,
        tiles=tiles(record, devices),
        waterfall=waterfall(record, devices),
    )


def markdown_page(record: RunRecord) -> str:
    """The same facts, compactly, for a comment on a pull request."""
    environment = _environment(escape=False, finalize=clean_markdown)
    devices = device_views(record)
    page = environment.get_template("report.md").render(
        record=record, proofs=all_proofs(record), devices=devices, waterfall=waterfall(record, devices)
    )
    return re.sub(r"\n{3,}", "\n\n", page)


def _environment(escape: bool, finalize: Callable[[Any], Any]) -> Environment:
    environment = page_environment(escape, finalize)
    environment.filters |= {
        "code_sizes": code_sizes,
        "coverage": coverage,
        "divergence_text": divergence_text,
        "fidelity_text": fidelity_text,
        "flat": lambda values: list(flat(values)),
        "metric_ground": metric_ground,
        "metric_text": metric_text,
        "p50_text": _p50_text,
        "sensitivity": sensitivity,
        "training": training,
        "speedup_text": _speedup_text,
    }
    environment.globals["CODE_BARS"] = CODE_BARS
    return environment


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

"""report.html and report.md from their templates. Every value is untrusted text: cleaned, then escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ... import text as names
from ..pages import words as text
from ..pages.jinja import clean, clean_markdown, page_environment
from ..run_record import RunRecord
from .patch_drawing import drawn_patches
from .patches import patch_pictures
from .proofs import all_proofs
from .pruning import file_of, point_metric, pruning
from .steps import CODE_BARS, code_sizes, coverage, sensitivity, training
from .tokens import token_counts
from .trade_off import trade_offs
from .units import UNIT_LIMIT, UNIT_ROWS, share_text
from .view import (
    DeviceView,
    device_views,
    flat,
    metric_ground,
    metric_text,
    tiles,
)
from .waterfall import divergence_text, fidelity_text, waterfall
from .widths import width_text

if TYPE_CHECKING:
    from jinja2 import Environment

WIDTH_ROWS = 60
"""Layers in the Markdown report, which comments on pull requests must be able to hold."""


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
        "drawn_patches": drawn_patches,
        "fidelity_text": fidelity_text,
        "flat": lambda values: list(flat(values)),
        "metric_ground": metric_ground,
        "metric_text": metric_text,
        "patch_pictures": patch_pictures,
        "p50_text": _p50_text,
        "point_metric": point_metric,
        "pruning": pruning,
        "sensitivity": sensitivity,
        "share_text": share_text,
        "token_counts": token_counts,
        "trade_offs": trade_offs,
        "training": training,
        "speedup_text": _speedup_text,
        "width_text": width_text,
    }
    environment.globals |= {
        "CODE_BARS": CODE_BARS,
        "UNIT_LIMIT": UNIT_LIMIT,
        "UNIT_ROWS": UNIT_ROWS,
        "WIDTH_ROWS": WIDTH_ROWS,
        "file_of": file_of,
    }
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

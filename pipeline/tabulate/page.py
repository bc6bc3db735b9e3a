"""The page of a table of latencies, made from the table alone."""

from __future__ import annotations

from ...calibration.latency_table import LatencyTable, LayerLatency
from ..pages.jinja import clean, page_environment
from ..pages.words import bare_ms, ms, percent
from .charts import scatter


def slowest(table: LatencyTable) -> list[LayerLatency]:
    """The layers, what takes longest in the whole network first."""
    return sorted(table.layers, key=lambda layer: -layer.whole)


def error_text(table: LatencyTable) -> str:
    """How far the table is off a network that it was not fitted to."""
    if table.error is None:
        return "not known: too few networks were timed"
    return f"{percent(table.error, 1)} on average over {len(table.probes)} networks, each predicted by the others"


def table_html(table: LatencyTable) -> str:
    """The whole page, which needs nothing else."""
    fixed = sum(layer.fixed for layer in table.layers)
    parts = {
        "its widths": sum(layer.whole for layer in table.layers) - fixed,
        "its layers being there": fixed,
    }
    return (
        page_environment(escape=True, finalize=clean)
        .get_template("latency_table.html")
        .render(
            table=table,
            layers=slowest(table),
            chart=scatter(table.probes),
            error=error_text(table),
            parts=", ".join(f"{bare_ms(value)} by {what}" for what, value in parts.items())
            + f", {ms(table.rest_ms)} by neither",
            facts=[
                ("device", f"{table.device}, {table.runtime} {table.versions.get(table.runtime, '')}"),
                ("machine", table.machine),
                *table.facts.items(),
                ("precision", f"{table.precision} {table.grid}"),
                ("batch", str(table.batch)),
                ("measured", table.measured_at),
                *((key, str(value)) for key, value in table.settings.items()),
            ],
            versions=list(table.versions.items()),
        )
    )

"""The summary of a run on a terminal. Names are plain `Text`: no markup or terminal escape in them acts."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ...text import one_line, short
from ..int8_share import int8_share_text
from ..pages.words import NOT_MEASURED, byte_size, ms, ratio, ratio_interval
from ..run_record import RunRecord
from .pruning import Pruning, file_of, point_metric, pruning
from .tokens import token_counts
from .units import share_text
from .view import DeviceView, device_views, metric_text

REASON_LIMIT = 1200  # of a broken budget, which may name layers
COLOURS = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


def summary(record: RunRecord) -> RenderableType:
    """Verdict, budgets, what was pruned, devices and artefacts."""
    verdict = Text.assemble((record.verdict, COLOURS[record.verdict]), "  ", one_line(record.reason))
    parts: list[RenderableType] = [verdict]
    if record.budgets:
        parts.append(_budgets(record))
    pruned = [found for step in record.steps if (found := pruning(step)) is not None]
    parts += [_pruned(found, record) for found in pruned]
    for step in record.steps:
        if (counts := token_counts(step)) is not None:
            parts.append(Group(Text(short(step.pass_name), "bold"), Padding(Text(counts.line), (0, 0, 0, 2))))
    parts += [_device(device) for device in device_views(record)]
    if record.artefacts:
        parts.append(_artefacts(record))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, header_style="dim", overflow="fold")
    return table


def _budgets(record: RunRecord) -> Table:
    table = _table("budget", "limit", "measured", "")
    for budget in sorted(record.budgets, key=lambda b: b.verdict):
        measured = budget.measured
        if budget.verdict == "FAIL" and budget.reason:
            measured = budget.reason if measured == NOT_MEASURED else f"{measured}: {budget.reason}"
        table.add_row(
            Text(short(budget.name)), Text(short(budget.limit)), Text(one_line(measured, REASON_LIMIT)),
            Text(budget.verdict, COLOURS[budget.verdict]),
        )  # fmt: skip
    return table


def _pruned(found: Pruning, record: RunRecord) -> RenderableType:
    told: list[RenderableType] = [Text("\n".join(one_line(line, REASON_LIMIT) for line in found.lines))]
    if len(found.series) > 1:
        told.append(_series(found, record))
    return Group(Text(short(found.step.pass_name), "bold"), Padding(Group(*told), (0, 0, 0, 2)))


def _series(found: Pruning, record: RunRecord) -> Table:
    """The networks of one training, which the line above tells the chosen one of."""
    metric = f"{short(found.step.metric.name, 40)}, validation"
    table = _table("target", short(found.cost, 40), metric, "KL, nats", "weights")
    for point in found.series:
        target = share_text(point.target) + (", chosen" if point.chosen else "")
        divergence = NOT_MEASURED if point.kl is None else f"{point.kl:.3g}"
        row = (
            target,
            found.cost_text(point.cost),
            point_metric(point),
            divergence,
            file_of(point, found, record),
        )
        table.add_row(*map(Text, row))
    return table


def _device(device: DeviceView) -> RenderableType:
    head = Text.assemble((short(device.label), "bold"), f"  {device.status}")
    if device.target.reason:
        head.append(f": {short(device.target.reason, 1200)}")
    if not device.engines:
        return head
    table = _table("engine", "p50", "INT8 of MACs", "metric")
    for view in device.engines:
        latency = view.engine.latency_ms
        time = ms(latency.p50 if latency is not None else None)
        if latency is not None and latency.cached:
            time += f" (cached, {short(latency.measured_at)})"
        int8 = int8_share_text(view.engine)
        table.add_row(Text(view.role), Text(time), Text(int8), Text(short(metric_text(view.engine.metric))))
    speedups = [
        Text(f"{ratio(s.ratio)} over {short(s.baseline)} (95 % interval {ratio_interval(s.ci95)})")
        for s in device.target.speedup
    ]
    origins = dict.fromkeys(timing.origin for timing in device.timings if timing.origin)
    fed = [Text(f"timed over {short(origin)}", "dim") for origin in origins]
    return Group(head, Padding(Group(table, *fed, *speedups), (0, 0, 0, 2)))


def _artefacts(record: RunRecord) -> Table:
    table = _table("artefact", "kind", "size", "SHA-256")
    for artefact in record.artefacts:
        digest = f"{short(artefact.sha256)[:12]}…"
        row = (short(artefact.path), short(artefact.kind), byte_size(artefact.bytes), digest)
        table.add_row(*map(Text, row))
    return table

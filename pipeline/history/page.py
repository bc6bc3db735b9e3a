"""history.html: every series of a history as a chart, the newest state of all of them first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from ..pages.jinja import clean, page_environment
from .charts import SHOWN, history_chart
from .series import (
    Series,
    change_text,
    commit_name,
    device_name,
    interval_text,
    level_texts,
    measure_name,
    unchanged_text,
    value_text,
)

SHOWN_CHANGES = 10  # of a series, the newest


@dataclass(frozen=True)
class ChangeRow:
    """A change as the page prints it; `commits`: the last before it and the first after it."""

    when: str
    commits: tuple[str, str]
    levels: tuple[str, str]
    text: str
    worse: bool
    other_machine: bool


@dataclass(frozen=True)
class SeriesView:
    """A series as the page prints it."""

    measure: str
    device: str
    points: int
    shown: int
    latest: str
    interval: str
    commit: str
    unchanged: str
    changes: Sequence[ChangeRow]
    chart: Markup


def history_html(series: Sequence[Series]) -> str:
    """The whole page, which needs nothing else; series of one model stand together."""
    models = [
        (model, [_view(each) for each in group])
        for model, group in groupby(series, key=lambda each: each.latest.model)
    ]
    points = [point for each in series for point in each.points]
    return (
        page_environment(escape=True, finalize=clean)
        .get_template("history.html")
        .render(
            models=models,
            points=len(points),
            series=len(series),
            commits=len({point.commit for point in points if point.commit}),
            first=f"{min(point.at for point in points):%Y-%m-%d}" if points else "",
            last=f"{max(point.at for point in points):%Y-%m-%d}" if points else "",
            shown_changes=SHOWN_CHANGES,
            worse=sum(bool(each.changes) and each.changes[-1].worse for each in series),
        )
    )


def _view(series: Series) -> SeriesView:
    latest = series.latest
    return SeriesView(
        measure=measure_name(latest),
        device=device_name(latest),
        points=len(series.points),
        shown=min(len(series.points), SHOWN),
        latest=value_text(latest.measure, latest.value),
        interval=interval_text(latest),
        commit=commit_name(latest),
        unchanged=unchanged_text(series),
        changes=[
            ChangeRow(
                when=f"{change.after.at:%Y-%m-%d}",
                commits=(commit_name(change.before), commit_name(change.after)),
                levels=level_texts(change),
                text=change_text(change),
                worse=change.worse,
                other_machine=change.other_machine,
            )
            for change in reversed(series.changes)
        ],
        chart=history_chart(series),
    )

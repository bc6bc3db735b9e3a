"""An inspection on a terminal. Names come out of files: shown as text, never as markup or codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...macs import macs_text
from ...text import one_line
from .record import Inspection, TensorRow

MAX_ROWS = 400  # a terminal; --json has all
BAR = 20
LINE_LIMIT = 400  # characters of a name or a line


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print all tables of an inspection."""
    console.print(Group(*_parts(inspection)))


def safe(text: object) -> Text:
    """`text` as one line that a terminal can lay out, with nothing in it that could rewrite the screen."""
    return Text(one_line(str(text), LINE_LIMIT))


def _parts(found: Inspection) -> Iterator[Text | Table]:
    yield safe(f"{found.source}: {found.params:,} parameters{_macs(found)}, {found.bytes:,} bytes")
    for label, values in (("inputs", found.inputs), ("outputs", found.outputs)):
        if values:
            yield safe(f"{label}: " + "; ".join(f"{name} {_shape(shape)}" for name, shape in values.items()))
    if found.ir_version is not None:
        opsets = ", ".join(f"{domain} {version}" for domain, version in found.opset.items())
        yield safe(f"opset {opsets}; IR version {found.ir_version}")
    if found.layers:
        rows = [
            (r.name or "(top)", r.type, f"{r.params:,}", _count(r.macs), _shape(r.output_shape))
            for r in found.layers
        ]
        yield from _table(("layer", "type", "parameters", "MACs", "output"), rows, numeric=(2, 3))
    if found.operators:
        yield from _table(
            ("operator", "count"), [(k, f"{v:,}") for k, v in found.operators.items()], numeric=(1,)
        )
    if found.kind == "l2z":
        yield from _of_packed(found.tensors)
    elif found.tensors:
        tensors = [(t.name, _shape(t.shape), t.dtype, f"{t.params:,}") for t in found.tensors]
        yield from _table(("tensor", "shape", "dtype", "parameters"), tensors, numeric=(3,))
    if found.passes:
        passes = [(p.name, "yes" if p.applies else "no", p.reason) for p in found.passes]
        yield from _table(("pass", "applies", "reason"), passes)
    for note in found.notes:
        yield safe(f"note: {note}")


def _of_packed(tensors: Sequence[TensorRow]) -> Iterator[Text | Table]:
    """The largest share first, and as a bar."""
    most = max((row.share or 0.0 for row in tensors), default=0.0)
    rows = [
        (
            row.name,
            _shape(row.shape),
            row.dtype,
            f"{100 * (row.zeros or 0.0):.0f} %",
            f"{row.bits or 0.0:.2f}",
            f"{100 * (row.share or 0.0):.1f} %",
            "█" * round(BAR * (row.share or 0.0) / most) if most else "",
        )
        for row in sorted(tensors, key=lambda row: -(row.share or 0.0))
    ]
    yield from _table(
        ("tensor", "shape", "dtype", "zeros", "bits each", "of the file", ""), rows, numeric=(3, 4, 5)
    )


def _table(
    headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], numeric: Iterable[int] = ()
) -> Iterator[Text | Table]:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in set(numeric) else "left", overflow="fold")
    for row in rows[:MAX_ROWS]:
        table.add_row(*(safe(cell) for cell in row))
    yield table
    if len(rows) > MAX_ROWS:
        yield Text(f"... and {len(rows) - MAX_ROWS} more; --json has all")


def _macs(found: Inspection) -> str:
    if found.macs is None and not found.uncounted:
        return ""  # of weights alone there are none to count
    return f", {macs_text(found.macs, found.counted_macs, found.uncounted)}"


def _count(macs: int | None) -> str:
    return f"{macs:,}" if macs is not None else "unknown"


def _shape(shape: Iterable[int | str]) -> str:
    return " x ".join(str(d) for d in shape) or "scalar"

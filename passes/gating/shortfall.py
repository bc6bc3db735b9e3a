"""A cost that ends below its target, and what can be said of why."""

from __future__ import annotations

from collections.abc import Sequence

from ..channels.kind import Kind
from ..channels.units import Kept, Unit, gates_of
from .cost import Cost
from .projection import TOLERANCE
from .widths import ROUNDING, step_of, widths_of


def shortfall(
    kept: Kept, cost: Cost, target: float, units: Sequence[Unit], round_to: int = 8, least: float = 0.1
) -> str | None:
    """Says that the cost ends more than TOLERANCE below its target, and why where that is certain; None where it does
    not."""
    found = float(cost.of(gates_of(kept, units))) / cost.whole
    if found >= (1 - TOLERANCE) * target:
        return None
    told = f"target: {found:.3f} of the {cost.name} is left, and {target:g} was asked for"
    cut = [unit for unit in units if unit.name in kept]
    wider = {unit.name: _a_step_wider(unit, kept, round_to, least) for unit in cut}
    then = (
        float(cost.of(gates_of({**kept, name: more}, units))) / cost.whole for name, more in wider.items()
    )
    if any(found * (1 + ROUNDING) < each <= target * (1 + ROUNDING) for each in then):
        return told
    what = "block more" if all(unit.kind is Kind.BLOCK for unit in cut) else "step more of any layer"
    finer = any(step_of(unit, round_to) > 1 for unit in cut)
    return f"{told}: a {what} would be over it" + ("; a smaller round_to comes nearer" if finer else "")


def _a_step_wider(unit: Unit, kept: Kept, round_to: int, least: float) -> tuple[int, ...]:
    """Choices of the next number that may stay, those that are kept among them."""
    choices = kept[unit.name]
    count = next(width for width in widths_of(unit, round_to, least) if width > len(choices))
    gone = [choice for choice in range(unit.size) if choice not in set(choices)]
    return tuple(sorted((*choices, *gone[: count - len(choices)])))

"""What the report and the log are told of `gates`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from ...calibration.measurement import FidelityRecord, MetricRecord
from ...macs import listed
from ..channels.anatomy import LayerUse
from ..channels.assembly import inside
from ..channels.dissected import Dissected
from ..channels.kind import Kind
from ..channels.removal import Removal
from ..channels.units import Kept, Unit, gates_of
from .check import Effect
from .cost import Cost

if TYPE_CHECKING:
    from ...model import Facts


@dataclass(frozen=True)
class Smaller:
    """The network of one target. share: the target; effects: of each unit that lost something.

    facts, metric, fidelity: of the trained network, the last two on the validation part; None before they are known.
    """

    share: float
    kept: Kept
    effects: dict[str, Effect]
    removal: Removal
    network: nn.Module
    facts: Facts | None = None
    metric: MetricRecord | None = None
    fidelity: FidelityRecord | None = None

    def judged(self, facts: Facts, metric: MetricRecord, fidelity: FidelityRecord | None) -> Smaller:
        """The same, with what was found."""
        return replace(self, facts=facts, metric=metric, fidelity=fidelity)


def details(dissected: Dissected, cost: Cost, series: Sequence[Smaller], chosen: Smaller) -> dict[str, Any]:
    """JSON values for the report: the series, and what became of units and layers of the chosen network in it."""
    anatomy = dissected.anatomy
    return {
        "gates": {
            "cost": cost.name,
            "unit": cost.unit,
            "whole_cost": cost.whole,
            "uncounted": list(_uncounted(dissected, cost)),
            "series": [_row(dissected, cost, each) | {"chosen": each is chosen} for each in series],
            "units": [_unit(unit, cost, chosen) for unit in anatomy.units],
            "layers": [_layer(layer, chosen.kept) for layer in anatomy.layers],
            "whole": [{"name": w.name, "reason": w.reason} for w in anatomy.whole],
        }
    }


def summary(dissected: Dissected, cost: Cost, chosen: Smaller) -> list[str]:
    """One line on what it costs now, one on what went, and one on what could not go."""
    left = float(cost.of(gates_of(chosen.kept, dissected.anatomy.units)))
    units = dissected.anatomy.units
    share = f"{_number(left)} of {_number(cost.whole)} {cost.unit} left ({left / cost.whole:.1%})"
    uncounted = _uncounted(dissected, cost)
    partly = f", of those that can be counted; unknown: {listed(uncounted)}" if uncounted else ""
    lines = [f"{cost.name}: {share}{partly}"]
    gone = [unit for unit in units if unit.kind is Kind.BLOCK and chosen.kept.get(unit.name) == ()]
    for kind in (Kind.CHANNELS, Kind.HEADS, Kind.HEAD_SIZE):
        sizes = [(unit.size * unit.parts, _left(unit, chosen)) for unit in units if unit.kind is kind]
        had, kept = (sum(each) for each in zip(*sizes, strict=True)) if sizes else (0, 0)
        if kept < had:
            cut = sum(left < size for size, left in sizes)
            lines.append(f"{kind.value.replace('_', ' ')}: {had} -> {kept} in {cut} of {len(sizes)} groups")
    if gone:
        lines.append(f"blocks removed: {', '.join(unit.name for unit in gone)}")
    reasons = Counter(each.reason for each in dissected.anatomy.whole)
    lines += [f"left whole: {count} groups: {reason}" for reason, count in reasons.most_common()]
    return lines


def _uncounted(dissected: Dissected, cost: Cost) -> tuple[str, ...]:
    """The operators that the cost would be of too, were it known what they multiply."""
    return dissected.anatomy.uncounted if cost.name == "macs" else ()


def _row(dissected: Dissected, cost: Cost, smaller: Smaller) -> dict[str, Any]:
    left = float(cost.of(gates_of(smaller.kept, dissected.anatomy.units)))
    metric, fidelity, facts = smaller.metric, smaller.fidelity, smaller.facts
    return {
        "target": smaller.share,
        "cost": left,
        "share": left / cost.whole,
        "params": facts.params if facts else None,
        "macs": facts.macs if facts else None,
        "metric": metric.value if metric else None,
        "metric_error": metric.standard_error if metric else None,
        "kl": fidelity.kl if fidelity else None,
        "agreement": fidelity.agreement if fidelity else None,
    }


def _unit(unit: Unit, cost: Cost, chosen: Smaller) -> dict[str, Any]:
    closed = float(cost.of(gates_of({unit.name: ()}, [unit])))
    effect = chosen.effects.get(unit.name)
    return {
        "name": unit.name,
        "kind": unit.kind.value,
        "size": unit.size * unit.parts,
        "kept": _left(unit, chosen),
        "saves": 1 - closed / cost.whole,
        "harm": effect.harm if effect else None,
    }


def _left(unit: Unit, chosen: Smaller) -> int:
    """How many of its choices are left; none of what lies in a block that is gone."""
    if inside(unit.name, chosen.removal.skipped):
        return 0
    return len(chosen.kept.get(unit.name, range(unit.size))) * unit.parts


def _layer(layer: LayerUse, kept: Kept) -> dict[str, Any]:
    sides = {"inputs": layer.inputs, "outputs": layer.outputs}
    return {
        "name": layer.name,
        "type": layer.type,
        **{name: [side.size, len(side.kept(kept))] for name, side in sides.items()},
        "gone": any(kept.get(block) == () for block in layer.blocks),
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

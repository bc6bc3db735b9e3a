"""Multiply-accumulates as they are told of: operator by operator, unknown where they cannot be counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

NAMED = 5  # operators that a message lists by name


@dataclass(frozen=True)
class OperatorMacs:
    """One executed operator that multiplies, or may.

    place: name of the innermost module, or of the node of a captured graph, that ran it;
    macs: of one sample, None when they cannot be counted; why: the reason, where there is more to say.
    """

    place: str
    operator: str
    macs: int | None
    why: str = ""

    def __str__(self) -> str:
        """Name the operator as messages do: `_fft_r2c in 'head'`."""
        return f"{self.operator} in '{self.place}'" if self.place else self.operator


@runtime_checkable
class CountsItself(Protocol):
    """A network whose operators torch does not see, such as an ONNX file that onnxruntime runs."""

    def operator_macs(self) -> list[OperatorMacs]:
        """Multiply-accumulates of one sample, of each operator that has any, or may have."""


def total_macs(counts: Iterable[int | None]) -> int | None:
    """The sum, None when any count is."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def uncounted_notes(found: Iterable[OperatorMacs]) -> list[str]:
    """One sentence for each reason that multiply-accumulates are not known, with the operators that it holds for."""
    reasons: dict[str, list[str]] = {}
    for one in found:
        if one.macs is None:
            reasons.setdefault(one.why, []).append(str(one))
    return [
        f"multiply-accumulates are not known of {listed(names)}: {why or 'what it multiplies is not known'}"
        for why, names in reasons.items()
    ]


def macs_text(macs: int | None, counted: int, uncounted: Sequence[str]) -> str:
    """A count of one sample, or how many there are at least and of what they are unknown."""
    if macs is not None:
        return f"{macs:,} MACs a sample"
    return f"at least {counted:,} MACs a sample (unknown: {listed(uncounted)})"


def listed(names: Sequence[str]) -> str:
    """The distinct names, the first few of many: "DFT 'a', DFT 'b' and 3 more"."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - NAMED} more" if len(distinct) > NAMED else ""
    return ", ".join(distinct[:NAMED]) + more

"""Which rows may be compared: those that were timed on one machine, declared alike on every device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

NOT_TOLD = "not told"
MACHINE = "machine"
DECLARED = {
    "threads": ("INFERENCE_NUM_THREADS", "intra_op_num_threads"),
    "streams": ("NUM_STREAMS", "streams"),
    "float precision": ("INFERENCE_PRECISION_HINT", "float_precision"),
    "timed region": ("timed_region",),
    "GPU": ("gpu",),
}
"""What an engine tells that must be equal before two latencies are compared, and what the runtimes call it."""
DEFAULT_BATCH = "1"  # of a recipe that names none

Facts = dict[str, str]
"""What the latencies of one record on one device were taken under: machine, batch, mode, and `DECLARED`."""
Conditions = Mapping[str, Facts]
"""The facts of every device that a record was timed on."""


@dataclass(frozen=True)
class Group:
    """Records that were measured under the same conditions; rows of two groups are not compared."""

    name: str
    conditions: dict[str, Facts]
    sources: tuple[str, ...]

    @property
    def machines(self) -> str:
        """The machines that its devices belong to."""
        return _machines(self.conditions) or "nothing timed"


def grouped(sources: Iterable[tuple[str, Conditions]]) -> tuple[Group, ...]:
    """Each named record joins the first group that it agrees with.

    They agree when every device that both were timed on has the same facts; without such a device, when they
    were taken on the same machines, or one of them timed nothing.
    """
    groups: list[Group] = []
    for name, own in sources:
        at = next((i for i, group in enumerate(groups) if _agree(group.conditions, own)), None)
        if at is None:
            groups.append(Group(f"Group {len(groups) + 1}", dict(own), (name,)))
        else:
            known = groups[at]
            groups[at] = Group(known.name, {**known.conditions, **own}, (*known.sources, name))
    return tuple(groups)


def _agree(one: Conditions, other: Conditions) -> bool:
    shared = one.keys() & other.keys()
    if shared:
        return all(one[device] == other[device] for device in shared)
    return not one or not other or _machines(one) == _machines(other)


def _machines(conditions: Conditions) -> str:
    return ", ".join(dict.fromkeys(facts[MACHINE] for facts in conditions.values()))


def differences(groups: Sequence[Group]) -> tuple[str, ...]:
    """Every fact that groups differ in: "threads on openvino:CPU: 2 in Group 1, 1 in Group 2"."""
    machines: dict[str, list[str]] = {}
    told = {MACHINE: machines}
    for group in groups:
        machines.setdefault(group.machines, []).append(group.name)
        for device, facts in group.conditions.items():
            for fact, value in facts.items():
                if fact != MACHINE:
                    told.setdefault(f"{fact} on {device}", {}).setdefault(value, []).append(group.name)
    return tuple(
        f"{fact}: {', '.join(_where(value, names) for value, names in values.items())}"
        for fact, values in told.items()
        if len(values) > 1
    )


def _where(value: str, names: Sequence[str]) -> str:
    return f"{value} in {' and '.join(names)}"


def declared(settings: Mapping[str, Any]) -> Facts:
    """What an engine's settings say, by the names of `DECLARED`, as texts."""
    return {
        fact: next((str(settings[key]) for key in keys if key in settings), NOT_TOLD)
        for fact, keys in DECLARED.items()
    }


def batch_of(recipe: str) -> str:
    """`measure.batch` of a recipe's text, from its nodes alone: nothing in a foreign record is constructed."""
    try:
        root = yaml.compose(recipe, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return NOT_TOLD
    batch = _entry(_entry(root, "measure"), "batch")
    return str(batch.value) if isinstance(batch, yaml.ScalarNode) else DEFAULT_BATCH


def _entry(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)

"""Orders of passes: what form of network each is given, and why it cannot work on that, in words."""

from __future__ import annotations

from collections.abc import Iterable

from ..form import PACKED, Form
from .base import Pass

NEEDS_FLOAT = (
    "passes need the float network: give the file that it was made from, or `passes: []` to measure this one"
    " as it is"
)
"""What to do about a network that came quantized."""
CAME_QUANTIZED = f"the network is quantized already, and {NEEDS_FLOAT}"
WORDS = {
    Form.MODULES: "made of modules",
    Form.GRAPH: "one graph of operators",
    Form.INT8: "already quantized",
    Form.CODES: "made of codes for a packed file",
    Form.INT8_CODES: "made of codes for a packed file",
}
"""What a network of each form is, after "it is"."""


def order_problem(new: Pass, earlier: Iterable[Pass], start: Form = Form.MODULES) -> str | None:
    """Why `new` cannot work after `earlier` on a network that came in the form `start`; None when it can.

    A pass among the earlier ones that cannot work itself counts as left out.
    """
    form, maker = start, None
    for each in earlier:
        left = each.leaves(form) if form in each.takes else form
        form, maker = left, maker if left == form else each
    if form is Form.INT8 and maker is None:
        return CAME_QUANTIZED
    return refusal(new, form, maker)


def refusal(chosen: Pass, form: Form, maker: Pass | None = None) -> str | None:
    """Why `chosen` cannot work on a network of this form, in words; None when it can.

    maker: the pass that left it so; None for a network that came so.
    """
    if form in chosen.takes:
        return None
    if maker is not None:
        made = (
            f"the file that {maker.name} makes would not hold what this pass does"
            if form in PACKED
            else f"the network is {WORDS[form]} here, by the {maker.name} above"
        )
        return f"{made}: {_advice(chosen, form, maker)}"
    if form is Form.INT8:
        return CAME_QUANTIZED
    taken = " or ".join(WORDS[each] for each in Form if each in chosen.takes)
    return (
        f"the network is {WORDS[form]}, and {chosen.name} with these options takes one that is {taken}: give its"
        " factory and its weights, or other options"
    )


def _advice(chosen: Pass, form: Form, maker: Pass) -> str:
    """What to do about `maker` standing before `chosen`."""
    if chosen.name == maker.name:
        return "list it once"
    left = {chosen.leaves(taken) for taken in chosen.takes}
    if left <= maker.takes:
        return f"list {maker.name} last" if form in PACKED else f"list {chosen.name} before it"
    return "list one of the two" + (", as each places quantizers of its own" if left == {form} else "")

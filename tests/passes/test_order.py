"""Orders of passes: which can work is known from what each takes and leaves, before any work."""

from __future__ import annotations

from itertools import product

import pytest
from edgepress.form import Form, form_named
from edgepress.passes import PASSES
from edgepress.passes.base import Pass
from edgepress.passes.distill import Distill
from edgepress.passes.l2 import L2
from edgepress.passes.order import WORDS, order_problem, refusal
from edgepress.passes.quantize import Quantize
from float_pass import FloatPass


class Gates(FloatPass):
    """Cuts channels, of modules or of a graph."""

    name = "gates"


class Exits(FloatPass):
    """Makes one graph of modules."""

    name = "exits"

    @property
    def takes(self) -> frozenset[Form]:
        return frozenset({Form.MODULES})

    def leaves(self, taken: Form) -> Form:
        return Form.GRAPH


QUANTIZE, L2_, GATES, EXITS = Quantize(), L2(), Gates(), Exits()
DISTILL = Distill()
FLOATING = Distill(weight_bits="float")
HALF = Distill.model_validate({"student": {"width": 0.5}})
OTHER = Distill.model_validate({"student": {"source": "nets:small"}, "weight_bits": "float"})

CAN_WORK: dict[str, list[Pass]] = {
    "nothing": [],
    "one after another in float": [FLOATING, FLOATING, QUANTIZE],
    "a student, then codes": [FLOATING, L2_],
    "gates, then INT8, then codes of it": [GATES, QUANTIZE, L2_],
    "few bits, then codes of them": [GATES, DISTILL, L2_],
    "gates, then INT8": [GATES, QUANTIZE],
    "gates, then a smaller student": [GATES, HALF],
    "a graph, then INT8": [EXITS, GATES, QUANTIZE],
    "a graph, then its own fine-tuning": [EXITS, DISTILL],
    "a graph that teaches another network": [EXITS, OTHER, HALF],
}


@pytest.mark.parametrize("case", CAN_WORK)
def test_an_order_that_can_work_is_let_through(case: str) -> None:
    order = CAN_WORK[case]
    assert [order_problem(each, order[:index]) for index, each in enumerate(order)] == [None] * len(order)


INT8_BY = "the network is already quantized here, by the {} above: "
OF_ITS_OWN = "list one of the two, as each places quantizers of its own"
LOST = "the file that l2 makes would not hold what this pass does: "
GRAPH = "the network is one graph of operators here, by the exits above: "
CANNOT: dict[str, tuple[list[Pass], Pass, str]] = {
    "INT8 twice": ([QUANTIZE], QUANTIZE, INT8_BY.format("quantize") + "list it once"),
    "INT8 in two ways": ([QUANTIZE], DISTILL, INT8_BY.format("quantize") + OF_ITS_OWN),
    "the other way round": ([HALF], QUANTIZE, INT8_BY.format("distill") + OF_ITS_OWN),
    "float after INT8": ([QUANTIZE], FLOATING, INT8_BY.format("quantize") + "list distill before it"),
    "gates after INT8": ([DISTILL], GATES, INT8_BY.format("distill") + "list gates before it"),
    "float after codes": ([L2_], FLOATING, LOST + "list l2 last"),
    "INT8 after codes": ([L2_], QUANTIZE, LOST + "list l2 last"),
    "gates after codes of INT8": ([QUANTIZE, L2_], GATES, LOST + "list l2 last"),
    "codes twice": ([L2_], L2_, LOST + "list it once"),
    "the one that was refused is not blamed": ([L2_, QUANTIZE], GATES, LOST + "list l2 last"),
    "the one that left it so is": ([QUANTIZE, QUANTIZE], GATES, INT8_BY.format("quantize") + "list gates before it"),
    "a student cut from a graph": ([EXITS, GATES], HALF, GRAPH + "list one of the two"),
    "a float student cut from a graph": ([EXITS], FLOATING, GRAPH + "list distill before it"),
}  # fmt: skip


@pytest.mark.parametrize("case", CANNOT)
def test_an_order_that_cannot_work_is_refused_with_what_to_do(case: str) -> None:
    earlier, new, message = CANNOT[case]
    assert order_problem(new, earlier) == message


def test_what_a_network_came_as_decides_too() -> None:
    for chosen in (QUANTIZE, DISTILL, L2_, GATES):
        told = order_problem(chosen, [], Form.INT8)
        assert told is not None and told.startswith(
            "the network is quantized already, and passes need the float"
        )
        assert order_problem(chosen, [], Form.GRAPH) is None
    assert order_problem(HALF, [], Form.GRAPH) == (
        "the network is one graph of operators, and distill with these options takes one that is made of modules: give"
        " its factory and its weights, or other options"
    )
    assert order_problem(HALF, [OTHER], Form.GRAPH) is None  # the student of a factory has modules again


def test_a_source_tells_the_form_as_far_as_its_name_does() -> None:
    named = {
        "nets:net": Form.MODULES,
        "timm:vit": Form.MODULES,
        "net.onnx": Form.MODULES,
        "net.PT2": Form.GRAPH,
    }
    assert {source: form_named(source) for source in named} == named


@pytest.mark.parametrize("name", PASSES)
def test_each_pass_leaves_one_form_of_each_that_it_takes_and_is_refused_the_others(name: str) -> None:
    chosen = PASSES[name]()
    assert Form.MODULES in chosen.takes, "what nearly every network comes as"
    for form, maker in product(Form, (None, QUANTIZE, L2_)):
        assert (refusal(chosen, form, maker) is None) == (form in chosen.takes)
    assert all(isinstance(chosen.leaves(form), Form) for form in chosen.takes)


def test_every_form_has_words() -> None:
    assert set(WORDS) == set(Form)

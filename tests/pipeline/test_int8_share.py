"""An unknown count is never a share of 0 or 100 %, and a budget that it decides is not kept."""

from __future__ import annotations

import pytest
from edgepress.pipeline.budgets import Budgets
from edgepress.pipeline.int8_share import int8_share, int8_share_text
from edgepress.pipeline.run_record import BudgetRecord, EngineRecord
from edgepress.targets.layer import Layer
from run_records import cpu, engine, step

UNKNOWN = "unknown"


def layer(name: str, precision: str, macs: int | None, kind: str = "Conv", ms: float | None = 0.5) -> Layer:
    return Layer(name=name, type=kind, precision=precision, ms=ms, macs=macs, onnx_nodes=[name])


def of(*layers: Layer, precision: dict[str, float] | None = None) -> EngineRecord:
    return engine("openvino:CPU int8", 1.0, 0.86, precision or {}, layers=list(layers))


def judged(found: EngineRecord, least: float) -> BudgetRecord:
    from edgepress.pipeline.judge import judge

    budgets = Budgets(int8_share={"openvino:CPU": least})
    steps = [step("float", 0.86, 1000), step("quantize", 0.86, 300)]
    records, verdict, _ = judge(budgets, steps, [], [cpu(compressed=found)], [])
    assert verdict == records[0].verdict
    return records[0]


IN_INT8 = layer("conv", "int8", 300)
IN_FLOAT = layer("head", "bf16", 100)


@pytest.mark.parametrize(
    ("layers", "bounds", "text"),
    [
        pytest.param([IN_INT8, layer("e", "f32", None)], (0, 1), UNKNOWN, id="a float layer may be nearly all"),
        pytest.param([IN_INT8, IN_FLOAT, layer("e", "int8", None)], (0.75, 1), "unknown, at least 75.0 %", id="INT8"),
        pytest.param([IN_INT8, IN_FLOAT, layer("e", "f32", None)], (0, 0.75), "unknown, at most 75.0 %", id="float"),
        pytest.param(
            [IN_INT8, IN_FLOAT, layer("e", "f32", None), layer("d", "int8", None)], (0, 1), UNKNOWN, id="one of each"
        ),
        pytest.param([IN_INT8, layer("e", "int8", None)], (1, 1), "100.0 %", id="all in INT8 whatever it is"),
        pytest.param([IN_FLOAT, layer("e", "f32", None)], (0, 0), "0.0 %", id="all in float whatever it is"),
    ],
)  # fmt: skip
def test_what_is_known_of_a_share(layers: list[Layer], bounds: tuple[float, float], text: str) -> None:
    share = int8_share(of(*layers))
    assert share is not None
    assert (share.low, share.high) == bounds
    assert share.text() == text


def test_a_share_of_counted_layers_is_the_runtime_s_word() -> None:
    found = of(IN_INT8, IN_FLOAT, precision={"int8": 0.75, "bf16": 0.25})
    assert int8_share_text(found) == "75.0 %"
    assert int8_share_text(of(IN_INT8, IN_FLOAT)) == "not measured"


def test_a_budget_that_an_unknown_count_decides_is_broken_and_names_it() -> None:
    record = judged(of(IN_INT8, layer("x", "f32", None, "Einsum")), 0.95)
    assert (record.verdict, record.measured) == ("FAIL", UNKNOWN)
    assert record.reason == (
        "it depends on what is unknown: the MACs of Einsum 'x' cannot be counted; "
        "not in INT8: x (Einsum, f32): unknown MACs, 0.500 ms."
    )


def test_a_budget_that_holds_whatever_is_unknown_is_kept() -> None:
    assert judged(of(IN_INT8, layer("x", "int8", None)), 0.95).verdict == "PASS"
    assert judged(of(IN_INT8, IN_FLOAT, layer("x", "int8", None)), 0.7).verdict == "PASS"
    assert judged(of(IN_INT8, IN_FLOAT, layer("x", "int8", None)), 0.8).verdict == "FAIL"


def test_a_broken_budget_names_what_is_not_in_int8_with_its_macs_share_and_time() -> None:
    found = of(
        layer("conv", "int8", 260),
        layer("small", "f32", 40, ms=None),
        layer("lstm", "bf16", 700, "RNNSeq", ms=2.6),
        precision={"bf16": 0.7, "int8": 0.26, "f32": 0.04},
    )
    record = judged(found, 0.95)
    assert (record.verdict, record.measured) == ("FAIL", "26.00 %")
    assert record.reason == (
        "by the runtime's own word, too few MACs are executed in INT8; not in INT8: "
        "lstm (RNNSeq, bf16): 700 MACs (70.0 %), 2.60 ms; small (Conv, f32): 40 MACs (4.0 %), not timed."
    )


def test_of_many_layers_the_heaviest_are_named() -> None:
    record = judged(of(*(layer(f"n{i}", "f32", 10 + i) for i in range(17)), precision={"f32": 1.0}), 0.5)
    assert "not in INT8: n16 (" in record.reason and "; n12 (" in record.reason
    assert record.reason.endswith("; and 12 more.")

"""The proof of an edge: what it measures, and what it lets through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from edgepress.calibration.data import Part
from edgepress.pipeline.proof.edges import (
    FLOAT_LIMIT,
    LOW_PRECISION_LIMIT,
    Limit,
    labels_are_classes,
    prove,
    worst_samples,
)
from edgepress.pipeline.proof.parity import enough
from edgepress.pipeline.proof.ranked import ranked_outputs
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor


def batches(*outputs: Tensor) -> list[tuple[Tensor, ...]]:
    return [outputs]


LOGITS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]])


def test_equal_outputs_pass_any_limit() -> None:
    record = prove("a → b", batches(LOGITS), batches(LOGITS.clone()), FLOAT_LIMIT)
    assert record.ok and record.max_error == 0.0 and record.top1_agreement == 1.0 and record.n == 4


def test_sqnr_is_ten_log_of_signal_over_noise() -> None:
    # signal 1 + 4 + 9 + 16 = 30, noise 0.3: 10 log10(100) = 20 dB
    noisy = LOGITS.clone()
    noisy[0, 0] += 0.3**0.5
    record = prove("a → b", batches(LOGITS), batches(noisy), Limit(20.01))
    assert record.sqnr_db == pytest.approx(20.0, abs=0.01) and not record.ok
    assert prove("a → b", batches(LOGITS), batches(noisy), Limit(19.9)).ok


@pytest.mark.parametrize(("decibels", "ok"), [(24.7, True), (14.0, False)])
def test_eight_bits_of_bf16_or_int8_pass_and_a_wrong_graph_does_not(decibels: float, ok: bool) -> None:
    rounded = LOGITS.clone()
    rounded[3, 1] += (30 / 10 ** (decibels / 10)) ** 0.5  # the classes stay
    record = prove("a → b", batches(LOGITS), batches(rounded), LOW_PRECISION_LIMIT)
    assert record.ok is ok and record.top1_agreement == 1.0


def test_a_large_output_does_not_hide_a_small_one_that_is_wrong() -> None:
    small, large = torch.randn(8, 3), 1000 * torch.randn(8, 3)
    record = prove("a → b", batches(small, large), batches(-small, large.clone()), FLOAT_LIMIT)
    assert not record.ok and record.sqnr_db < 0


def test_one_sample_of_few_may_change_its_class_two_may_not() -> None:
    one, two = LOGITS.clone(), LOGITS.clone()
    one[0] = torch.tensor([1.0, 1.1])
    two[0] = two[1] = torch.tensor([1.0, 1.1])
    two[1] = torch.tensor([2.1, 2.0])
    limit = Limit(0.0, LOW_PRECISION_LIMIT.agreement)
    assert prove("a → b", batches(LOGITS), batches(one), limit).ok
    assert not prove("a → b", batches(LOGITS), batches(two), limit).ok


@pytest.mark.parametrize(
    ("after", "problem"),
    [
        (torch.full((4, 2), float("nan")), "output 0 is not finite"),
        (LOGITS[:, :1], "output 0 has shape (4, 1) instead of (4, 2)"),
    ],
)
def test_what_cannot_be_compared_is_a_broken_proof_with_its_reason(after: Tensor, problem: str) -> None:
    record = prove("a → b", batches(LOGITS), batches(after), FLOAT_LIMIT)
    assert not record.ok and record.limit == problem


def test_without_a_limit_the_record_only_reports() -> None:
    record = prove("a → b", batches(LOGITS), batches(LOGITS + 5), None)
    assert record.ok and record.limit == "reported; the budgets judge it"


def test_integers_are_judged_by_how_many_are_equal_not_by_decibels() -> None:
    ids = torch.arange(100).reshape(4, 25)
    other = ids.clone()
    other[0, :4] = 900
    record = prove("a → b", batches(ids), batches(other), LOW_PRECISION_LIMIT)
    assert record.ok and record.agreement == 0.96 and record.sqnr_db is None and record.max_error is None
    other[1, :2] = 900
    record = prove("a → b", batches(ids), batches(other), LOW_PRECISION_LIMIT)
    assert not record.ok and record.agreement == pytest.approx(0.94)
    assert record.limit == "SQNR ≥ 15 dB, equal integers or rows ≥ 95 %"
    assert not prove("a → b", batches(ids), batches(other), FLOAT_LIMIT).ok


def test_truth_values_and_one_integer_of_few() -> None:
    mask = torch.tensor([True, False, True, True])
    flipped = mask.clone()
    flipped[0] = False
    assert prove("a → b", batches(mask), batches(flipped), LOW_PRECISION_LIMIT).ok
    flipped[1] = True
    assert not prove("a → b", batches(mask), batches(flipped), LOW_PRECISION_LIMIT).ok


@pytest.mark.parametrize("wrong", [1, 2])
def test_no_class_of_one_or_one_of_two_samples_may_change(wrong: int) -> None:
    """At 0 % or 50 % nothing is proved, however few there are."""
    scores = torch.tensor([[1.0, 0.99], [2.0, 0.0]])[:wrong]
    other = scores.clone()
    other[0] = torch.tensor([0.99, 1.0])
    record = prove("a → b", batches(scores), batches(other), LOW_PRECISION_LIMIT)
    assert record.sqnr_db > 15 and record.top1_agreement == (wrong - 1) / wrong and not record.ok
    ids = torch.tensor([3, 4])[:wrong]
    assert not prove("a → b", batches(ids), batches(ids + torch.tensor([1, 0])[:wrong]), FLOAT_LIMIT).ok
    rows = torch.tensor([[[7, 1]], [[8, 1]]])[:wrong]  # a ranking of one row for each sample
    moved = rows.clone()
    moved[0] = 5
    assert not prove("a → b", batches(rows), batches(moved), LOW_PRECISION_LIMIT, ranked=((0,),)).ok


@pytest.mark.parametrize(
    ("wrong", "count", "least", "ok"),
    [
        (1, 20, 0.999, True),
        (2, 20, 0.999, False),
        (1, 19, 0.999, False),
        (1, 4, 0.95, True),
        (1, 3, 0.95, False),
        (5, 100, 0.95, True),
    ],
)
def test_one_may_differ_where_there_are_enough(wrong: int, count: int, least: float, ok: bool) -> None:
    assert enough((count - wrong) / count, count, least) is ok


def test_what_is_nowhere_finite_proves_nothing() -> None:
    endless, nan = torch.full((4, 2), torch.inf), torch.full((4, 2), torch.nan)
    record = prove("a → b", batches(endless), batches(endless), FLOAT_LIMIT)
    assert not record.ok
    assert record.limit == "no output has a finite number for these samples: nothing was proved"
    assert prove("a → b", batches(LOGITS, endless), batches(LOGITS, endless), FLOAT_LIMIT).ok
    for limit in (FLOAT_LIMIT, None):
        record = prove("a → b", batches(LOGITS, nan), batches(LOGITS, nan), limit)
        assert not record.ok
        assert record.limit == "output 1 is not a number (NaN) in what it is compared with"


def test_a_ranking_that_is_not_a_number_fails_with_equal_ones_beside_it() -> None:
    scores = SCORES.clone()
    scores[0, 3] = torch.nan
    record = prove("a → b", batches(scores, IDS), batches(scores, IDS), FLOAT_LIMIT, ranked=((0, 1),))
    assert not record.ok and record.limit.startswith("output 0 is not a number (NaN)")


def test_infinities_that_both_have_are_left_out() -> None:
    masked = torch.tensor([[1.0, -torch.inf], [2.0, -torch.inf]])
    close = torch.tensor([[1.0, -torch.inf], [2.5, -torch.inf]])  # 5 over 0.25
    record = prove("a → b", batches(masked), batches(close), Limit(12.9))
    assert record.ok and record.sqnr_db == pytest.approx(13.01) and record.max_error == 0.5


@pytest.mark.parametrize("found", [[[1.0, -9.0], [2.0, 0.0]], [[1.0, torch.inf], [2.0, 0.0]]])
def test_an_infinity_that_is_none_or_has_another_sign_breaks_the_proof(found: list[list[float]]) -> None:
    masked = torch.tensor([[1.0, -torch.inf], [2.0, 0.0]])
    record = prove("a → b", batches(masked), batches(torch.tensor(found)), Limit(0.0))
    assert not record.ok and record.sqnr_db is None
    assert record.limit == "output 0 is another number where it should be infinite"


def test_an_empty_output_proves_nothing_alone_and_harms_nothing_beside_others() -> None:
    empty = torch.zeros(0, 4)
    alone = prove("a → b", batches(empty), batches(empty), FLOAT_LIMIT)
    assert not alone.ok and alone.limit == "every output is empty for these samples: nothing was proved"
    assert prove("a → b", batches(LOGITS, empty), batches(LOGITS, empty), FLOAT_LIMIT).ok


def test_agreement_is_asked_of_classes_only() -> None:
    """Of an embedding the largest element says nothing: its SQNR does."""
    embedding = torch.tensor([[1.0, 0.99], [0.99, 1.0], [1.0, 0.99], [0.99, 1.0]])
    moved = embedding.flip(1)  # 0.01 off everywhere: 40 dB, and every largest element is another
    record = prove("a → b", batches(embedding), batches(moved), LOW_PRECISION_LIMIT, classes=False)
    assert record.ok and record.top1_agreement is None and record.limit == "SQNR ≥ 15 dB"
    assert not prove("a → b", batches(embedding), batches(moved), LOW_PRECISION_LIMIT).ok


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (torch.tensor(3), True),
        (torch.tensor(3.0), False),
        (torch.tensor([1, 2]), False),
        (torch.rand(4), False),
    ],
)
def test_a_label_of_a_class_is_one_whole_number(label: torch.Tensor, classes: bool) -> None:
    assert labels_are_classes(Part("validation", [((torch.zeros(2),), label)])) is classes


def test_the_worst_of_several_outputs_is_named() -> None:
    boxes, moved = torch.full((4, 4), 2.0), torch.full((4, 4), 2.2)  # 4 over 0.04: 20 dB
    record = prove("a → b", batches(LOGITS, boxes), batches(LOGITS, moved), FLOAT_LIMIT, ("logits", "boxes"))
    assert not record.ok and record.worst == "output 1 ('boxes'): SQNR 20.0 dB"
    assert prove("a → b", batches(LOGITS), batches(LOGITS), FLOAT_LIMIT).worst == ""


def test_a_number_without_an_axis_is_compared() -> None:
    assert prove("a → b", batches(torch.tensor(2.0)), batches(torch.tensor(2.0)), FLOAT_LIMIT).ok


def test_outputs_whose_rows_vary_from_batch_to_batch_are_a_broken_proof() -> None:
    found = [(torch.rand(2, 3, 4),), (torch.rand(2, 5, 4),)]
    record = prove("a → b", found, found, FLOAT_LIMIT)
    assert not record.ok and record.n == 4
    assert record.limit == (
        "output 0 has other shapes from batch to batch ((2, 3, 4), (2, 5, 4)), so that its samples cannot be compared;"
        " give it a fixed number of rows"
    )
    assert worst_samples(found, found, 2) == [0, 1]


SCORES = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
IDS = torch.tensor([[3, 1, 4, 5], [9, 2, 6, 8]])


def swapped(tensor: Tensor) -> Tensor:
    return tensor[:, [1, 0, 2, 3]]


def test_rows_of_a_ranking_may_change_places_and_nothing_else_may() -> None:
    before, after = batches(SCORES, IDS), batches(swapped(SCORES), swapped(IDS))
    assert not prove("a → b", before, after, FLOAT_LIMIT).ok
    record = prove("a → b", before, after, FLOAT_LIMIT, ranked=((0, 1),))
    assert record.ok and record.agreement == 1.0 and record.sqnr_db is None
    wrong = prove("a → b", before, batches(SCORES, swapped(IDS)), FLOAT_LIMIT, ranked=((0, 1),))
    assert not wrong.ok and wrong.agreement == 0.5


def test_a_row_may_leave_a_ranking_for_one_of_the_same_score_at_its_end() -> None:
    other = IDS.clone()
    other[:, 3] = 77
    scores = SCORES.clone()
    scores[:, 3] = 0.61
    record = prove(
        "a → b", batches(SCORES, IDS), batches(scores, other), LOW_PRECISION_LIMIT, ranked=((0, 1),)
    )
    assert record.ok
    other[:, 0] = 78  # the first is not at the end
    assert not prove(
        "a → b", batches(SCORES, IDS), batches(scores, other), LOW_PRECISION_LIMIT, ranked=((0, 1),)
    ).ok


def test_boxes_are_matched_with_their_labels() -> None:
    boxes = torch.arange(32.0).reshape(2, 4, 4)
    before = batches(boxes, IDS, SCORES)
    after = batches(swapped(boxes), swapped(IDS), swapped(SCORES))
    assert prove("a → b", before, after, LOW_PRECISION_LIMIT, ranked=((0, 1, 2),)).ok
    after = batches(boxes.flip(1), IDS, SCORES)
    assert not prove("a → b", before, after, LOW_PRECISION_LIMIT, ranked=((0, 1, 2),)).ok


def test_rows_are_found_on_the_axis_that_all_outputs_of_a_ranking_share() -> None:
    boxes = torch.arange(40.0).reshape(2, 5, 4)  # (samples, coordinates, rows)
    before = batches(boxes, IDS, SCORES)
    after = batches(boxes[..., [1, 0, 2, 3]], swapped(IDS), swapped(SCORES))
    assert prove("a → b", before, after, FLOAT_LIMIT, ranked=((0, 1, 2),)).ok
    after = batches(boxes, swapped(IDS), swapped(SCORES))
    assert not prove("a → b", before, after, FLOAT_LIMIT, ranked=((0, 1, 2),)).ok


def test_each_ranking_is_matched_for_itself() -> None:
    fewer, which = SCORES[:, :3], IDS[:, :3]
    before = batches(SCORES, IDS, fewer, which)
    after = batches(swapped(SCORES), swapped(IDS), fewer, which)
    record = prove("a → b", before, after, FLOAT_LIMIT, ranked=((0, 1), (2, 3)))
    assert record.ok and record.agreement == 1.0


def test_outputs_of_a_ranking_are_found_in_the_graph_and_logits_behind_one_are_none(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["values", "ids"]),
        helper.make_node("Cast", ["ids"], ["labels"], to=TensorProto.INT32),
        helper.make_node("MatMul", ["values", "w"], ["logits"]),
    ]
    arrays = [
        numpy_helper.from_array(np.array([3]), "k"),
        numpy_helper.from_array(np.ones((3, 2), np.float32), "w"),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "logits", "values", "labels")
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    onnx.save(helper.make_model(graph), str(tmp_path / "top.onnx"))
    assert ranked_outputs(tmp_path / "top.onnx") == [[1, 2]]


def graph_of(folder: Path, nodes: list[onnx.NodeProto], outputs: dict[str, int], axes: int = 2) -> Path:
    """x (n, 4), w (4, 3), k 2 and a table (4, 3); outputs by name with their element type."""
    arrays = {"w": np.ones((4, 3)), "table": np.ones((4, 3)), "two": np.ones(1) * 2}
    made = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    made += [numpy_helper.from_array(np.array([v]), n) for n, v in {"k": 2, "one": 1, "axis": 1}.items()]
    made += [numpy_helper.from_array(np.arange(3), "classes")]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    given = [
        helper.make_tensor_value_info(n, t, [f"{n}{i}" for i in range(axes)]) for n, t in outputs.items()
    ]
    graph = helper.make_graph(nodes, "g", ends, given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, str(folder / "net.onnx"))
    return folder / "net.onnx"


TOP = helper.make_node("TopK", ["x", "k"], ["values", "ids"])
GATED = {
    "a gate that weighs": [
        helper.make_node("MatMul", ["x", "w"], ["expert"]),
        helper.make_node("ReduceSum", ["values", "axis"], ["gate"]),
        helper.make_node("TopK", ["x", "one"], ["top", "which"]),
        helper.make_node("Mul", ["expert", "top"], ["y"]),
    ],
    "experts that are gathered": [
        helper.make_node("TopK", ["x", "one"], ["top", "which"]),
        helper.make_node("Gather", ["table", "which"], ["rows"]),
        helper.make_node("Squeeze", ["rows", "axis"], ["y"]),
    ],
    "a class that was chosen, as one of all": [
        helper.make_node("TopK", ["x", "one"], ["top", "which"]),
        helper.make_node("Equal", ["which", "classes"], ["is"]),
        helper.make_node("Cast", ["is"], ["y"], to=TensorProto.FLOAT),
    ],
    "scores beside values": [
        helper.make_node("MatMul", ["x", "w"], ["expert"]),
        helper.make_node("Concat", ["expert", "values"], ["y"], axis=1),
    ],
    "indices that only choose a shape": [
        helper.make_node("MatMul", ["x", "w"], ["expert"]),
        helper.make_node("Shape", ["x"], ["all"]),
        helper.make_node("Reshape", ["expert", "ids"], ["y"]),
    ],
}


@pytest.mark.parametrize("nodes", GATED.values(), ids=GATED)
def test_logits_behind_a_gate_are_no_ranking(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    path = graph_of(tmp_path, [TOP, *nodes], {"y": TensorProto.FLOAT})
    assert ranked_outputs(path) == []


def test_values_ids_and_boxes_of_a_ranking_are_ranked(tmp_path: Path) -> None:
    nodes = [
        TOP,
        helper.make_node("Mul", ["values", "two"], ["doubled"]),
        helper.make_node("Cast", ["ids"], ["labels"], to=TensorProto.INT32),
        helper.make_node("Add", ["values", "doubled"], ["sum"]),
    ]
    kinds = {"doubled": TensorProto.FLOAT, "labels": TensorProto.INT32, "sum": TensorProto.FLOAT}
    assert ranked_outputs(graph_of(tmp_path, nodes, kinds)) == [[0, 1, 2]]
    nodes.append(helper.make_node("TopK", ["x", "one"], ["best", "which"]))
    kinds |= {"best": TensorProto.FLOAT, "which": TensorProto.INT64}
    assert ranked_outputs(graph_of(tmp_path, nodes, kinds)) == [[0, 1, 2], [3, 4]]
    nodes = [  # rows of one ranking, chosen by another: they stand in the order of the second
        TOP,
        helper.make_node("TopK", ["values", "one"], ["best", "which"]),
        helper.make_node("GatherElements", ["ids", "which"], ["labels"], axis=1),
    ]
    kinds = {"best": TensorProto.FLOAT, "labels": TensorProto.INT64}
    assert ranked_outputs(graph_of(tmp_path, nodes, kinds)) == [[0, 1]]
    nodes = [TOP, helper.make_node("Gather", ["table", "ids"], ["boxes"])]
    assert ranked_outputs(graph_of(tmp_path, nodes, {"boxes": TensorProto.FLOAT}, axes=3)) == [[0]]
    nodes = [
        TOP,
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("Slice", ["zeros", "axis", "k", "axis"], ["column"]),
        helper.make_node("Cast", ["column"], ["rows"], to=TensorProto.INT64),
        helper.make_node("Concat", ["rows", "ids"], ["places"], axis=1),
        helper.make_node("GatherND", ["table", "places"], ["boxes"]),
    ]
    assert ranked_outputs(graph_of(tmp_path, nodes, {"boxes": TensorProto.FLOAT}, axes=3)) == [[0]]

"""The pass `distill`: what it refuses, what it leaves alone, what it deploys, and that it teaches."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from edgepress.calibration.measurement import Measurement, MetricRecord
from edgepress.calibration.metric import TopK
from edgepress.calibration.sources import load_data
from edgepress.errors import CompressError
from edgepress.examples import digits as digits_examples
from edgepress.examples.digits.models import cnn
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.base import NetworkSource, PassContext, PassPlan
from edgepress.passes.distill import Distill
from edgepress.passes.graph.capture import capture
from edgepress.passes.order import order_problem
from edgepress.passes.quantization.quantizers import weight_quantizers_of
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.export import export
from edgepress.pipeline.recipe.sections import ImagePreprocessing
from edgepress.targets.base import TargetOptions
from edgepress.targets.onnxruntime import load
from forked import ended, started
from onnx import numpy_helper
from pydantic import ValidationError
from quantization_nets import context_of, model_of, samples
from safetensors.torch import load_file, save_file
from small_student import FAST, PART, distilled, small_model
from torch import nn

REFUSED = {
    "one bit": ({"weight_bits": 1}, "weight_bits"),
    "a source and a depth": ({"student": {"source": "a:b", "depth": 0.5}}, "a source, or depth and width"),
    "weights without a source": ({"student": {"weights": "a.pt"}}, "a source beside weights and args"),
    "buckets of a few weights": ({"bucket": 4}, "expected channel, or a number of weights from 8 on"),
    "learned points of 8 bits": (
        {"points": "learned"},
        "points: learned needs weight_bits from 2 to 7, got 8",
    ),
    "bits of a float student": (
        {"weight_bits": "float", "redistribute_bits": True},
        "redistribute_bits: needs weight_bits from 2 to 7, got float",
    ),
    "fewer bits outside than inside": (
        {"weight_bits": 4, "first_last_bits": 2},
        "first_last_bits: expected at least weight_bits, 4",
    ),
    "a graph that is to train in float": (
        {"student": {"source": "small.pt2"}},
        "float_epochs: expected 0 for the student small.pt2, got 10",
    ),
    "dropping the only teacher": ({"teacher_dropping": 0.5}, "needs more than one teacher"),
    "an unknown augmentation": ({"training": {"augment": ["spin"]}}, "expected flip_horizontal"),
    "an unknown option": ({"epochs": 3}, "Extra inputs are not permitted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_make_no_sense_are_refused(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(ValidationError, match=message):
        Distill.model_validate_json(json.dumps(options), strict=True)


def test_it_follows_no_pass_that_quantizes_and_none_follows_it() -> None:
    told = "the network is already quantized here, by the {} above: list one of the two, as each places quantizers"
    assert order_problem(Distill(), [Quantize()]) == told.format("quantize") + " of its own"
    assert order_problem(Quantize(), [Distill()]) == told.format("distill") + " of its own"
    floating = Distill(weight_bits="float")
    assert order_problem(Quantize(), [floating]) is None
    assert order_problem(Distill(), [floating]) is None


class TestLeftAlone:
    def test_the_input_model(self) -> None:
        model = small_model()
        before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        flags = [p.requires_grad for p in model.module.parameters()]
        distilled(model, student={"width": 0.5}, float_epochs=1)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
        assert flags == [p.requires_grad for p in model.module.parameters()]
        assert not model.module.training

    def test_a_network_in_float_without_epochs(self) -> None:
        model = small_model()
        result = distilled(model, weight_bits="float", training={"epochs": 0})
        assert not result.modified
        assert result.model is model
        assert "nothing to do" in result.notes[0]

    def test_a_network_without_layers_to_quantize(self) -> None:
        model = model_of(nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Softmax(-1)), 1, 2, 2)
        result = distilled(model, context_of(samples(8, 1, 2, 2)))
        assert not result.modified
        assert result.notes == ("no convolution, linear layer or matmul to quantize",)

    def test_layers_that_are_named(self) -> None:
        result = distilled(weight_bits=4, keep_float=["3"])
        rows = {row["layer"]: row for row in result.plan.details["coverage"]}
        assert (rows["3"]["quantized"], rows["3"]["reason"]) == (False, "kept in float by the recipe")
        assert "3.weight" not in weight_quantizers_of(result.model.module)

    def test_a_layer_that_is_not_there(self) -> None:
        with pytest.raises(CompressError, match=r"distill\.keep_float: no layer is named 'nothing'"):
            distilled(keep_float=["nothing"])


class TestWeights:
    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_no_channel_has_more_values_than_its_bits_allow(self, bits: int) -> None:
        result = distilled(weight_bits=bits, first_last_bits=bits)
        quantizers = weight_quantizers_of(result.model.module)
        assert list(quantizers) == ["0.weight", "3.weight", "5.weight", "9.weight"]
        for name, quantizer in quantizers.items():
            weight = result.model.module.get_parameter(name)
            rounded = quantizer(weight).detach().movedim(quantizer.axis, 0)
            assert max(len(channel.unique()) for channel in rounded) <= 2**bits, name

    def test_first_and_last_layer_keep_eight_bits(self) -> None:
        result = distilled(weight_bits=3)
        bits = {name: getattr(q, "bits", 8) for name, q in weight_quantizers_of(result.model.module).items()}
        assert bits == {"0.weight": 8, "3.weight": 3, "5.weight": 3, "9.weight": 8}

    def test_bits_go_where_gradients_are_large_and_their_mean_is_held(self) -> None:
        result = distilled(weight_bits=4, redistribute_bits=True)
        weights = {name: spec["bits"] for name, spec in result.plan.structure["quantized"]["weights"].items()}
        counts = {"3.weight": 72, "5.weight": 96}
        assert weights.keys() == counts.keys()
        assert sum(counts[n] * b for n, b in weights.items()) <= 4 * sum(counts.values())

    def test_what_is_stored_is_counted(self) -> None:
        result = distilled(weight_bits=4)
        by_channel = (9 * 8 + 4 * 8) + (12 * 3 + 4 * 3)  # the outer layers: INT8 and a scale a channel
        inner = (72 * 4 + 64 * 8) // 8 + (96 * 4 + 64 * 12) // 8
        biases = 4 * (8 + 8 + 12 + 3)
        assert result.model.stored_bytes == by_channel + inner + biases

    def test_learned_points_are_kept_in_the_plan_and_differ_from_where_they_started(self) -> None:
        still = distilled(weight_bits=2, points="learned", points_epochs=0, training={"epochs": 0})
        learned = distilled(weight_bits=2, points="learned", points_epochs=2, training={"epochs": 0})
        for name in ("points/3.weight", "points/5.weight"):
            assert still.plan.tensors[name].shape == (4,)
            assert not torch.equal(still.plan.tensors[name], learned.plan.tensors[name])
        for name in ("3.weight", "5.weight"):  # the weights stay
            assert torch.equal(still.plan.tensors[name], learned.plan.tensors[name])


class TestDeployed:
    @pytest.mark.parametrize(
        "options",
        [
            {"weight_bits": 8},
            {"weight_bits": 4},
            {"weight_bits": 4, "points": "learned", "points_epochs": 1},
            {"weight_bits": 4, "bucket": 16},
            {"weight_bits": 3, "bucket": 50, "points": "learned", "points_epochs": 1},
            {"weight_bits": 4, "activations": "float"},
        ],
        ids=["int8", "4 bits", "learned", "consecutive", "consecutive, learned", "float activations"],
    )
    def test_the_file_computes_what_was_trained(self, tmp_path: Path, options: dict[str, Any]) -> None:
        model = distilled(**options).model
        path = export(model, tmp_path / "student.onnx")
        x = torch.stack([row[0][0] for row in PART.samples])
        expected = model.run(x)[0]
        found = torch.from_numpy(np.asarray(load(path, TargetOptions()).run({"input": x.numpy()})[0]))
        # A value at the edge of two steps may fall to either side; the logits' own spread is about 1.
        assert (expected - found).abs().median() < 1e-4
        assert (expected - found).abs().max() < 0.05

    def test_few_bits_are_int8_integers_that_every_runtime_multiplies(self, tmp_path: Path) -> None:
        graph = onnx.load(export(distilled(weight_bits=2).model, tmp_path / "student.onnx")).graph
        integers = [
            numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8
        ]
        weights = [w for w in integers if w.ndim > 1]
        assert len(weights) == 4
        assert sum(max(len(np.unique(channel)) for channel in w) <= 4 for w in weights) >= 2

    def test_consecutive_buckets_are_indices_and_a_gather(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        wide = model_of(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 3)), 1, 8, 8
        )
        result = distilled(wide, weight_bits=4, first_last_bits=4, bucket=16)
        graph = onnx.load(export(result.model, tmp_path / "student.onnx")).graph
        assert [node.op_type for node in graph.node].count("Gather") == 1
        levels = [
            numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.UINT8
        ]
        assert [(w.shape, w.max()) for w in levels if w.ndim == 2] == [((1200, 16), 15)]
        reasons = {row["reason"] for row in result.plan.details["coverage"]}
        assert reasons == {
            "a scale for so many consecutive weights has no INT8 kernel; its weight is stored in few bits"
        }

    def test_a_stored_plan_rebuilds_the_same_model_in_another_process(self, tmp_path: Path) -> None:
        options = {
            **FAST,
            "weight_bits": 3,
            "points": "learned",
            "student": {"width": 0.5},
            "float_epochs": 1,
        }
        result = distilled(**options)
        (tmp_path / "plan.json").write_text(json.dumps([options, result.plan.structure]))
        save_file(result.plan.tensors, tmp_path / "plan.safetensors")
        assert ended(started(rebuild, tmp_path)) == 0
        outputs = load_file(tmp_path / "outputs.safetensors")["outputs"]
        assert torch.equal(outputs, result.model.run(torch.stack([r[0][0] for r in PART.samples]))[0])

    def test_a_captured_student_is_the_trained_graph(self) -> None:
        model = distilled(weight_bits=4).model
        assert torch.equal(capture(model)(*model.example_inputs), model.run(*model.example_inputs)[0])


def rebuild(folder: Path) -> None:
    """Write the outputs of the model that the folder's plan makes."""
    options, structure = json.loads((folder / "plan.json").read_text())
    plan = PassPlan(structure, load_file(folder / "plan.safetensors"))
    model = Distill.model_validate(options).rebuild(small_model(), plan, context_of(PART))
    outputs = model.run(torch.stack([row[0][0] for row in PART.samples]))[0]
    save_file({"outputs": outputs}, folder / "outputs.safetensors")


class Distance:
    name = "distance"

    def measure(self, forward: Any, part: Any, batch_size: int = 32, progress: Any = None) -> Any:
        x = torch.stack([row[0][0] for row in part.samples])
        value = -float(forward(x)[0].pow(2).mean())
        record = MetricRecord(name="distance", value=value, n=len(part), ci95=(value, value), part=part.name)
        return Measurement(record, np.zeros(len(part)))


class TestStudents:
    def test_a_float_student_stays_a_network_that_other_passes_can_take(self) -> None:
        result = distilled(weight_bits="float", student={"width": 0.5}, float_epochs=1)
        assert isinstance(result.model.module, nn.Sequential)
        assert result.model.facts().params < small_model().facts().params
        assert Quantize(ranges="minmax", equalization="off").apply(result.model, context_of(PART)).modified

    def test_the_network_itself_in_float_is_trained_as_a_copy(self) -> None:
        model = small_model()
        before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        result = distilled(model, weight_bits="float", training={"keep": "last"})
        assert result.model.module is not model.module
        assert all(torch.equal(before[name], t) for name, t in model.module.state_dict().items())
        assert not torch.equal(
            result.model.run(*model.example_inputs)[0], model.run(*model.example_inputs)[0]
        )

    def test_a_student_with_other_outputs_is_refused(self) -> None:
        other = model_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), 1, 8, 8)
        context = replace(context_of(PART), load_network=lambda source: other)
        with pytest.raises(
            CompressError, match=r"distill\.student nets:other: gives outputs of shapes \[\(24, 5\)\]"
        ):
            distilled(None, context, student={"source": "nets:other"})
        with pytest.raises(CompressError, match=r"distill\.teachers: nets:other: gives outputs"):
            distilled(None, context, teachers=[{"source": "nets:other"}])

    @pytest.mark.parametrize(
        ("form", "is_a"), [(Form.INT8, "already quantized"), (Form.GRAPH, "one graph of operators")], ids=str
    )
    def test_a_student_that_cannot_be_trained_is_refused_before_it_is(self, form: Form, is_a: str) -> None:
        read = replace(small_model(), form=form)
        context = replace(context_of(PART), load_network=lambda source: read)
        with pytest.raises(CompressError) as caught:
            distilled(None, context, student={"source": "small.onnx"}, float_epochs=0)
        assert str(caught.value) == (
            f"distill.student: small.onnx is {is_a}, and a student is trained as a float network that PyTorch runs: "
            "name its factory"
        )

    def test_images_are_not_moved_without_their_maps_of_labels(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
        part = replace(PART, samples=[(x, (x[0][0] > 0).long()) for x, _ in PART.samples])
        context = replace(context_of(part), metric=Distance())
        with pytest.raises(CompressError, match=r"augment flip_vertical moves images and not their labels"):
            distilled(model_of(network, 1, 8, 8), context, training={"augment": ["flip_vertical"]})
        assert distilled(model_of(network, 1, 8, 8), context, training={"keep": "last"}).modified

    def test_a_range_that_learns_stays_a_range(self) -> None:
        result = distilled(training={"epochs": 6, "lr": 0.5, "keep": "last", "clip_norm": 1.0})
        scales = [grid["scale"] for grid in result.plan.structure["quantized"]["grids"].values()]
        assert scales and min(scales) > 0

    def test_what_was_trained_is_what_is_rebuilt_also_where_weights_shrank(self) -> None:
        training = {"weight_decay": 5.0, "lr": 5e-2, "keep": "last", "epochs": 3}
        result = distilled(weight_bits=2, points="learned", points_epochs=1, training=training)
        [*_, note] = [n for n in result.notes if n.startswith("trained, points")]
        measured = TopK(1).measure(result.model.run, PART).record.value
        assert f"{measured:.4f} after" in note

    def test_a_student_of_its_own(self) -> None:
        def other() -> Model:
            torch.manual_seed(3)
            return model_of(
                nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), 1, 8, 8
            )

        asked: list[NetworkSource] = []
        context = replace(context_of(PART), load_network=lambda source: asked.append(source) or other())
        result = distilled(None, context, student={"source": "nets:other"}, weight_bits=8)
        assert {row["layer"] for row in result.plan.details["coverage"]} == {"0", "3"}
        assert {source.source for source in asked} == {"nets:other"}
        assert result.model.original is not None

    def test_labels_are_not_looked_at_when_the_teacher_has_the_whole_loss(self) -> None:
        wrong = replace(PART, samples=[(x, 2 - y) for x, y in PART.samples])
        one = distilled(None, context_of(PART), teacher_weight=1.0, training={"keep": "last"})
        other = distilled(None, context_of(wrong), teacher_weight=1.0, training={"keep": "last"})
        assert one.plan.tensors and one.plan.tensors.keys() == other.plan.tensors.keys()
        assert all(torch.equal(one.plan.tensors[n], other.plan.tensors[n]) for n in one.plan.tensors)

    def test_further_teachers_and_features_are_heard(self) -> None:
        context = replace(context_of(PART), load_network=lambda source: small_model())
        teachers = [{"source": "nets:other", "weight": 2.0}]
        result = distilled(
            None,
            context,
            teachers=teachers,
            teacher_dropping=0.5,
            features={"5": "5"},
            training={"keep": "last"},
        )
        [history] = result.plan.details["training"].values()
        assert {"labels", "teacher", "features"} <= history["epochs"][1].keys()
        assert "features matched: 5 to 5" in result.notes

    def test_outputs_that_are_no_logits_are_matched_by_their_squared_error(self) -> None:
        part = replace(PART, samples=[(x, torch.tensor([0.5, 1.0, 2.0])) for x, _ in PART.samples])
        context = replace(context_of(part), metric=Distance())
        result = distilled(None, context, weight_bits=4, training={"keep": "last"})
        assert result.modified

    def test_a_static_batch_must_be_the_training_batch(self) -> None:
        model = replace(small_model(), dynamic_batch=False)
        fixed = replace(model, example_inputs=(torch.cat([model.example_inputs[0]] * 4),))
        with pytest.raises(CompressError, match=r"training\.batch is 8, and the network takes exactly 4"):
            distilled(fixed)
        assert distilled(fixed, training={"batch": 4}).modified


class TestDigits:
    """The digits CNN, taught with 160 samples: what a user has who kept no more of the training data."""

    def student(self, **options: Any) -> float:
        """Test accuracy of a student with 4-bit weights in every layer, or as `options` say."""
        training = {"epochs": 8, "lr": 1e-3, "batch": 16, "keep": "last"}
        given = {
            "weight_bits": 4,
            "first_last_bits": 4,
            **options,
            "training": {**training, **options.get("training", {})},
        }
        return accuracy(distilled(digits_model(), digits_context(), **given).model)

    def test_four_bits_are_within_a_point_of_float_and_better_than_without_the_teacher(self) -> None:
        taught, alone = self.student(teacher_weight=1.0), self.student(teacher_weight=0.0)
        assert taught >= accuracy(digits_model()) - 0.01
        assert taught > alone

    def test_learned_points_beat_equally_spaced_ones_of_the_same_weights(self) -> None:
        untrained = {"weight_bits": 2, "first_last_bits": 8, "training": {"epochs": 0}}
        assert self.student(**untrained, points="learned", points_epochs=1) > self.student(**untrained)


@cache
def digits_context() -> PassContext:
    data = load_data("edgepress.examples.digits.data:digits", {}, None, ImagePreprocessing(), 128, 0)
    return replace(context_of(PART), data=replace(data, train=data.train.head(160)))


def digits_model() -> Model:
    network = cnn()
    network.load_state_dict(load_file(Path(digits_examples.__file__).parent / "cnn.safetensors"))
    return Model(network.eval(), digits_context().data.calibration.example())


def accuracy(model: Model) -> float:
    return TopK(1).measure(model.run, digits_context().data.judge, 64).record.value

"""The `quantize` pass from end to end on small nets."""

from __future__ import annotations

import json
from pathlib import Path

import pydantic
import pytest
import torch
from edgepress.calibration.data import Part
from edgepress.calibration.sqnr import sqnr_db
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.base import PassPlan, PassResult
from edgepress.passes.order import order_problem
from edgepress.passes.quantization.quantizers import ActivationQuantizer, quantizers_of
from edgepress.passes.quantize import Quantize
from forked import ended, started
from quantization_nets import ASYMMETRIC, context_of, labelled_by, model_of, residual_model, samples
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PART = samples(40, 3, 8, 8)
INPUTS = torch.stack([x[0] for x, _ in PART.samples])


@pytest.fixture(scope="module")
def result() -> PassResult:
    return Quantize().apply(residual_model(), context_of(PART))


def test_the_outputs_stay_close_and_all_layers_are_quantized(result: PassResult) -> None:
    model = residual_model()
    assert result.modified
    assert result.notes[0] == "4 of 4 layers, 100.0 % of MACs placed in INT8; activations int8 symmetric"
    # 8 bits give some 40 dB; below 20 dB something is wrong
    assert sqnr_db(model.run(INPUTS)[0], result.model.run(INPUTS)[0]) > 30.0
    assert [row["layer"] for row in result.plan.details["coverage"]] == ["stem.0", "one", "two", "head"]
    assert {row["layer"] for row in result.plan.details["sensitivity"]} == {"stem.0", "one", "two", "head"}


def test_the_compressed_model_remembers_its_float_original_and_counts_its_bytes(result: PassResult) -> None:
    # weights 8*3*9 + 2*8*8*9 + 3*8 as int8; a scale for each of 8 + 8 + 8 + 3 channels, and as many biases
    assert result.model.facts().bytes == 216 + 1152 + 24 + 4 * 27 + 4 * 27
    assert result.model.float_original.module is not result.model.module


@pytest.mark.parametrize(
    "options", [{}, {"equalization": "on"}, {"max_drop": 0.0}, {"keep_float": ("head",)}]
)
def test_the_input_model_is_not_touched(options: dict[str, object]) -> None:
    model = residual_model()
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    Quantize(**options).apply(model, context_of(PART))  # type: ignore[arg-type]
    after = model.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not quantizers_of(model.module)


def test_options_are_frozen_and_checked() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Quantize().ranges = "minmax"  # type: ignore[misc]
    for wrong in ({"ranges": "best"}, {"max_drop": -1}, {"max_drop": 101}, {"bits": 4}):
        with pytest.raises(pydantic.ValidationError):
            Quantize(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("ranges", ["auto", "minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("scheme", [{}, {"scheme": ASYMMETRIC}])
def test_every_range_method_on_every_grid(ranges: str, scheme: dict[str, object]) -> None:
    model = residual_model()
    chosen = Quantize(ranges=ranges, sensitivity_samples=0)  # type: ignore[arg-type]
    result = chosen.apply(model, context_of(PART, **scheme))
    assert sqnr_db(model.run(INPUTS)[0], result.model.run(INPUTS)[0]) > 15.0
    grids = [
        q.grid for q in quantizers_of(result.model.module).values() if isinstance(q, ActivationQuantizer)
    ]
    assert {grid.unsigned for grid in grids} == {bool(scheme)}
    assert all(grid.zero_point == 0 for grid in grids) is not bool(scheme)  # the input is negative, too
    assert "sensitivity" not in result.plan.details


def rebuild(folder: Path) -> None:
    """Write the outputs of the model that the folder's plan makes."""
    plan = PassPlan(json.loads((folder / "plan.json").read_text()), load_file(folder / "plan.safetensors"))
    part = samples(40, 3, 8, 8)
    rebuilt = Quantize().rebuild(residual_model(), plan, context_of(part))
    outputs = rebuilt.run(torch.stack([x[0] for x, _ in part.samples]))[0]
    save_file({"outputs": outputs}, folder / "outputs.safetensors")


def test_a_stored_plan_rebuilds_the_same_model_in_another_process(tmp_path: Path) -> None:
    result = Quantize(keep_float=("one",), equalization="on").apply(residual_model(), context_of(PART))
    (tmp_path / "plan.json").write_text(json.dumps(result.plan.structure))
    save_file(result.plan.tensors, tmp_path / "plan.safetensors")
    assert ended(started(rebuild, tmp_path)) == 0
    outputs = load_file(tmp_path / "outputs.safetensors")["outputs"]
    assert torch.equal(outputs, result.model.run(INPUTS)[0])


def test_a_rebuilt_model_shares_no_memory_with_its_plan() -> None:
    model = residual_model()
    plan = Quantize().plan(model, context_of(PART))
    stored = {name: tensor.clone() for name, tensor in plan.tensors.items()}
    rebuilt = Quantize().rebuild(model, plan, context_of(PART))
    for parameter in rebuilt.module.parameters():
        parameter.data.zero_()
    assert stored and all(torch.equal(stored[name], tensor) for name, tensor in plan.tensors.items())


def test_what_equalization_puts_in_is_rebuilt_with_the_plan() -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 3))
    nn.init.constant_(net[0].bias, -2.0)  # GELU gives little above 0: half of a symmetric grid is wasted
    model, part = model_of(net, 8), samples(40, 8)
    before, after = (
        Quantize(equalization=choice, ranges="mse", keep_float=("0",)).apply(model, context_of(part))  # type: ignore[arg-type]
        for choice in ("off", "on")
    )
    assert len(after.plan.structure["rescaled"]) == 1
    (inputs,) = columns(part)
    wanted = model.run(inputs)[0]
    gain = sqnr_db(wanted, after.model.run(inputs)[0]) - sqnr_db(wanted, before.model.run(inputs)[0])
    assert gain > 1.0  # the second weight is rounded in both


@pytest.mark.parametrize("count", [1, 2, 8])
def test_few_samples_do_not_make_equalization_spoil_the_network(count: int) -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 3))
    model, unseen = model_of(net, 16), torch.randn(256, 16)
    wanted = model.run(unseen)[0]
    without, auto = (
        Quantize(equalization=choice, sensitivity_samples=0).apply(model, context_of(samples(count, 16)))  # type: ignore[arg-type]
        for choice in ("off", "auto")
    )
    lost = sqnr_db(wanted, without.model.run(unseen)[0]) - sqnr_db(wanted, auto.model.run(unseen)[0])
    assert lost < 3.0


def test_one_sample_leaves_equalization_out_and_says_so() -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 3))
    result = Quantize(equalization="auto", sensitivity_samples=0).apply(
        model_of(net, 16), context_of(samples(1, 16))
    )
    assert "equalization left out: it takes samples to fit it and others to judge it by" in result.notes


# keep_float


def test_layers_are_kept_in_float_by_name_or_pattern() -> None:
    result = Quantize(keep_float=("stem.*", "head")).apply(residual_model(), context_of(PART))
    kept = [row["layer"] for row in result.plan.details["coverage"] if not row["quantized"]]
    assert kept == ["stem.0", "head"]
    assert list(result.plan.structure["keep_float"]) == ["head", "stem.0"]
    assert result.notes[0].startswith("2 of 4 layers, ")


def test_a_name_that_no_layer_has_is_an_error_with_the_names_there_are() -> None:
    with pytest.raises(CompressError) as caught:
        Quantize(keep_float=("heed",)).apply(residual_model(), context_of(PART))
    assert str(caught.value) == (
        "quantize.keep_float: no layer is named 'heed'. Layers: stem.0, one, two, head"
    )


# max_drop


class Fragile(nn.Module):
    """`fine` has one large weight a channel, for a feature that is never there: INT8 loses the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fine, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        with torch.no_grad():
            for layer in (self.first, self.fine):
                layer.weight.copy_(torch.eye(4))
                layer.bias.zero_()
            self.fine.weight[:3, 3] = 300.0  # feature 3 is 0 in all samples, and sets the scale of the others

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fine(self.first(x)))


def fragile() -> tuple[Model, Part]:
    torch.manual_seed(0)
    model = model_of(Fragile(), 4)
    rows = [((x[0] * torch.tensor([1.0, 1.0, 1.0, 0.0]),), y) for x, y in samples(60, 4).samples]
    return model, Part("calibration", rows)


def test_max_drop_gives_back_the_layer_that_costs_and_names_it_with_its_price() -> None:
    model, part = fragile()
    options = {"equalization": "off", "max_drop": 5.0}
    context = context_of(
        part,
        labelled_by(model.module, part),
        layer_ms=lambda m: {"fine": 0.5 if "fine" in float_layers(m) else 0.2, "last": 0.1},
    )
    result = Quantize(**options).apply(model, context)  # type: ignore[arg-type]
    (row,) = result.plan.details["kept_float"]
    assert row["layer"] == "fine"
    assert row["drop_if_quantized"] > 0.05
    assert row["ms"] == pytest.approx(0.3)
    points = 100 * row["drop_if_quantized"]
    assert result.notes[-1] == (
        f"max_drop: fine kept in float (quantized, the drop would be {points:.2f} points; costs 0.300 ms)"
    )
    assert result.plan.structure["keep_float"] == {"fine": "given back to float to meet max_drop"}
    assert [c["layer"] for c in result.plan.details["coverage"] if not c["quantized"]] == ["fine"]
    assert (
        result.model.run(*columns(part))[0].argmax(1) == model.run(*columns(part))[0].argmax(1)
    ).float().mean() > 0.95


def float_layers(model: Model) -> set[str]:
    read = {
        str(node.args[0].target)
        for node in model.module.graph.nodes
        if node.op == "call_module" and "weight_quantizer" in str(node.target)
    }
    return {"first", "fine", "last"} - {name.removesuffix(".weight") for name in read}


def columns(part: Part) -> tuple[Tensor, ...]:
    inputs, _ = next(iter(part.batches(len(part))))
    return inputs


def test_max_drop_without_a_timer_says_that_the_cost_was_not_measured() -> None:
    model, part = fragile()
    context = context_of(part, labelled_by(model.module, part))
    result = Quantize(equalization="off", max_drop=5.0, sensitivity_samples=0).apply(model, context)
    assert result.notes[-1].endswith("its cost in ms was not measured)")


def test_max_drop_that_is_met_gives_nothing_back() -> None:
    model = residual_model()
    result = Quantize(max_drop=50.0).apply(model, context_of(PART, labelled_by(model.module, PART)))
    assert result.notes[-1] == "max_drop: met with every layer in INT8 (n = 40)"
    assert result.plan.details["kept_float"] == []


# Nothing to do, and what is refused


def test_a_network_without_layers_is_given_back_with_the_reason() -> None:
    model = model_of(nn.Sequential(nn.LayerNorm(4), nn.GELU()), 4)
    result = Quantize().apply(model, context_of(samples(4, 4)))
    assert result.model is model
    assert not result.modified
    assert result.notes == ("no convolution, linear layer or matmul to quantize",)


def test_a_network_whose_layers_all_stay_float_says_why() -> None:
    model = model_of(nn.Sequential(nn.Linear(4, 2)), 4)
    result = Quantize(keep_float=("*",)).apply(model, context_of(samples(4, 4)))
    assert not result.modified
    assert result.notes == ("no layer can be quantized: 0: kept in float by the recipe",)


def test_attention_without_a_weight_is_quantized() -> None:
    class Similarity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(1, 2)

    result = Quantize().apply(model_of(Similarity(), 5, 8), context_of(samples(8, 5, 8)))
    assert result.modified
    assert result.notes[0].startswith("1 of 1 layers, 100.0 %")


def test_a_second_quantization_is_refused() -> None:
    assert order_problem(Quantize(), [Quantize()]) == (
        "the network is already quantized here, by the quantize above: list it once"
    )
    assert order_problem(Quantize(), []) is None


def test_data_that_gives_nan_is_refused_with_the_tensor() -> None:
    part = samples(8, 3, 8, 8)
    part.samples[5][0][0][0, 0, 0] = float("nan")
    with pytest.raises(
        CompressError, match=r"tensor 'x' holds NaN or infinite values on the calibration data"
    ):
        Quantize(equalization="off").apply(residual_model(), context_of(part))


# Batches


class FixedBatch(nn.Module):
    """Takes exactly four samples."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)).reshape(4, 8))


def fixed_batch() -> Model:
    return Model(FixedBatch().eval(), (torch.randn(4, 6),), dynamic_batch=False)


def test_a_network_with_a_fixed_batch_is_calibrated_in_whole_batches() -> None:
    model = fixed_batch()
    part = samples(10, 6)  # two batches, and two samples that do not fill one
    result = Quantize(max_drop=100.0, equalization="on").apply(model, context_of(part))
    x = torch.randn(4, 6)
    assert sqnr_db(model.run(x)[0], result.model.run(x)[0]) > 20.0


def test_too_few_samples_for_one_batch_are_refused() -> None:
    with pytest.raises(CompressError) as caught:
        Quantize().apply(fixed_batch(), context_of(samples(3, 6)))
    assert str(caught.value).startswith(
        "quantize: the calibration part has 3 samples, and the network takes 4 at once; "
    )


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.relu(self.a(x) + self.b(y))
        return self.head(z), z


def test_two_inputs_and_two_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [
        ((torch.randn(4, generator=generator), torch.randn(6, generator=generator)), torch.tensor(i % 3))
        for i in range(20)
    ]
    model = Model(TwoInputs().eval(), (torch.randn(1, 4), torch.randn(1, 6)), ("x", "y"), ("logits", "z"))
    result = Quantize(max_drop=100.0).apply(model, context_of(Part("calibration", rows)))
    inputs = torch.randn(5, 4), torch.randn(5, 6)
    for want, got in zip(model.run(*inputs), result.model.run(*inputs), strict=True):
        assert sqnr_db(want, got) > 20.0


def test_a_plan_is_data() -> None:
    plan = Quantize(max_drop=50.0).plan(residual_model(), context_of(PART))
    assert isinstance(plan, PassPlan)
    assert json.loads(json.dumps(plan.structure)) == plan.structure
    json.dumps(plan.details)
    assert plan.tensors
    assert all(isinstance(tensor, Tensor) and tensor.is_contiguous() for tensor in plan.tensors.values())

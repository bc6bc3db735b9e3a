"""Optional steps are judged by the outputs of the quantized network, on samples that they were not fitted to."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from edgepress.calibration.data import DataParts, Part
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.observe import judged_nodes
from edgepress.passes.quantization.judging import Noise, roles
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.proof.closing import prove_closing
from quantization_nets import Net, context_of, model_of, samples
from torch import nn


class Outlier(nn.Module):
    """Tokens through two layers; the first token is a hundred times the others, and the norm makes it one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.ones(x.shape[1], 1)
        scale[0] = 100.0
        return self.norm(self.two(torch.relu(self.one(x)) * scale))


def test_the_closing_note_is_what_the_returned_network_does() -> None:
    model, part = model_of(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), 8), samples(40, 8)
    validation = samples(20, 8, seed=5)
    result = Quantize(sensitivity_samples=0).apply(
        model, context_of(part, replace(validation, name="validation"))
    )
    (x,), _ = next(validation.batches(20))
    want, got = model.run(x)[0].double(), result.model.run(x)[0].double()
    db = float(10 * torch.log10(want.square().sum() / (want - got).square().sum()))
    closing = result.plan.details["closing"]
    assert closing["sqnr_db"] == pytest.approx(db, abs=0.02)
    assert result.notes[1] == (
        f"the outputs against the float network's: SQNR {closing['sqnr_db']:.1f} dB, cosine"
        f" {closing['cosine']:.4f} (20 samples of the validation part, to which no step was fitted)"
    )


def test_no_step_spoils_a_network_with_one_huge_token() -> None:
    torch.manual_seed(0)
    model = model_of(Outlier(), 12, 8)
    data = DataParts(
        samples(64, 12, 8, seed=1), samples(32, 12, 8, seed=2), samples(64, 12, 8, seed=3), None, "0"
    )
    context = replace(context_of(samples(1, 12, 8)), data=data)
    told = [
        Quantize(sensitivity_samples=0, bias_correction=correct).apply(model, context).plan.details["closing"]
        for correct in (True, False)
    ]
    assert told[0]["sqnr_db"] > told[1]["sqnr_db"] - 0.2  # the scatter between samples


def test_a_step_must_help_by_more_than_its_scatter() -> None:
    without = Noise((1.0, 1.0, 1.0, 1.0))
    assert Noise((0.9, 0.9, 0.9, 0.9)).clearly_below(without)
    assert not Noise((0.0, 1.3, 1.3, 1.3)).clearly_below(without)  # better in the mean, by one batch alone
    assert not Noise((float("inf"), 0.0, 0.0, 0.0)).clearly_below(without)


def test_no_sample_is_fitted_to_and_judged_by() -> None:
    train, calibration = samples(90, 4, seed=1), samples(50, 4, seed=2)
    found = roles(DataParts(train, calibration, calibration, None, "0"), 1, None)
    assert len(found.fitted) == 50
    values = [float(x[0]) for part in (found.trials, found.judges) for (x,), _ in part.samples]
    assert len(values) == len(set(values)) == 64
    alone = roles(DataParts(calibration, calibration, calibration, None, "0"), 1, None)
    assert (len(alone.fitted), len(alone.judges)) == (25, 25)


def test_a_train_sample_that_calibration_holds_too_does_not_judge() -> None:
    """Many take the calibration samples from the train part, as another view of it."""
    train = samples(120, 4, seed=1)
    calibration = Part("calibration", list(train.samples)[:60])
    found = roles(DataParts(train, calibration, calibration, None, "0"), 1, None)
    fitted = {float(x[0]) for (x,), _ in found.fitted.samples}
    judged = [float(x[0]) for part in (found.trials, found.judges) for (x,), _ in part.samples]
    assert len(judged) == 60 and not fitted & set(judged)


def test_ranges_are_the_extremes_unless_another_way_clearly_helps() -> None:
    model = model_of(Net(lambda n, x: n.w(x).tanh(), w=nn.Linear(12, 8)), 12)
    data = DataParts(samples(256, 12, seed=1), samples(64, 12, seed=2), samples(64, 12, seed=3), None, "0")
    result = Quantize(sensitivity_samples=0).apply(model, replace(context_of(samples(1, 12)), data=data))
    (note,) = [note for note in result.notes if note.startswith("ranges:")]
    assert re.fullmatch(
        r"ranges: minmax for all tensors: SQNR [\d.]+ dB with minmax(, [\d.]+ dB with \w+)+", note
    )


SCORES = {
    "argmax": lambda n, x: n.w(x).argmax(1),
    "a mask": lambda n, x: n.w(x).sigmoid() > 0.5,
    "top-k, values and indices": lambda n, x: tuple(n.w(x).topk(2)),
    "scores and labels": lambda n, x: (n.w(x), n.w(x).argmax(1)),
}


@pytest.mark.parametrize("head", SCORES)
def test_outputs_that_are_whole_numbers_are_judged_by_what_they_are_made_from(head: str) -> None:
    model: Model = model_of(Net(SCORES[head], w=nn.Linear(8, 5)), 8)
    model = replace(model, output_names=tuple("ab"[: len(model.run(*model.example_inputs))]))
    result = Quantize().apply(model, context_of(samples(24, 8)))
    assert result.plan.details["closing"]["sqnr_db"] > 20.0
    assert result.plan.details["sensitivity"]
    assert [y.dtype for y in result.model.run(*model.example_inputs)] == [
        y.dtype for y in model.run(*model.example_inputs)
    ]


def test_outputs_that_no_floating_point_tensor_leads_to_say_what_to_give() -> None:
    net = Net(lambda n, x: x.long() + 1, w=nn.Linear(2, 2))
    with pytest.raises(CompressError, match="no floating-point tensor leads to the network's outputs"):
        judged_nodes(capture(model_of(net, 2)))


@pytest.mark.parametrize(("noise", "ok"), [(0.01, True), (0.013, True), (0.3, False)])
def test_a_file_that_contradicts_the_note_fails(noise: float, ok: bool) -> None:
    want = torch.ones(8, 4)
    closing = {"sqnr_db": 40.0, "cosine": 1.0, "samples": 8, "part": "validation", "inner": False}
    proof = prove_closing("quantize", closing, [(want,)], [(want + noise,)])
    assert proof is not None
    assert proof.ok is ok
    assert proof.limit == "SQNR ≥ 37.0 dB: 3 dB below what quantize told of what it returned"


def test_a_note_is_compared_over_numbers_without_an_axis_and_beside_infinities() -> None:
    closing = {"sqnr_db": 20.0, "cosine": 1.0, "samples": 2, "part": "validation", "inner": False}
    numbers = [(torch.tensor(2.0),), (torch.tensor(4.0),)]
    proof = prove_closing("quantize", closing, numbers, numbers)
    assert proof is not None and proof.ok and proof.n == 2
    masked = torch.tensor([[3.0, -torch.inf], [4.0, -torch.inf]])
    moved = torch.tensor([[3.0, -torch.inf], [4.5, -torch.inf]])  # 25 over 0.25: 20 dB
    proof = prove_closing("quantize", closing, [(masked,)], [(moved,)])
    assert proof is not None and proof.ok and proof.sqnr_db == 20.0 and proof.max_error == 0.5
    proof = prove_closing("quantize", closing, [(masked,)], [(moved.nan_to_num(),)])
    assert proof is not None and not proof.ok
    assert proof.limit == "output 0 is another number where it should be infinite"

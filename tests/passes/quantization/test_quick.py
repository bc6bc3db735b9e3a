"""What is quantized to be timed has the structure of what `quantize` makes."""

from __future__ import annotations

import pytest
import torch
from edgepress.examples.digits.models import cnn, vit
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.quantization.quick import fine_products, quickly_quantized
from edgepress.passes.quantize import Quantize
from quantization_nets import ASYMMETRIC, context_of, operators, samples
from torch import nn

PLAIN = {
    "ranges": "minmax", "equalization": "off", "bias_correction": False, "softmax_sqnr_db": 0, "sensitivity_samples": 0,
}  # fmt: skip


@pytest.mark.parametrize(("network", "kept"), [(cnn, ()), (cnn, ("head", "blocks.1.*")), (vit, ())])
def test_quantizers_stand_where_quantize_puts_them(network: type[nn.Module], kept: tuple[str, ...]) -> None:
    model = Model(network(), (torch.randn(1, 1, 32, 32),))
    context = context_of(samples(4, 1, 32, 32), scheme=ASYMMETRIC)
    wanted = Quantize.model_validate({**PLAIN, "keep_float": kept}).apply(model, context).model
    found = quickly_quantized(model, ASYMMETRIC, (*kept, "a layer that a smaller network lacks"))
    assert found.form is Form.INT8 and found.float_original is model
    assert operators(found.module) == operators(wanted.module)  # type: ignore[arg-type]


def test_products_that_quantize_leaves_in_float_are_told_before() -> None:
    """Those whose softmax alone leaves the outputs less than 200 dB are all of them, and at 0 nobody asks."""
    model = Model(vit(), (torch.randn(1, 1, 32, 32),))
    found = fine_products(model, ASYMMETRIC, 200.0)
    assert found == tuple(f"blocks.{index}.attention.values" for index in range(4))
    assert fine_products(model, ASYMMETRIC, 0.0) == ()
    assert fine_products(Model(cnn(), (torch.randn(1, 1, 32, 32),)), ASYMMETRIC, 200.0) == ()
    without = Quantize.model_validate({**PLAIN, "keep_float": found})
    wanted = without.apply(model, context_of(samples(4, 1, 32, 32), scheme=ASYMMETRIC)).model
    assert operators(quickly_quantized(model, ASYMMETRIC, found).module) == operators(wanted.module)  # type: ignore[arg-type]

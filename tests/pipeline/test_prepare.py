"""A recipe opened: the same data, model and context for whoever asks, also in another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from edgepress.pipeline.prepare import Prepared
from edgepress.pipeline.recipe.file import read_recipe
from small_run import ONNXRUNTIME, write_recipe


def test_the_context_of_a_pass_goes_to_another_process(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path, targets=[ONNXRUNTIME]))
    prepared = Prepared(recipe, tmp_path)
    data, model = prepared.read()
    context = prepared.context(data)
    there = pickle.loads(pickle.dumps(context))
    (plan, again) = (recipe.passes[0].plan(model, each) for each in (context, there))
    assert plan.structure == again.structure
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in plan.tensors.items())
    assert there.layer_ms is not None and set(there.layer_ms(model)) >= {"stem.0", "head"}
    assert there.packed_bytes is not None and there.packed_bytes(model) > 1000


def test_data_and_scheme_are_those_of_the_recipe(tmp_path: Path) -> None:
    prepared = Prepared(read_recipe(write_recipe(tmp_path)), tmp_path)
    assert prepared.data().manifest == prepared.data().manifest
    assert prepared.scheme.asymmetric and prepared.scheme.centred_products  # OpenVINO and onnxruntime take it

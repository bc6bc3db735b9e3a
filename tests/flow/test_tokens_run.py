"""Whole runs of `tokens` and `quantize`, and engines of what they leave: outputs as the network has them, in INT8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from edgepress.calibration.sqnr import sqnr_db
from edgepress.model import Model
from edgepress.passes.merging.encoder import token_network
from edgepress.passes.merging.schedule import Schedule
from edgepress.passes.merging.settings import Settings, set_up
from edgepress.pipeline.export import export
from edgepress.pipeline.run import compress
from edgepress.targets import TARGETS
from edgepress.targets.base import TargetOptions
from small_run import ABSENT, write_recipe
from token_nets import SIDE, built


def test_tokens_then_quantize_leave_a_proven_file_and_the_schedule(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        model={"source": "token_nets:built", "args": {"name": "timm ViT"}},
        data={"source": "token_nets:data"},
        passes=[
            {"tokens": {"target": 0.6, "start": 0, "method": "uniform"}},
            {"quantize": {"sensitivity_samples": 0, "equalization": "off", "ranges": "minmax"}},
        ],
        targets=[ABSENT],
        budgets={},
    )
    record = compress(recipe, tmp_path / "run")
    float_step, tokens_step, quantized = record.steps
    assert float_step.macs is not None and tokens_step.macs is not None
    assert 0.57 * float_step.macs <= tokens_step.macs <= 0.6 * float_step.macs
    assert quantized.macs == tokens_step.macs
    assert record.proofs and all(proof.ok for proof in record.proofs)
    covered = quantized.details["coverage"]
    assert covered and all(row["quantized"] for row in covered)
    [kept] = [artefact.path for artefact in record.artefacts if artefact.kind == "token-schedule"]
    assert json.loads((tmp_path / "run" / kept).read_text()) == tokens_step.details["tokens"]["schedule"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Tokens: tokens" in page and "What is left of 4 images of the validation part" in page
    assert "patch tokens after each block" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("name", ["timm EVA: rotary positions", "timm ViT, mean of the patches"])
def test_engines_of_any_batch_compute_what_the_network_does(name: str, tmp_path: Path) -> None:
    inputs = (torch.randn(2, 3, SIDE, SIDE),)
    encoder, network = token_network(built(name), inputs)
    read = 1 if "EVA" in name else None
    pruned = [16, 14, 8] if read else [16, 16, 8]
    settings = Settings(encoder, Schedule.of(16, pruned, [16, 8, 6]), read or 0, read)
    model = Model(set_up(network, settings), inputs)
    path = export(model, tmp_path / "model.onnx")
    for target in ("onnxruntime", "openvino"):
        engine = TARGETS[target].build(path, TargetOptions(float_precision="f32"), tmp_path / target)
        for batch in (1, 3, 8):
            x = torch.randn(batch, 3, SIDE, SIDE)
            [found] = engine.run({"input": x.numpy()})
            assert sqnr_db(model.run(x)[0], torch.from_numpy(np.asarray(found))) > 60, (target, batch)

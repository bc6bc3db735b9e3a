"""Structure coverage of pruning: random choices taken out of many architectures, without their weights.

\b
    python benchmarks/pruning_architectures.py [--only ResNet-18] [--timeout 600]

For each: what can be taken out, and what is left whole and why; at three random ratios whether the smaller network
computes what the gated one does, and how many parameters it has; whether it exports and onnxruntime computes the same;
and how far torch-kirigami takes out the same. Exit code 1 when an architecture fails at any stage.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from kirigami_groups import second_opinion
from own_process import Stages, each
from pruning_coverage import line, markdown, show
from reporting import environment, write
from structures import ARCHITECTURES, ARGUMENTS, images, wake

PACKAGES = ("edgepress", "torch", "torchvision", "timm", "torch-pruning", "torch-kirigami", "onnxruntime")
MORE: dict[str, str] = {
    "MobileOne-S0": "timm:mobileone_s0",
    "MobileNetV4-S": "timm:mobilenetv4_conv_small",
    "HRNet-W18": "timm:hrnet_w18_small",
    "VGG-11": "torchvision:vgg11_bn",
    "Inception-V3": "timm:inception_v3",
    "Res2Net-50": "timm:res2net50_14w_8s",
    "DLA-34": "timm:dla34",
    "NFNet-L0": "timm:eca_nfnet_l0",
    "DINOv2-S": "timm:vit_small_patch14_dinov2",
    "EVA-02-Tiny": "timm:eva02_tiny_patch14_224",
    "BEiT-B": "timm:beit_base_patch16_224",
    "Swin-Tiny (timm)": "timm:swin_tiny_patch4_window7_224",
    "PVTv2-B0": "timm:pvt_v2_b0",
    "LeViT-128S": "timm:levit_128s",
    "MobileViTv2": "timm:mobilevitv2_050",
    "EfficientFormerV2-S0": "timm:efficientformerv2_s0",
    "FastViT-T8": "timm:fastvit_t8",
    "EdgeNeXt-XXS": "timm:edgenext_xx_small",
    "EfficientViT-B0": "timm:efficientvit_b0",
    "PoolFormer-S12": "timm:poolformer_s12",
    "CoaT-Lite": "timm:coat_lite_tiny",
    "CrossViT-Tiny": "timm:crossvit_tiny_240",
    "XCiT-Nano": "timm:xcit_nano_12_p16_224",
    "MaxViT-Nano": "timm:maxvit_rmlp_nano_rw_256",
    "TinyViT-5M": "timm:tiny_vit_5m_224",
    "ResMLP-12": "timm:resmlp_12_224",
}
ALL = ARCHITECTURES | MORE
SMALL = 64
SIZES = {
    "Inception-V3": 128,
    "DINOv2-S": 56,
    "EVA-02-Tiny": 56,
    "Swin-Tiny (timm)": 224,
    "LeViT-128S": 224,
    "EfficientFormer-L1": 224,
    "EfficientFormerV2-S0": 224,
    "CrossViT-Tiny": 240,
    "TinyViT-5M": 224,
}
"""Height and width in pixels where SMALL does not fit: a patch of 14, or a number of tokens that the network fixes."""
SIZED = {"ViT (torchvision)": "image_size"} | dict.fromkeys(
    (
        "ViT-Tiny", "DeiT-Tiny", "MLP-Mixer-S", "DINOv2-S", "EVA-02-Tiny", "BEiT-B", "CoaT-Lite", "MaxViT-Nano",
        "ResMLP-12",
    ),
    "img_size",
)  # fmt: skip
"""Whose factory must be told the size, and by which argument."""
KEPT = (0.75, 0.5, 0.25)
EXPORTED = 0.5
EXACT = 1e-5  # of the largest output: float32, and the order of sums differs
SAME = 1e-4  # of the largest output: a runtime fuses norms into convolutions and has kernels of its own
SEED = 0
SAMPLES = 8


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(ALL)), help="Only these.")
@click.option("--timeout", default=600, show_default=True, help="Seconds that one architecture may take.")
@click.option("--worker", type=click.Path(path_type=Path), hidden=True, help="Write one result here and end.")
def main(only: tuple[str, ...], timeout: int, worker: Path | None) -> None:
    """Run every architecture in a process of its own, one after the other."""
    if worker is not None:
        worker.write_text(json.dumps(cover(only[0])))
        return
    told = environment(PACKAGES)

    def keep(rows: list[dict[str, Any]]) -> tuple[Path, ...]:
        return write("pruning_coverage", {"environment": told, "architectures": rows}, markdown(rows, told))

    rows, paths = each(__file__, ALL, only or ALL, timeout, line, keep)
    show(rows)
    print("written:", *paths)
    sys.exit(any(row["failures"] for row in rows))


def cover(name: str) -> dict[str, Any]:
    """Everything about one architecture, as JSON values."""
    from edgepress.passes.channels.dissect import dissect

    stages = Stages()
    row: dict[str, Any] = {"failures": stages.failures}
    dissected = None
    with stages.stage("make"):
        model = _network(name)
        row |= {"params": model.facts().params, "input": list(model.example_inputs[0].shape[1:])}
        with stages.stage("dissect"):
            started = time.process_time()
            dissected = dissect(model, "the benchmark")
            row["dissect_cpu_seconds"] = round(time.process_time() - started, 1)
    if dissected is None:
        return row
    anatomy = dissected.anatomy
    row["units"] = Counter(str(unit.kind) for unit in anatomy.units)
    row["whole"] = [{"name": whole.name, "reason": whole.reason} for whole in anatomy.whole]
    if not anatomy.units:
        stages.failures.append("dissect: nothing can be taken out")
    row["removals"] = []
    for share in KEPT:
        with stages.stage(f"keep {share:g}"):
            row["removals"].append(_removal(stages, model, dissected, share))
    with stages.stage("second opinion"):
        row["kirigami"] = second_opinion(model.module, model.example_inputs, dissected)
    return row


def _network(name: str) -> Any:
    """The network with the statistics of a trained one, on small images where it can take them."""
    from edgepress.pipeline.ingest.model import ingest
    from edgepress.pipeline.recipe.sections import ModelSection

    side = SIZES.get(name, SMALL)
    args = ARGUMENTS.get(name, {}) | ({SIZED[name]: side} if name in SIZED else {})
    model = ingest(ModelSection(source=ALL[name], args=args, input_shape=(3, side, side)))
    wake(model.module, images(SAMPLES, (3, side, side), SEED + 1), SEED)
    model.module.train()  # some keep what they made of their weights in eval mode until they train
    model.module.eval()
    return model


def _removal(stages: Stages, model: Any, dissected: Any, share: float) -> dict[str, Any]:
    """A random removal: its error against the gated network, and the share of parameters that it leaves."""
    from dataclasses import replace

    import torch
    from edgepress.passes.channels.gated import Fixed, Gated
    from edgepress.passes.channels.removal import removed
    from edgepress.passes.channels.units import gates_of

    kept = _random(dissected.anatomy.units, share)
    gates = gates_of(kept, dissected.anatomy.units)
    smaller = removed(model.module, dissected.removal(kept))
    inputs = images(2, tuple(model.example_inputs[0].shape[1:]), SEED)
    with torch.no_grad():
        closed = Gated(model.module, dissected, {name: Fixed(gate) for name, gate in gates.items()})(inputs)
        left = smaller(inputs)
    error = _distance(closed, left)
    if not error <= EXACT:  # also true of NaN
        raise ArithmeticError(f"its outputs are {error:.1e} of the largest from those of the gated network")
    params = sum(p.numel() for p in smaller.parameters())
    found = {
        "kept": share,
        "error": error,
        "params": params / sum(p.numel() for p in model.module.parameters()),
    }
    if share == EXPORTED:
        with stages.stage("export"):
            found["export_error"] = _exported(replace(model, module=smaller), inputs, left)
    return found


def _random(units: Any, share: float) -> dict[str, tuple[int, ...]]:
    """That share of each unit's choices, at least one, and of the blocks."""
    import torch

    drawn = torch.Generator().manual_seed(SEED)
    kept: dict[str, tuple[int, ...]] = {}
    for unit in units:
        if unit.kind == "block":
            kept |= {} if float(torch.rand((), generator=drawn)) < share else {unit.name: ()}
        else:
            order = torch.randperm(unit.size, generator=drawn)[: max(1, round(share * unit.size))]
            kept[unit.name] = tuple(sorted(order.tolist()))
    return kept


def _exported(model: Any, inputs: Any, expected: Any) -> float:
    """How far onnxruntime's outputs are from torch's, over the largest of these."""
    import onnxruntime
    import torch
    from edgepress.pipeline.export import export

    with tempfile.TemporaryDirectory() as folder:
        path = export(model, Path(folder) / "smaller.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {model.input_names[0]: inputs.numpy()})
    error = _distance(expected, torch.from_numpy(outputs[0]))
    if not error <= SAME:
        raise ArithmeticError(f"onnxruntime's outputs are {error:.1e} of the largest from torch's")
    return error


def _distance(expected: Any, found: Any) -> float:
    return float((expected - found).abs().max() / expected.abs().max())


if __name__ == "__main__":
    main()

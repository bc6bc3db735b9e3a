"""Which of torch's own ONNX exports passes can change: well-known networks, both exporters, several opsets, read back.

    python benchmarks/onnx_coverage.py
    python benchmarks/onnx_coverage.py --only swin_t --exports dynamo-18

Each network (random weights, a small input, a dynamic batch) is exported, read as a recipe would read it, converted to
PyTorch, proven against onnxruntime on two batch sizes, and captured as the passes do. Exit code 1 when one is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from edgepress.errors import CompressError
from edgepress.passes.graph.capture import capture, quiet
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.onnx_files.network import why_no_pass
from edgepress.pipeline.recipe.sections import ModelSection
from reporting import environment, markdown_table, provenance, write
from torch import nn

EXPORTS = {
    "dynamo-18": (True, 18),
    "dynamo-20": (True, 20),
    "legacy-13": (False, 13),
    "legacy-17": (False, 17),
}
VISION = (
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "shufflenet_v2_x0_5",
    "squeezenet1_1", "densenet121", "swin_t", "regnet_y_400mf", "googlenet", "mnasnet0_5", "maxvit_t",
    "fcn_resnet50", "deeplabv3_mobilenet_v3_large",
)  # fmt: skip
TIMM = (
    "resnet10t", "mobilenetv3_small_050", "efficientnet_lite0", "vit_tiny_patch16_224", "deit_tiny_patch16_224",
    "mobilevit_xxs", "convnextv2_atto", "ghostnet_050", "poolformer_s12", "mixer_s32_224", "levit_128s",
    "edgenext_xx_small", "repvgg_a0", "hrnet_w18_small", "mobileone_s0", "fastvit_t8", "efficientformer_l1",
    "nfnet_f0", "xcit_nano_12_p16_224", "pvt_v2_b0", "res2net50_14w_8s", "hardcorenas_a", "tinynet_e",
)  # fmt: skip
SIZES = {"maxvit_t": 224, "swin_t": 64}
FIXED = ("_224", "levit", "efficientformer")
"""timm networks that take 224 pixels only."""


def networks() -> dict[str, tuple[Callable[[], nn.Module], int]]:
    """What makes each network, and the height and width it takes."""
    import timm
    import torchvision

    found: dict[str, tuple[Callable[[], nn.Module], int]] = {}
    for name in VISION:
        options = {"weights": None} | (
            {"weights_backbone": None} if "_resnet50" in name or "lab" in name else {}
        )
        options |= {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
        found[name] = (lambda n=name, o=options: torchvision.models.get_model(n, **o), SIZES.get(name, 64))
    found["vit_b_16"] = (
        lambda: torchvision.models.VisionTransformer(64, 16, 3, 4, 192, 384, num_classes=10), 64
    )  # fmt: skip
    for name in TIMM:
        size = 224 if any(part in name for part in FIXED) else 64
        found[f"timm {name}"] = (lambda n=name: timm.create_model(n, pretrained=False), size)
    return found


class FirstTensor(nn.Module):
    """A network that returns a dict of tensors, returning the first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.network(x)
        return next(iter(found.values())) if isinstance(found, dict) else found


def export(network: nn.Module, x: torch.Tensor, path: Path, dynamo: bool, opset: int) -> None:
    """Export as a user would call the exporter, with a dynamic batch."""
    shapes = (
        {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    )
    torch.onnx.export(
        network, (x,), str(path), dynamo=dynamo, opset_version=opset, input_names=["x"], verbose=False, **shapes,
        **({"external_data": False} if dynamo else {}),
    )  # fmt: skip


def tried(make: Callable[[], nn.Module], size: int, dynamo: bool, opset: int) -> str:
    """ "yes", or what went wrong."""
    torch.manual_seed(0)
    network = FirstTensor(make()).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        try:
            export(network, torch.randn(2, 3, size, size), path, dynamo, opset)
        except Exception as error:
            return f"not exported: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        try:
            model = ingest(ModelSection(source=str(path)))
            if reason := why_no_pass(model.module):
                return reason
            capture(model)
        except CompressError as error:
            return str(error)
    return "yes"


def _cell(found: str) -> str:
    return "–" if found.startswith("not exported") else "yes" if found == "yes" else "no"


def main() -> int:
    """Try all, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="names of networks, or parts of them")
    parser.add_argument("--exports", nargs="*", choices=list(EXPORTS), default=list(EXPORTS))
    options = parser.parse_args()
    told = environment(("torch", "torchvision", "timm", "onnx", "onnxruntime", "onnx2torch"))
    rows = []
    for name, (make, size) in networks().items():
        if options.only and not any(part in name for part in options.only):
            continue
        row = {"network": name}
        for label in options.exports:
            start = time.monotonic()
            row[label] = tried(make, size, *EXPORTS[label])
            print(f"{name} {label} ({time.monotonic() - start:.0f} s): {row[label]}", flush=True)
        rows.append(row)
    cells = [[row["network"], *(_cell(row[e]) for e in options.exports)] for row in rows]
    table = markdown_table(["network", *options.exports], cells)
    exported = [row[e] for row in rows for e in options.exports if not row[e].startswith("not exported")]
    good = exported.count("yes")
    summary = f"{good} of {len(exported)} files convert with the proof passing\n"
    print(table + summary)
    write(
        "onnx_coverage", {"environment": told, "rows": rows}, provenance(told) + "\n" + table + "\n" + summary
    )
    return 0 if good == len(exported) else 1


if __name__ == "__main__":
    sys.exit(main())

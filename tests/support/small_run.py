"""The small network, its data and its recipe that tests of whole runs use."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from safetensors.torch import save_file

NETWORK = '''
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.block(x)).mean((2, 3)))

def net():
    return Net()

def data():
    """Is the left half brighter than the right one?"""
    x = torch.randn(360, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    y = (x[..., :6].mean((1, 2, 3)) > x[..., 6:].mean((1, 2, 3))).long()
    cut = {"calibration": (0, 60), "validation": (60, 160), "test": (160, 360)}
    return {name: (x[a:b], y[a:b]) for name, (a, b) in cut.items()}
'''

OPENVINO, ONNXRUNTIME = "openvino:CPU", "onnxruntime"
ABSENT = "openvino:NPU.7"
"""A device that no machine has: a run does all but measure, and is inconclusive."""


def write_recipe(folder: Path, **sections: object) -> Path:
    """The recipe in a folder with its network and weights; `sections` take the place of those that it has.

    Both targets cost a run some ten processes: where one is enough, `targets=[ONNXRUNTIME]`, and where a test does not
    look at devices, `targets=[ABSENT]`.
    """
    import torch

    (folder / "small_network.py").write_text(NETWORK)
    sys.modules.pop("small_network", None)  # that of the test before, from another folder
    namespace: dict[str, object] = {}
    exec(NETWORK, namespace)
    torch.manual_seed(0)
    save_file(namespace["net"]().state_dict(), folder / "net.safetensors")  # type: ignore[operator]
    targets = sections.get("targets", [OPENVINO, ONNXRUNTIME])
    share = {"int8_share": {OPENVINO: 0.95}} if OPENVINO in targets else {}  # type: ignore[operator]
    document = {
        "name": "small",
        "model": {"source": "small_network:net", "weights": "net.safetensors"},
        "data": {"source": "small_network:data"},
        "passes": ["quantize"],
        "targets": targets,
        "measure": {"pairs": 2, "iterations": 11, "warmup_s": 0},
        "budgets": {"metric_drop": "5 points", **share},
        **sections,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path

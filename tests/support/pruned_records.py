"""What `gates` leaves in its details, hand-made: a network with stages of which channels, heads and a block went."""

from __future__ import annotations

from typing import Any

SERIES = [
    {
        "target": 0.8, "cost": 3.36, "share": 0.799, "params": 7_600_000, "macs": 1_580_000_000,
        "metric": 0.871, "metric_error": 0.0131, "kl": 0.0041, "agreement": 0.986,
    },
    {
        "target": 0.65, "cost": 2.73, "share": 0.651, "params": 5_930_000, "macs": 1_310_000_000,
        "metric": None, "metric_error": None, "kl": 0.0123, "agreement": 0.971,
    },
    {
        "target": 0.5, "cost": 2.1, "share": 0.499, "params": 4_250_000, "macs": 1_040_000_000,
        "metric": 0.861, "metric_error": None, "kl": 0.0312, "agreement": None,
    },
]  # fmt: skip
UNITS = [
    {"name": "layer1.0.conv1", "kind": "channels", "size": 64, "kept": 40, "saves": 0.12, "harm": 0.0042},
    {"name": "layer2.0.conv1", "kind": "channels", "size": 128, "kept": 128, "saves": 0.3, "harm": None},
    {"name": "layer2.1", "kind": "block", "size": 1, "kept": 0, "saves": 0.114, "harm": None},
    {"name": "layer3.attn", "kind": "heads", "size": 6, "kept": 4, "saves": None, "harm": -0.0007},
]
LAYERS = [
    {"name": "stem", "type": "Conv2d", "inputs": [3, 3], "outputs": [64, 48], "gone": False},
    {"name": "layer1.0.conv1", "type": "Conv2d", "inputs": [64, 48], "outputs": [64, 40], "gone": False},
    {"name": "layer1.0.conv2", "type": "Conv2d", "inputs": [64, 40], "outputs": [32, 32], "gone": False},
    {"name": "layer2.1.conv1", "type": "Conv2d", "inputs": [128, 128], "outputs": [128, 128], "gone": True},
    {"name": "layer2.1.conv2", "type": "Conv2d", "inputs": [128, 128], "outputs": [128, 128], "gone": True},
    {"name": "head", "type": "Linear", "inputs": [512, 320], "outputs": [10, 10], "gone": False},
]
WHOLE = [
    {"name": "head", "reason": "its outputs are the network's"},
    {"name": "aux.0", "reason": "named by keep"},
    {"name": "aux.1", "reason": "named by keep"},
]


def gates(**changes: Any) -> dict[str, Any]:
    """The details of a step, with changes of what lies under "gates"."""
    found = {
        "cost": "latency", "unit": "ms", "whole_cost": 4.2, "series": SERIES, "units": UNITS, "layers": LAYERS,
        "whole": WHOLE,
    }  # fmt: skip
    return {"gates": found | changes}

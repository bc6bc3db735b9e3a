"""An agent in a process of this machine, and the lease that a client asks of it."""

from __future__ import annotations

import sys

from edgepress.targets.base import TargetOptions

AGENT = [sys.executable, "-P", "-m", "edgepress.targets.remote.agent"]
ONE_THREAD = TargetOptions("CPU", threads=1)
LEASE = {
    "label": "lab",
    "runtime": "onnxruntime",
    "options": ONE_THREAD.__dict__,
    "workdir": "",
    "limits": None,
}

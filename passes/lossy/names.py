"""The names of transforms and kernels, as recipes write them; nothing heavy is imported for them."""

from __future__ import annotations

from typing import Literal

TransformName = Literal["edge-scale", "scale", "multi-scale", "log", "exp"]
KernelName = Literal["linear", "triangular", "raised-cosine"]

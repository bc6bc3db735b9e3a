"""How the tests share a machine: each worker computes with one thread, as there is a worker for each core."""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before PyTorch is imported, here and in every process that tests start

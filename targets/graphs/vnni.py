"""Which integers INT8 weights may take on this machine's CPU, so that sums of products do not saturate.

x86 CPUs without VNNI (AVX2, early AVX-512) add two products of uint8 and int8 in 16 bits: 2 · 255 · 127 saturates,
silently, in OpenVINO and onnxruntime alike. With weights of at most 64 no pair can (2 · 255 · 64 < 2^15): they keep
7 bits, as NNCF's overflow fix has them.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

FULL, WITHOUT_VNNI = 127, 64
CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


@cache
def weight_limit() -> int:
    """The largest magnitude of an INT8 weight here; the full 127 where the CPU's features cannot be read."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return FULL  # ARM's dot products add in 32 bits
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return FULL
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), _FLAGS)
    return FULL if flags & _FLAGS else WITHOUT_VNNI

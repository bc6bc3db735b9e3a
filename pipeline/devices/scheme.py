"""What a device takes of INT8: its runtime's grids, with weights that the CPUs it meets sum without saturating."""

from __future__ import annotations

from dataclasses import replace

from ...calibration.scheme import QuantScheme
from ...errors import CompressError
from ...targets import target_of
from ...targets.graphs.vnni import WITHOUT_VNNI
from .opened import opened
from .sections import DeviceSection


def scheme_of(name: str, section: DeviceSection) -> QuantScheme:
    """The grids that a device takes; one over SSH is asked what its CPU bears, and is taken to lack VNNI if silent.

    This machine's CPU has its say in any case: the exported file is proven here before an engine is built there.
    """
    target = target_of(section.runtime)
    here = target.scheme
    if section.ssh is None or not target.saturates or here.weight_limit <= WITHOUT_VNNI:
        return here
    told = _told(name, section)
    if told is None:
        because = f"{name} does not tell whether its CPU has VNNI"
        return replace(here, weight_limit=WITHOUT_VNNI, because=because)
    return replace(here, weight_limit=min(here.weight_limit, told))


def _told(name: str, section: DeviceSection) -> int | None:
    try:
        with opened({name: section}) as devices:
            return devices[name].facts().weight_limit
    except CompressError:  # it is not there, or busy, which is told where it is to be measured on
        return None

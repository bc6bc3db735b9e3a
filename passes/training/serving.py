"""What the processes beside the first one do: wait for its trainings, and take part in each."""

from __future__ import annotations

import sys
from typing import Any

from .loop import take_part
from .parallel import share


def serve() -> None:
    """Take part in each training that the first process starts, until it leaves, for whichever reason."""
    while (folder := _heard()) is not None:
        if folder not in sys.path:
            sys.path.insert(0, folder)
        take_part(share(None))


def _heard() -> Any:
    try:
        return share(None)
    except RuntimeError:  # the first process ended with an error, which it has told
        return None

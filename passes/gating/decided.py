"""What was decided, written down beside the training's checkpoints: decided anew it may be something else.

A solver looks as far as the time on its machine goes, and checkpoints of later stages hold networks of the widths that
were decided once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CompressError
from ...writing import writing
from ..channels.units import Kept
from .check import Effect


@dataclass(frozen=True)
class Decided:
    """What stays for one target; effects: of each unit that loses something, tried alone on held-out samples."""

    kept: Kept
    effects: dict[str, Effect] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        effects = {name: [effect.harm, effect.regain] for name, effect in self.effects.items()}
        return {"kept": self.kept, "effects": effects, "notes": self.notes}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Decided:
        """What `to_json` was made of."""
        kept = {name: tuple(choices) for name, choices in values["kept"].items()}
        effects = {name: Effect(*numbers) for name, numbers in values["effects"].items()}
        return Decided(kept, effects, tuple(values["notes"]))


def remembered(folder: Path | None, name: str, decide: Callable[[], Sequence[Decided]]) -> Sequence[Decided]:
    """What a run that was killed decided under this name, or what is decided now, which is written down.

    folder: None keeps nothing. Raises CompressError for a file that is not of that kind.
    """
    if folder is None:
        return decide()
    path = folder / f"{name}.json"
    if not path.is_file():
        _write(path, decide())
    try:
        return [Decided.from_json(values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CompressError(
            f"{path}: is not what was decided ({error}); delete it to decide again"
        ) from error


def _write(path: Path, decided: Sequence[Decided]) -> None:
    """Whole, or not at all."""
    unfinished = path.with_suffix(".unfinished")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump([each.to_json() for each in decided], file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

"""What schedules did to the outputs, each measured once, also by a run that was killed."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import CompressError
from ...writing import writing
from .greedy import Harm
from .schedule import Schedule


class KnownHarms:
    """Harm over schedules. path: of a file that holds what was measured, line by line; None keeps nothing.

    Raises CompressError for a file that is not of that kind.
    """

    def __init__(self, harm: Harm, path: Path | None) -> None:
        self._harm, self._path = harm, path
        self._measured = {} if path is None or not path.is_file() else _read(path)
        self._asked: dict[Schedule, float] = {}

    @property
    def tried(self) -> int:
        """How many schedules were asked for."""
        return len(self._asked)

    def __call__(self, schedule: Schedule) -> float:
        """Of one schedule."""
        if schedule not in self._asked:
            self._asked[schedule] = self._known(schedule.model_dump_json(), schedule)
        return self._asked[schedule]

    def _known(self, key: str, schedule: Schedule) -> float:
        if key not in self._measured:
            self._measured[key] = self._harm(schedule)
            if self._path is not None:
                with writing(self._path), self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, self._measured[key]]) + "\n")
        return self._measured[key]


def _read(path: Path) -> dict[str, float]:
    """What whole lines hold; the start of one that was not written to its end is taken away."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if whole != lines:
            path.write_text("".join(whole), encoding="utf-8")
        return {str(key): float(harm) for key, harm in map(json.loads, whole)}
    except (OSError, ValueError, TypeError) as error:
        raise CompressError(
            f"{path}: is not what schedules did ({error}); delete it to measure again"
        ) from error

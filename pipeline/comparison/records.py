"""The records that a comparison is made of: where they lie, what they are called, and a profile read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ...errors import CompressError
from ..profile.record import PROFILE_FILE, PROFILES_FILE, Profile
from ..record_file import NotARecordError, parsed, read_bytes, told

RUN_FILE = "run.json"


def load_profile(path: Path) -> Profile:
    """The record that `compress profile -o` left; CompressError when it cannot be read or is none."""
    try:
        return Profile.model_validate(parsed(read_bytes(path)))
    except NotARecordError as error:
        raise CompressError(f"{path}: damaged, {error}; profile the model again") from error
    except ValidationError as error:
        raise CompressError(
            f"{path}: not the record of a profile: {told(error)}; profile the model again"
        ) from error


def records_in(folder: Path) -> list[Path]:
    """The run and the profile in `folder`, or the profiles of several models below it; a file is taken as it is."""
    if not folder.exists():
        raise CompressError(f"{folder}: there is no such folder; name folders of runs or profiles")
    if not folder.is_dir():
        return [folder]
    found = [folder / name for name in (RUN_FILE, PROFILE_FILE) if (folder / name).is_file()]
    if (folder / PROFILES_FILE).is_file():
        found += sorted(folder.glob(f"*/{PROFILE_FILE}"))
    if not found:
        raise CompressError(
            f"{folder}: holds neither {RUN_FILE} nor {PROFILE_FILE}; name folders that `compress run` or "
            "`compress profile -o` wrote"
        )
    return found


def record_names(paths: Sequence[Path]) -> list[str]:
    """The folder of each record, with as many of its parents as it takes to be the only one of that name."""
    crowded = Counter(path.parent for path in paths)
    parts = [
        p.parent.parts if crowded[p.parent] == 1 else (*p.parent.parts[:-1], f"{p.parent.name} ({p.name})")
        for p in paths
    ]

    def tail(own: tuple[str, ...]) -> tuple[str, ...]:
        ends = (own[-depth:] for depth in range(1, len(own)))
        return next((end for end in ends if sum(p[-len(end) :] == end for p in parts) == 1), own)

    return ["/".join(tail(own)) for own in parts]

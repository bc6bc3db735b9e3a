"""A search of tokens that was killed goes on with what it had measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgepress.errors import CompressError
from edgepress.passes.merging.known_harms import KnownHarms
from edgepress.passes.merging.schedule import Schedule

EACH = [Schedule.of(16, [16, left], [16, left]) for left in (12, 8, 4)]


class Measured:
    """Harm that falls with what is left, which says what it was asked for; over when `last` is reached."""

    def __init__(self, last: Schedule | None = None) -> None:
        self.last, self.asked = last, list[Schedule]()

    def __call__(self, schedule: Schedule) -> float:
        if schedule == self.last:
            raise KeyboardInterrupt
        self.asked.append(schedule)
        return 1 / 3 / schedule.blocks[-1].merged


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "harms.jsonl"


def killed_at_the_last(path: Path) -> list[float]:
    harms = KnownHarms(Measured(EACH[-1]), path)
    found = [harms(each) for each in EACH[:2]]
    with pytest.raises(KeyboardInterrupt):
        harms(EACH[-1])
    return found


def test_each_schedule_is_measured_once(path: Path) -> None:
    for kept in (path, None):
        measure = Measured()
        harms = KnownHarms(measure, kept)
        assert [harms(each) for each in EACH] == [harms(each) for each in EACH]
        assert measure.asked == EACH and harms.tried == 3


def test_a_killed_search_measures_the_rest_and_finds_the_same_to_the_last_bit(path: Path) -> None:
    before, measure = killed_at_the_last(path), Measured()
    harms = KnownHarms(measure, path)
    assert [harms(each) for each in EACH[:2]] == before
    harms(EACH[-1])
    assert measure.asked == EACH[-1:] and harms.tried == 3
    assert KnownHarms(Measured(), path)(EACH[-1]) == 1 / 3 / 4


def test_a_line_that_was_not_written_to_its_end_is_measured_again(path: Path) -> None:
    killed_at_the_last(path)
    path.write_text(path.read_text()[:-3])
    measure = Measured()
    harms = KnownHarms(measure, path)
    for each in EACH:
        harms(each)
    assert measure.asked == EACH[1:]
    measure = Measured()
    again = KnownHarms(measure, path)
    assert [again(each) for each in EACH] == [harms(each) for each in EACH] and not measure.asked


@pytest.mark.parametrize("text", ["{}\n", "[1]\n", '["x", "y"]\n', "no\n"])
def test_what_is_no_such_file_is_named(text: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(CompressError, match=r"harms\.jsonl: is not what schedules did \(.*delete it"):
        KnownHarms(Measured(), path)

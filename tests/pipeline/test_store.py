"""The store of finished work: whole entries, many writers, and what killed ones leave."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from edgepress.pipeline.lock import held
from edgepress.pipeline.store import Entry, Store
from edgepress.progress import Silent

WRITER = """
import os
import sys
from pathlib import Path
import psutil
import torch
from edgepress.pipeline.store import Entry, Store
from edgepress.progress import Silent

store = Store(Path(sys.argv[1]), shared=True)
print("ready", flush=True)
for number in range(40):
    key = f"key-{number % 5}"
    with store.claimed(key, "work", Silent()) as scratch:
        holder = scratch / "holder"
        assert not holder.exists() or not psutil.pid_exists(int(holder.read_text() or 0)), "two at once"
        holder.write_text(str(os.getpid()))
        if store.get(key) is None or number % 3 == 0:
            store.put(key, Entry({"number": number % 5}, {"w": torch.full((5000,), float(number % 5))}))
        holder.unlink()
    found = store.get(key)
    assert found is not None, "lost"
    assert found.values["number"] == number % 5 and bool((found.tensors["w"] == number % 5).all()), "torn"
"""


def test_many_writers_of_which_some_are_killed_leave_whole_entries(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(random.Random(0).uniform(0.05, 0.3))
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()  # or its number would still be that of a process
    for process in processes[1:]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    processes[0].communicate()
    for number in range(5):
        found = Store(tmp_path).get(f"key-{number}")
        assert found is not None and found.values == {"number": number}


def test_work_that_another_process_holds_is_waited_for_and_then_found(tmp_path: Path) -> None:
    said: list[str] = []

    class Releasing(Silent):
        """The other run ends as soon as somebody waits for it."""

        def say(self, message: str) -> None:
            said.append(message)
            Store(tmp_path, shared=True).put("key", Entry({"a": 1}, {}))
            other.__exit__(None, None, None)

    (tmp_path / ".scratch-key").mkdir()
    other = held(tmp_path / ".scratch-key" / "lock")
    assert other.__enter__()
    store = Store(tmp_path, shared=True)
    with store.claimed("key", "quantize", Releasing()):
        found = store.get("key")
    assert said == ["quantize: another run is working on it; waiting for what it finds"]
    assert found is not None and found.values == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_what_a_killed_run_left_is_there_to_go_on_from_until_the_entry_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.claimed("key", "distill", Silent()) as scratch:
        (scratch / "epoch").write_text("3")
        raise KeyboardInterrupt
    with store.claimed("key", "distill", Silent()) as scratch:
        assert (scratch / "epoch").read_text() == "3"
        store.put("key", Entry({}, {"w": torch.ones(3)}))
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == [
        "manifest.json",
        "tensors.safetensors",
        "values.json",
    ]


def test_an_error_of_the_work_itself_comes_out_as_it_is(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="of the pass"),
        Store(tmp_path).claimed("key", "l2", Silent()),
    ):
        raise FileNotFoundError("of the pass")


@pytest.mark.parametrize("shared", [False, True])
def test_what_others_left_goes_from_an_own_store_and_stays_in_a_shared_one(
    shared: bool, tmp_path: Path
) -> None:
    for left in (".scratch-other", ".unfinished-other"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "data").write_text("x")
    store = Store(tmp_path, shared=shared)
    with store.claimed("key", "l2", Silent()):
        store.put("key", Entry({}, {}))
    assert all((tmp_path / left).exists() is shared for left in (".scratch-other", ".unfinished-other"))
    for left in tmp_path.glob(".*-other"):
        os.utime(left, (0, 0))  # as if it had been left long ago
    with store.claimed("key", "l2", Silent()):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_what_another_process_works_on_is_never_taken_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / ".scratch-other").mkdir()
    with held(tmp_path / ".scratch-other" / "lock") as mine, store.claimed("key", "l2", Silent()):
        assert mine
        store.put("key", Entry({}, {}))
    assert (tmp_path / ".scratch-other").is_dir()


def test_a_fresh_run_forgets_its_own_store_and_leaves_a_shared_one_to_others(tmp_path: Path) -> None:
    Store(tmp_path).put("key", Entry({"a": 1}, {}))
    fresh = Store(tmp_path, shared=True, fresh=True)
    assert fresh.get("key") is None and Store(tmp_path).get("key") is not None
    fresh.put("key", Entry({"a": 2}, {}))
    again = fresh.get("key")
    assert again is not None and again.values == {"a": 2}
    assert Store(tmp_path, fresh=True).get("key") is None and not tmp_path.exists()


def test_an_entry_that_is_replaced_again_and_again_is_always_there(tmp_path: Path) -> None:
    store, reader = Store(tmp_path, shared=True), Store(tmp_path, shared=True)
    store.put("key", Entry({"number": 0}, {"w": torch.zeros(1000)}))
    ended = threading.Event()

    def replacing() -> None:
        for number in range(60):
            store.put("key", Entry({"number": number}, {"w": torch.full((1000,), float(number))}))
        ended.set()

    writer = threading.Thread(target=replacing)
    writer.start()
    found = []
    while not ended.is_set():
        found.append(reader.get("key"))
    writer.join()
    whole = [entry for entry in found if entry is not None]
    assert whole and all(bool((entry.tensors["w"] == entry.values["number"]).all()) for entry in whole)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_an_equal_entry_stays_where_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("key", Entry({"a": 1}, {"w": torch.ones(3)}))
    before = (tmp_path / "key").stat().st_ino
    store.put("key", Entry({"a": 1}, {"w": torch.ones(3)}))
    assert (tmp_path / "key").stat().st_ino == before
    store.put("key", Entry({"a": 2}, {"w": torch.ones(3)}))
    assert (tmp_path / "key").stat().st_ino != before


def test_a_fresh_run_does_not_go_on_from_what_another_one_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Store(tmp_path).claimed("key", "l2", Silent()) as scratch:
        (scratch / "epoch").write_text("3")
        raise KeyboardInterrupt
    with Store(tmp_path, shared=True, fresh=True).claimed("key", "l2", Silent()) as scratch:
        assert [path.name for path in scratch.iterdir()] == ["lock"]


def test_a_damaged_entry_does_not_stay_because_its_manifest_is_right(tmp_path: Path) -> None:
    store, entry = Store(tmp_path), Entry({"a": 1}, {"w": torch.ones(3)})
    store.put("key", entry)
    tensors = tmp_path / "key" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x7f")
    assert store.get("key") is None
    store.put("key", entry)
    assert store.get("key") is not None

"""Calls in a process of their own: whatever happens there is one error here, and the caller lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edgepress.errors import CompressError, DeviceUnavailableError, UnsafeInputError
from edgepress.isolated import Child, ChildDiedError, Limits, Watch, run

MIB = 2**20


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def fill(size: int) -> None:
    held = bytearray(size)
    for place in range(0, size, 4096):  # pages are taken when they are written to
        held[place] = 1
    time.sleep(60)


def refuse(kind: type[Exception], text: str) -> None:
    raise kind(text)


def speak() -> str:
    os.write(1, b"a vendor's banner\n")
    return "answer"


def complain_and_die() -> None:
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


class OddError(CompressError):
    """Cannot be read again from its pickle: it takes two arguments and keeps one."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def refuse_oddly() -> None:
    raise OddError("a hole", "the bucket")


def test_a_call_is_answered_and_what_a_library_prints_stays_out_of_the_answer() -> None:
    assert run("adding", divmod, 17, 5) == (3, 2)
    assert run("speaking", speak) == "answer"


def test_a_child_keeps_what_it_loaded_between_calls() -> None:
    with Child() as child:
        first = child.call("asking", os.getpid)
        assert child.call("asking", os.getpid) == first != os.getpid()


@pytest.mark.parametrize("kind", [CompressError, DeviceUnavailableError, UnsafeInputError, ValueError])
def test_an_exception_is_raised_as_it_is(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^no such thing") as caught:
        run("trying", refuse, kind, "no such thing")
    assert type(caught.value) is kind


def test_an_exception_that_cannot_be_sent_keeps_its_words() -> None:
    with pytest.raises(CompressError, match=r"^a hole in the bucket$"):
        run("trying", refuse_oddly)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGKILL])
def test_a_signal_is_named(number: signal.Signals) -> None:
    with pytest.raises(ChildDiedError) as caught:
        run("building model.onnx", die, int(number))
    why = ", perhaps for want of memory" if number == signal.SIGKILL else ""
    assert str(caught.value) == (
        f"died by signal {int(number)} ({number.name}{why}) while building model.onnx"
    )


def test_last_words_are_quoted() -> None:
    with pytest.raises(
        ChildDiedError, match=r"signal 6 \(SIGABRT\) while dying \(its last words: .*bad_alloc"
    ):
        run("dying", complain_and_die)


def test_an_exit_is_no_answer() -> None:
    with pytest.raises(ChildDiedError, match=r"^ended with exit code 7 while leaving$"):
        run("leaving", os._exit, 7)


def test_a_hang_ends_at_the_limit() -> None:
    begin = time.monotonic()
    with pytest.raises(
        ChildDiedError, match=r"^no answer within 0.5 s \(COMPRESS_CHILD_SECONDS raises it\) while"
    ):
        run("waiting", time.sleep, 60, limits=Limits(seconds=0.5))
    assert time.monotonic() - begin < 30


def test_memory_without_end_ends_at_the_limit() -> None:
    with pytest.raises(
        ChildDiedError, match=r"^more than 0.21 GB of memory \(COMPRESS_CHILD_BYTES raises it\) while"
    ):
        run("filling", fill, 1024 * MIB, limits=Limits(bytes=200 * MIB))


def test_the_environment_replaces_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CHILD_SECONDS", "0.5")
    with pytest.raises(ChildDiedError, match=r"no answer within 0\.5 s"):
        run("waiting", time.sleep, 60)
    monkeypatch.setenv("COMPRESS_CHILD_SECONDS", "soon")
    with pytest.raises(CompressError, match=r"^COMPRESS_CHILD_SECONDS='soon': expected a number above 0"):
        run("waiting", time.sleep, 60)


def test_time_between_calls_does_not_count() -> None:
    with Child(Limits(seconds=2)) as child:
        assert child.call("adding", max, 1, 2) == 2
        time.sleep(2.2)
        assert child.call("adding", max, 3, 4) == 4


def test_after_its_death_a_child_says_so_again() -> None:
    with Child() as child:
        for _ in range(2):
            with pytest.raises(ChildDiedError, match=r"died by signal 11 \(SIGSEGV\)"):
                child.call("dying", die, 11)


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no process that hangs on in a call."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\nfrom edgepress.isolated import Child\nchild = Child()\n"
        "print(child.call('asking', os.getpid), flush=True)\nchild.call('waiting', time.sleep, 600)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the child outlived its parent")


def fork_and_die() -> None:
    if os.fork() == 0:
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGFPE)


def test_what_a_library_started_ends_with_its_process() -> None:
    """It holds the pipes of the child that died, whose end would else not be seen before its own."""
    begin = time.monotonic()
    with pytest.raises(ChildDiedError, match=r"died by signal 8 \(SIGFPE\)"):
        run("building", fork_and_die, limits=Limits(seconds=120))
    assert time.monotonic() - begin < 60


def complain() -> None:
    sys.stderr.write("words of the first call\n")
    sys.stderr.flush()


def test_last_words_are_those_of_the_call() -> None:
    with Child() as child:
        child.call("complaining", complain)
        with pytest.raises(ChildDiedError) as caught:
            child.call("dying", die, 11)
    assert str(caught.value) == "died by signal 11 (SIGSEGV) while dying"


def test_a_limit_names_what_raises_it() -> None:
    limits = Limits(seconds=0.5, raised_by=("measure.timeout_s", "measure.memory"))
    with pytest.raises(ChildDiedError, match=r"no answer within 0.5 s \(measure.timeout_s raises it\)"):
        run("waiting", time.sleep, 60, limits=limits)


def test_time_in_which_nothing_is_asked_does_not_count() -> None:
    """Half a second is the limit; the process lives on beyond it while it waits, and then takes what is left."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        watch = Watch(process)
        watch.begin(Limits(seconds=0.5).in_force())
        watch.pause()
        time.sleep(1.0)
        assert process.poll() is None and not watch.exceeded
        watch.resume()
        process.wait(60)
        assert watch.exceeded.startswith("no answer within 0.5 s")
        watch.close()

"""Full disks and places that cannot be written: one message with the path, exit code 2, and nothing torn."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import run_records
import torch
from click.testing import CliRunner, Result
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.pipeline.files import write_atomically
from edgepress.pipeline.packing.l2z_file import pack_file
from edgepress.pipeline.store import Entry, Store
from edgepress.targets import TARGETS
from edgepress.targets.base import TargetOptions
from edgepress.writing import NotWrittenError, writing
from onnx import TensorProto, helper, numpy_helper

SUFFIX = {"openvino": ".xml", "onnxruntime": ".onnx", "tensorrt": ".engine"}
NO_SPACE = "No space left on device; free some, or name a folder on another disk"


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does, in this process alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def compress(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy")
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 64), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", [x], [y], [weight])
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    record = json.loads(run_records.run().model_dump_json())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record["artefacts"] = [
        {"path": path.name, "kind": "onnx", "bytes": path.stat().st_size, "sha256": digest}
    ]
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def command(name: str, run_folder: Path) -> list[str | Path]:
    out = run_folder.parent
    return {
        "report": ["report", run_folder],
        "comparison": ["report", run_folder, "-o", out / "new" / "c.html"],
        "pack": ["pack", run_folder / "model.onnx", "-o", out / "new.l2z"],
        "history": ["history", "add", run_folder, "--file", out / "h.jsonl"],
        "accept": ["gate", "--accept", "--candidate", run_folder, "-d", "fake", "--golden", out / "golden"],
    }[name]


@pytest.mark.parametrize(
    ("name", "place", "room"),
    [
        ("report", "run/report.html", 1000),
        ("report", "run/report.html", 8000),
        ("comparison", "new/c.html", 1000),
        ("pack", "new.l2z", 1000),
        ("history", "h.jsonl", 100),
    ],
)
def test_a_full_disk(name: str, place: str, room: int, run_folder: Path) -> None:
    before = sorted(run_folder.iterdir())
    if name == "pack":  # its loops are compiled, and kept on disk, at their first call
        pack_file(run_folder / "model.onnx")
    with room_for(room):
        done = compress(*command(name, run_folder))
    assert done.exit_code == 2, done.output
    assert done.output.splitlines()[-1] == f"error: {run_folder.parent / place}: {NO_SPACE}"
    assert sorted(run_folder.iterdir()) == before
    left = run_folder.parent / place
    assert not left.exists() or left.stat().st_size == 0
    assert not list(run_folder.parent.rglob(".unfinished-*"))
    assert compress(*command(name, run_folder)).exit_code == 0


@pytest.mark.parametrize("name", ["comparison", "pack", "history", "accept"])
def test_a_file_where_a_folder_should_be(name: str, run_folder: Path) -> None:
    """As read-only places answer, which the superuser does not see."""
    arguments = [str(a) for a in command(name, run_folder)]
    (run_folder.parent / "file").write_text("")
    target = Path(arguments[-1])
    arguments[-1] = str(run_folder.parent / "file" / target.name)
    done = compress(*arguments)
    assert done.exit_code == 2, done.output
    assert f"{run_folder.parent}/file" in done.output.splitlines()[-1]
    assert "internal error" not in done.output


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser writes everywhere")
@pytest.mark.parametrize("name", ["report", "comparison", "pack", "history", "accept"])
def test_a_folder_that_is_read_only(name: str, run_folder: Path) -> None:
    arguments = command(name, run_folder)
    (run_folder.parent / "golden").mkdir()
    for folder in (run_folder, run_folder.parent / "golden", run_folder.parent):
        folder.chmod(0o555)
    try:
        done = compress(*arguments)
    finally:
        run_folder.parent.chmod(0o755)
        run_folder.chmod(0o755)
    assert done.exit_code == 2
    assert "Permission denied" in done.output
    assert "name a folder that may be written to" in done.output


def test_an_entry_of_the_store_is_whole_or_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "steps")
    entry = Entry({"a": 1}, {"w": torch.zeros(1000)})
    with room_for(2000), pytest.raises(CompressError) as full:
        store.put("key", entry)
    assert str(full.value) == f"{tmp_path / 'steps'}: {NO_SPACE}"
    assert list((tmp_path / "steps").iterdir()) == []
    assert store.get("key") is None
    store.put("key", entry)
    found = store.get("key")
    assert found is not None and found.values == {"a": 1}


@pytest.mark.parametrize("damage", ["[]", "{}", '{"../../x": "a"}', "{", "[" * 100_000])
def test_an_entry_that_is_damaged_is_no_entry(damage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("key", Entry({}, {}))
    (tmp_path / "key" / "manifest.json").write_text(damage)
    assert store.get("key") is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), NO_SPACE),
        (PermissionError(13, "Permission denied"), "Permission denied; name a folder that may be written to"),
        (
            FileNotFoundError(2, "No such file or directory"),
            "its folder was taken away while it was written to",
        ),
    ],
)
def test_what_libraries_say_of_it(error: Exception, words: str, tmp_path: Path) -> None:
    with pytest.raises(CompressError) as told, writing(tmp_path / "x"):
        raise error
    assert str(told.value).startswith(f"{tmp_path / 'x'}: ")
    assert str(told.value).endswith(words)


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a shape"), writing(tmp_path / "x"):
        raise RuntimeError("a shape")


def test_an_old_file_survives(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"old")
    with room_for(1000), pytest.raises(CompressError, match="No space left"):
        write_atomically(path, b"new" * 1000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "tensorrt"])
def test_an_engine_is_whole_or_not_there(target: str, run_folder: Path, tmp_path: Path) -> None:
    """And a disk that is full is no refusal by the runtime, after which a run would go on to the next device."""
    runtime = TARGETS[target]
    if reason := runtime.can_build():
        pytest.skip(reason)
    folder = tmp_path / "engine"
    with room_for(2000), pytest.raises(NotWrittenError, match=re.escape(f"{SUFFIX[target]}: {NO_SPACE}")):
        runtime.build(run_folder / "model.onnx", TargetOptions(), folder)
    assert list(folder.iterdir()) == []
    runtime.build(run_folder / "model.onnx", TargetOptions(), folder)
    assert list(folder.iterdir())

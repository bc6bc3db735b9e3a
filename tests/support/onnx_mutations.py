"""Seeded mutants of ONNX files by the fields of their messages; see `mutations` for how they are read."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mutations
from mutations import MARK, NUMBERS, Kind, bytes_changed, read_here

_TEXTS = (
    "", "x", "y", "w0", "a0", "Conv", "Relu", "MatMul", "Reshape", "Loop", "If", "Tile", "ConstantOfShape", "Resize",
    "Expand", "ai.onnx", "com.microsoft", "value", "axis", "kernel_shape", "../w.bin", "/etc/passwd", "\x00", "\x1b[2J",
    "a" * 5000, "__class__", f'__class__") and getattr(__import__("os"),"system")("touch {MARK}") or getattr(self, "x',
    f"__import__('os').system('touch {MARK}')", "batch", "9**9**9", "é",
)  # fmt: skip


def network() -> bytes:
    """A convolution, a pool, a reshape by a constant, a residual, a matmul and a softmax, with a function beside."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    stored = {
        "w0": draw.standard_normal((4, 1, 3, 3)).astype(np.float32),
        "b0": np.zeros(4, np.float32),
        "size": np.array([0, -1], np.int64),
        "w1": draw.standard_normal((4, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a0"], "conv", pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("Relu", ["a0"], ["a1"], "relu"),
        helper.make_node("Add", ["a0", "a1"], ["a2"], "add"),
        helper.make_node("GlobalAveragePool", ["a2"], ["a3"], "pool"),
        helper.make_node("Reshape", ["a3", "size"], ["a4"], "reshape"),
        helper.make_node("MatMul", ["a4", "w1"], ["a5"], "matmul"),
        helper.make_node("Half", ["a5"], ["a6"], "call", domain="own"),
        helper.make_node("Softmax", ["a6"], ["y"], "softmax", axis=1),
    ]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    body = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(0.5, np.float32))),
        helper.make_node("Mul", ["i", "c"], ["o"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    functions = [helper.make_function("own", "Half", ["i"], ["o"], body, opsets)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)
    return bytes(model.SerializeToString())


def changed(content: bytes, rng: random.Random) -> bytes:
    """One to three fields of the graph's messages changed, or bytes of the file."""
    import onnx

    if rng.randrange(12) == 0:
        return bytes_changed(content, rng)
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.randrange(1, 4)):
        places = [(m, f) for m in _messages(model) for f in m.DESCRIPTOR.fields]
        message, field = rng.choice([p for p in places if _is_set(*p)] if rng.random() < 0.8 else places)
        try:
            _change(message, field, rng)
        except (ValueError, TypeError, OverflowError):  # the field cannot hold it
            continue
    return bytes(model.SerializeToString())


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def _is_set(message: Any, field: Any) -> bool:
    return bool(len(getattr(message, field.name)) if field.is_repeated else message.HasField(field.name))


def _change(message: Any, field: Any, rng: random.Random) -> None:
    value = getattr(message, field.name)
    if not field.is_repeated:
        if field.type == field.TYPE_MESSAGE:
            message.ClearField(field.name) if rng.random() < 0.5 else value.SetInParent()
        else:
            setattr(message, field.name, _odd(field, rng))
        return
    place = rng.randrange(len(value)) if len(value) else 0
    kind = rng.randrange(4) if len(value) else 4
    if kind == 0:
        del value[place]
    elif kind == 1:
        value.append(value[place])
    elif kind == 2 and len(value) > 1:
        items = [type(v).FromString(v.SerializeToString()) if hasattr(v, "DESCRIPTOR") else v for v in value]
        rng.shuffle(items)
        del value[:]
        value.extend(items)
    elif field.type == field.TYPE_MESSAGE:
        value.add() if kind == 4 else _change(value[place], rng.choice(value[place].DESCRIPTOR.fields), rng)
    elif len(value):
        value[place] = _odd(field, rng)
    else:
        value.append(_odd(field, rng))


def _odd(field: Any, rng: random.Random) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice(_TEXTS)
    if field.type == field.TYPE_BYTES:
        return (
            rng.choice(_TEXTS).encode()
            if rng.random() < 0.5
            else rng.randbytes(rng.choice((0, 1, 4, 16, 144)))
        )
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    return rng.choice((*NUMBERS, *range(24)))


def read(path: Path) -> None:
    """All that a stranger's file is read by: each may refuse it."""
    from edgepress.errors import CompressError
    from edgepress.pipeline.inspect.run import inspect_model
    from edgepress.pipeline.lint import lint_file
    from edgepress.pipeline.packing.l2z_file import pack_file

    try:
        inspect_model(path.name, folder=path.parent)
    except CompressError as error:
        first: CompressError | None = error
    else:
        first = None
    for reader in (pack_file, lambda p: lint_file(p, ["onnxruntime", "tensorrt"])):
        try:
            reader(path)
        except CompressError as error:
            first = first or error
    if first is not None:
        raise first


KINDS = {"onnx": Kind(".onnx", network, changed, read)}


def warmed_up() -> None:
    """Read the original, so that the process which reads mutants has imported all that it needs."""
    from edgepress.errors import CompressError

    path = Path("original.onnx")
    path.write_bytes(network())
    for _ in range(3):  # on a busy machine the imports alone may reach the limit
        with suppress(CompressError):
            return read(path)


if __name__ == "__main__":
    mutations.SECONDS_EACH = 150.0  # a process that died at the limit below imports PyTorch anew
    os.environ.setdefault("COMPRESS_CHILD_SECONDS", "60")
    os.environ.setdefault("COMPRESS_CHILD_BYTES", "4e9")
    warmed_up()
    read_here(KINDS, sys.stdin.read().split(), Path.cwd())

"""Broken and hostile checkpoints, archives and ONNX files: exit code and message of each; nothing is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from edgepress.errors import CompressError
from edgepress.pipeline.files import sha256_file
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.inspect.run import inspect_model
from edgepress.pipeline.recipe.sections import ModelSection
from edits import replaced
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save, save_file
from torch import nn

USAGE, UNSAFE = 2, 6
MARK = "attack_ran"  # a file that every attack would leave behind in the working folder
Make = Callable[[Path], None]


class Attack:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


def linear() -> nn.Linear:
    """The factory of these tests: weight (3, 2), bias (3,)."""
    return nn.Linear(2, 3)


def state(**changes: Any) -> dict[str, Any]:
    return {"weight": torch.ones(3, 2), "bias": torch.zeros(3), **changes}


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def torch_file(value: Any, **options: Any) -> Make:
    return lambda path: torch.save(value, path, **options)


def tensors(**changes: Any) -> Make:
    return lambda path: save_file({k: v for k, v in state(**changes).items() if v is not None}, path)


def header(text: bytes, length: int | None = None) -> Make:
    return raw(struct.pack("<Q", len(text) if length is None else length) + text)


def cut(make: Make, share: float) -> Make:
    def write(path: Path) -> None:
        make(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Make:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return write


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(linear()), path)


def opcodes(body: bytes) -> Make:
    """A zip of torch.save whose pickle has this body."""
    return zip_of({"a/data.pkl": b"\x80\x02" + body + b".", "a/version": b"3\n", "a/data/0": b"\0" * 8})


def tensor_of(count: int, storage: bytes = b"FloatStorage", rebuild: bytes = b"_rebuild_tensor_v2") -> bytes:
    """The opcodes of {'weight': a tensor} whose storage claims `count` elements."""
    text = b"".join(b"X" + struct.pack("<I", len(t)) + t for t in (b"storage",))
    name = b"X" + struct.pack("<I", 1) + b"0"
    where = b"X" + struct.pack("<I", 3) + b"cpu"
    saved = b"(" + text + b"ctorch\n" + storage + b"\n" + name + where + number(count) + b"tQ"
    sizes = number(2) + b"\x85" + number(1) + b"\x85"
    arguments = b"(" + saved + number(0) + sizes + b"\x89ccollections\nOrderedDict\n)Rt"
    return b"}X" + struct.pack("<I", 6) + b"weight" + b"ctorch._utils\n" + rebuild + b"\n" + arguments + b"Rs"


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def twice(path: Path) -> None:
    """Two members whose names differ in case: torch would find either."""
    zip_of({"a/data.pkl": b"\x80\x02}.", "a/DATA.PKL": pickled(), "a/version": b"3\n"})(path)


def flagged(path: Path, at: int, value: int, central: int) -> None:
    """The first member's flags or method set to `value`, in both of its headers."""
    torch.save(state(), path)
    content = bytearray(path.read_bytes())
    content[at : at + 2] = struct.pack("<H", value)
    directory = content.index(b"PK\x01\x02")
    content[directory + central : directory + central + 2] = struct.pack("<H", value)
    path.write_bytes(content)


def on_two_disks(path: Path) -> None:
    torch.save(state(), path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x06\x07") + 4] = 1  # the disk of the directory, in the locator before the end
    path.write_bytes(content)


def shape(dtype: str, sizes: str, length: int = 0) -> Make:
    text = f'{{"weight":{{"dtype":"{dtype}","shape":{sizes},"data_offsets":[0,{length}]}}}}'.encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * length) and None


def plain_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("weights.bin"), io.BytesIO())


HIDING = (  # a state dict whose methods are hidden behind attributes of their names
    b"ccollections\nOrderedDict\n)R" + tensor_of(2)[1:] + b"}X\x05\x00\x00\x00itemsK\x03sb"
)
SHARED = (
    b"}" + b")" + b"".join(b"q\x00h\x00\x86" for _ in range(40)) + b"K\x01s"
)  # 2^40 elements in 160 opcodes
OVERLAP = (
    b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
)
DEEP = b"}K\x00" + b"\x85" * 200_000 + b"K\x01s"  # a key that ends the process when it is hashed


def followed(make: Make, more: bytes) -> Make:
    return lambda path: make(path) or (path.write_bytes(path.read_bytes() + more) and None)


def locator_moved(path: Path) -> None:
    """The record for large archives is said to be where another could be."""
    torch.save(state(), path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x06\x07") + 8
    content[place : place + 8] = struct.pack("<Q", 0)
    path.write_bytes(content)


NOT_TORCH = "it may be cut short or have another format"
WEIGHTS = [
    ("empty.safetensors", raw(b""), USAGE, "empty.safetensors is empty (0 bytes)"),
    ("cut.safetensors", cut(tensors(), 0.7), USAGE, "is not a readable .safetensors file"),
    ("huge.safetensors", header(b"{}", 2**60), USAGE, "is not a readable .safetensors file"),
    ("long.safetensors", header(b"{}", 5000), USAGE, "is not a readable .safetensors file"),
    ("json.safetensors", header(b"{'a': 1}"), USAGE, "is not a readable .safetensors file"),
    ("overlap.safetensors", header(OVERLAP), USAGE, "is not a readable .safetensors file"),
    ("html.safetensors", raw(b"<html>404</html>"), USAGE, "is not a readable .safetensors file"),
    (
        "dtype.safetensors",
        tensors(weight=torch.ones(3, 2, dtype=torch.int64)),
        USAGE,
        "is int64, the network needs float32",
    ),
    ("missing.safetensors", tensors(bias=None), USAGE, "does not fit the network: missing [bias]"),
    ("extra.safetensors", tensors(scale=torch.ones(1)), USAGE, "unexpected [scale]"),
    (
        "renamed.safetensors",
        tensors(bias=None, bais=torch.zeros(3)),
        USAGE,
        "missing [bias]; unexpected [bais]; did you mean 'bias'?",
    ),
    (
        "shape.safetensors",
        tensors(weight=torch.ones(2, 3)),
        USAGE,
        "wrong shape [weight: [2, 3], the network has [3, 2]]",
    ),
    ("nan.safetensors", tensors(bias=torch.tensor([0.0, float("nan"), 0])), USAGE, "tensor 'bias' holds NaN"),
    (
        "inf.safetensors",
        tensors(weight=torch.full((3, 2), float("inf"))),
        USAGE,
        "tensor 'weight' holds infinite values",
    ),
    ("absent.safetensors", lambda path: None, USAGE, "absent.safetensors does not exist"),
    ("folder.safetensors", lambda path: path.mkdir(), USAGE, "is a folder, not a file"),
    ("weights.h5", raw(b"\x89HDF"), USAGE, "expected a .safetensors, .l2z, .pt or .pth file"),
    ("empty.pt", raw(b""), USAGE, "empty.pt is empty (0 bytes)"),
    ("text.pt", raw(b"hello, these are weights\n"), USAGE, NOT_TORCH),
    ("html.pt", raw(b"<!doctype html><html>404</html>"), USAGE, NOT_TORCH),
    ("noise.pt", raw(bytes(range(256)) * 4), USAGE, NOT_TORCH),
    ("cut.pt", cut(torch_file(state()), 0.6), USAGE, NOT_TORCH),
    ("cutold.pt", cut(torch_file(state(), _use_new_zipfile_serialization=False), 0.6), USAGE, "cutold.pt"),
    ("zip.pt", zip_of({"a/readme": b"no checkpoint"}), USAGE, NOT_TORCH),
    ("safetensors.pt", raw(save(state())), USAGE, NOT_TORCH),
    ("scripted.pt", scripted, USAGE, "is a TorchScript archive, not a set of tensors"),
    ("number.pt", torch_file(3), USAGE, "holds a int, not a state dict"),
    ("list.pt", torch_file([torch.ones(2)]), USAGE, "holds a list, not a state dict"),
    ("nothing.pt", torch_file({}), USAGE, "holds no state dict"),
    ("entry.pt", torch_file(state(epoch=3)), USAGE, "the entry 'epoch' is a int"),
    (
        "code.pt",
        torch_file(state(bias=Attack())),
        UNSAFE,
        f"is a pickle that calls {os.system.__module__}.system",
    ),
    (
        "codeold.pt",
        torch_file(Attack(), _use_new_zipfile_serialization=False),
        UNSAFE,
        f"is a pickle that calls {os.system.__module__}.system",
    ),
    ("code4.pt", raw(pickle.dumps(Attack(), protocol=4)), UNSAFE, f"calls {os.system.__module__}.system"),
    (
        "code0.pth",
        raw(b"cposix\nsystem\n(S'touch attack_ran'\ntR."),
        UNSAFE,
        "is a pickle that calls posix.system",
    ),
    ("module.pt", torch_file(linear()), UNSAFE, "is a pickle that calls torch.nn.modules.linear.Linear"),
    (
        "sparse.pt",
        torch_file(state(bias=torch.ones(3).to_sparse())),
        USAGE,
        "tensor 'bias' is sparse; store it",
    ),
    (
        "inflated.pt",
        torch_file({"weight": torch.ones(1).expand(2**40)}),
        UNSAFE,
        "tensor 'weight' claims 4,398,046,511,104 bytes and stores 4;",
    ),
    ("deepkey.pt", opcodes(b"}K\x00" + b"\x85" * 3000 + b"K\x01s"), UNSAFE, "nests tuples deeper than 64"),
    ("deepvalue.pt", opcodes(b"}K\x01K\x00" + b"\x85" * 3000 + b"s"), UNSAFE, "nests tuples deeper than 64"),
    ("shared.pt", opcodes(SHARED), UNSAFE, "nests tuples"),
    ("beyond.pt", opcodes(tensor_of(10**6)), UNSAFE, "storage '0' has 4,000,000 bytes, and 8 are there"),
    ("minus.pt", opcodes(tensor_of(-1)), UNSAFE, "storage '0' has -4 bytes"),
    (
        "integer.pt",
        opcodes(b"}K\x00\x8a\xff" + b"\x7f" * 255 + b"s"),
        UNSAFE,
        "holds an integer of 2,039 bits",
    ),
    (
        "nested.pt",
        opcodes(tensor_of(2, rebuild=b"_rebuild_nested_tensor")),
        USAGE,
        "holds a nested tensor, which is not read; save plain tensors",
    ),
    ("bytes.pt", opcodes(b"cbuiltins\nbytearray\n" + number(2**60) + b"\x85R"), USAGE, "holds a bytearray"),
    ("twice.pt", twice, UNSAFE, "holds two members of one name"),
    (
        "comment.pt",
        lambda p: torch.save(state(), p) or p.write_bytes(p.read_bytes() + b"x"),
        UNSAFE,
        "its end",
    ),
    (
        "secondend.pt",
        followed(opcodes(DEEP), b"PK\x05\x06"),
        UNSAFE,
        "zip archive with something behind its end",
    ),
    ("secondends.pt", followed(torch_file(state()), b"PK\x05\x06" * 3), UNSAFE, "behind its end"),
    ("largeend.pt", followed(torch_file(state()), b"PK\x06\x07" + b"\0" * 16), UNSAFE, "its end"),
    ("locator.pt", locator_moved, UNSAFE, "is not the zip archive that its end describes"),
    (
        "disks.pt",
        on_two_disks,
        USAGE,
        "cannot be unpacked: zipfiles that span multiple disks are not supported",
    ),
    ("encrypted.pt", lambda p: flagged(p, 6, 1, 8), USAGE, "'encrypted/data.pkl' is encrypted"),
    ("method.pt", lambda p: flagged(p, 8, 99, 10), USAGE, "compression method is not supported"),
    ("plain.pth.tar", plain_tar, USAGE, "is a plain tar archive, not a checkpoint of torch.save"),
    ("meta.pt", torch_file(state(bias=torch.ones(3, device="meta"))), USAGE, "'bias' is on the device meta"),
    (
        "quantized.pt",
        lambda p: torch.save(state(bias=torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)), p),
        USAGE,
        "tensor 'bias' is quantized by torch",
    ),
    ("attribute.pt", opcodes(HIDING), USAGE, "missing [bias]"),
    ("float4.safetensors", shape("F4", "[2]", 1), USAGE, "float4_e2m1fn_x2, packed values"),
    ("dims.safetensors", shape("F32", str([1] * 65), 4), USAGE, "'weight' has 65 dimensions; torch takes 64"),
    ("zero.safetensors", shape("F32", f"[0,{2**63}]"), USAGE, "which no memory holds"),
    ("zeros.safetensors", shape("F32", f"[0,{2**62},{2**62}]"), USAGE, "which no memory holds"),
    (
        "bomb.pt",
        zip_of({"a/data.pkl": b"\0" * 2**22}, zipfile.ZIP_DEFLATED),
        UNSAFE,
        "bytes would unpack to 4,194,304",
    ),
]


def refused(folder: Path, section: ModelSection, code: int, message: str, trust: str | None = None) -> str:
    """Ingest fails with this exit code and message on one line, and nothing of the file was run."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.raises(CompressError) as caught:
            ingest(section, None, trust, folder=folder)
    finally:
        os.chdir(before)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 900
    assert int(caught.value.exit_code) == code
    assert not (folder / MARK).exists()
    return text


def names(cases: list[Any]) -> list[str]:
    return [case[0] for case in cases]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "make", "code", "message"), WEIGHTS, ids=names(WEIGHTS))
def test_weights(tmp_path: Path, name: str, make: Make, code: int, message: str) -> None:
    make(tmp_path / name)
    section = ModelSection(source=f"{__name__}:linear", weights=Path(name), input_shape=(2,))
    assert name in refused(tmp_path, section, code, message)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["code.pt", "codeold.pt", "code4.pt", "code0.pth", "module.pt"])
def test_what_calls_code_is_refused_with_the_digest_that_trusts_it(tmp_path: Path, name: str) -> None:
    _, make, code, message = next(case for case in WEIGHTS if case[0] == name)
    make(tmp_path / name)
    section = ModelSection(source=f"{__name__}:linear", weights=Path(name), input_shape=(2,))
    text = refused(tmp_path, section, code, message)
    assert f"--trust-pickle {sha256_file(tmp_path / name)}" in text


@pytest.mark.parametrize("name", ["text.pt", "code.pt", "cut.safetensors", "bomb.pt"])
def test_inspect_refuses_the_same(tmp_path: Path, name: str) -> None:
    _, make, code, message = next(case for case in WEIGHTS if case[0] == name)
    make(tmp_path / name)
    with pytest.raises(CompressError) as caught:
        inspect_model(name, folder=tmp_path)
    assert message in str(caught.value)
    assert int(caught.value.exit_code) == code


def test_trust_is_of_one_file_only(tmp_path: Path) -> None:
    torch.save(Attack(), tmp_path / "code.pt")
    torch.save(linear(), tmp_path / "other.pt")
    section = ModelSection(source=f"{__name__}:linear", weights=Path("code.pt"), input_shape=(2,))
    assert sha256_file(tmp_path / "code.pt") in refused(
        tmp_path, section, UNSAFE, "--trust-pickle", trust=sha256_file(tmp_path / "other.pt")
    )


def exported(edit: Callable[[dict[str, bytes]], None] | None = None) -> Make:
    """An archive of torch.export.save, its members changed by `edit`."""

    def write(path: Path) -> None:
        buffer = io.BytesIO()
        torch.export.save(torch.export.export(linear().eval(), (torch.ones(2, 2),)), buffer)
        with zipfile.ZipFile(buffer) as archive:
            members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        if edit is not None:
            edit(members)
        zip_of({f"net/{name}": content for name, content in members.items()})(path)

    return write


def in_graph(change: Callable[[dict[str, Any]], None]) -> Make:
    def edit(members: dict[str, bytes]) -> None:
        program = json.loads(members["models/model.json"])
        change(program)
        members["models/model.json"] = json.dumps(program).encode()

    return exported(edit)


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(Attack(), buffer)
    return buffer.getvalue()


def as_pickled_weight(members: dict[str, bytes]) -> None:
    config = json.loads(members["data/weights/model_weights_config.json"])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    members[f"data/weights/{entry['path_name']}"] = pickled()
    members["data/weights/model_weights_config.json"] = json.dumps(config).encode()


def set_target(target: str) -> Callable[[dict[str, Any]], None]:
    return lambda program: program["graph_module"]["graph"]["nodes"][0].update(target=target)


def set_size(expression: str) -> Callable[[dict[str, Any]], None]:
    size = {"as_expr": {"expr_str": expression, "hint": None}}

    def change(program: dict[str, Any]) -> None:
        next(iter(program["graph_module"]["graph"]["tensor_values"].values()))["sizes"][0] = size

    return change


def set_tree(kind: str) -> Callable[[dict[str, Any]], None]:
    tree = json.dumps(
        [1, {"type": kind, "context": json.dumps({"__enum__": True, "fqn": "os:x"}), "children_spec": []}]
    )
    return lambda program: program["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=tree)


def set_argument(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(forward_arg_names=[name])


def set_input(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda p: p["graph_module"]["graph"]["inputs"][-1]["as_tensor"].update(name=name)


def set_metadata(program: dict[str, Any]) -> None:
    program["graph_module"]["graph"]["nodes"][0]["metadata"] = ["x"]


def set_name(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda p: p["graph_module"]["graph"]["nodes"][0]["outputs"][0]["as_tensor"].update(name=name)


def in_config(change: Callable[[dict[str, Any]], None]) -> Make:
    def edit(members: dict[str, bytes]) -> None:
        config = json.loads(members["data/weights/model_weights_config.json"])
        change(config)
        members["data/weights/model_weights_config.json"] = json.dumps(config).encode()

    return exported(edit)


def set_meta(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["config"]["weight"]["tensor_meta"].update({key: value})


def inflate(config: dict[str, Any]) -> None:
    sizes = [{"as_int": 2**17}, {"as_int": 2**17}]
    config["config"]["weight"]["tensor_meta"].update(sizes=sizes, strides=[{"as_int": 0}, {"as_int": 0}])


TOO_LARGE = [
    "9**9**9",
    "Pow(9, Pow(9, 9))",
    "s0**1000",
    "2**s0",
    "PowByNatural(9, 999999999)",
    "1 << 999999999",
    "LShift(LShift(1, 60), 60)",
    "9" * 400,
    "Integer('" + "9" * 400 + "')",
    "(" * 60 + "s0" + ")" * 60 + "+1" * 600,
    "-" * 50 + "s0",
    "Max(s0, s1, s2, s3, s4, s5, s6, s7, s8)",
]
CODE = f"__import__('os').system('touch {MARK}')"
EXPORTED = [
    ("text", raw(b"a program"), USAGE, "is not a .pt2 archive of torch.export.save (not a zip file)"),
    ("empty", raw(b""), USAGE, "is empty (0 bytes)"),
    ("plainzip", zip_of({"a.txt": b"x"}), USAGE, "is a zip file, but not one of torch.export.save"),
    ("emptyzip", zip_of({}), USAGE, "is a zip file, but not one of torch.export.save"),
    ("checkpoint", torch_file(state()), USAGE, "is a zip file, but not one of torch.export.save"),
    ("cut", cut(exported(), 0.5), USAGE, "is not a .pt2 archive"),
    (
        "badjson",
        exported(lambda m: m.update({"models/model.json": b"{"})),
        USAGE,
        "damaged graph description",
    ),
    ("noweights", exported(lambda m: m.pop("data/weights/weight_0") and None), USAGE, "cannot be read"),
    ("version", exported(lambda m: m.update({"archive_version": b"99"})), USAGE, "export it again"),
    (
        "samples",
        exported(lambda m: m.update({"data/sample_inputs/model.pt": pickled()})),
        UNSAFE,
        "has sample inputs that hold code",
    ),
    ("pickledweight", exported(as_pickled_weight), UNSAFE, "stores 'weight_0' as a pickle"),
    (
        "object",
        exported(lambda m: m.update({"data/constants/opaque_obj_0": pickle.dumps(Attack())})),
        UNSAFE,
        "holds the member 'data/constants/opaque_obj_0'",
    ),
    (
        "library",
        exported(lambda m: m.update({"data/aotinductor/model/x.so": b"\x7fELF"})),
        UNSAFE,
        "holds the member 'data/aotinductor/model/x.so'",
    ),
    (
        "target",
        in_graph(set_target("torch.os.system")),
        UNSAFE,
        "calls 'torch.os.system', which is no operator",
    ),
    (
        "file",
        in_graph(set_target("torch.ops.aten.from_file.default")),
        UNSAFE,
        "calls 'torch.ops.aten.from_file.default'",
    ),
    ("size", in_graph(set_size(CODE)), UNSAFE, "as expr_str"),
    *[
        (f"power{i}", in_graph(set_size(text)), UNSAFE, "as expr_str; a size is a short sum or product")
        for i, text in enumerate(TOO_LARGE)
    ],
    ("nomodule", in_graph(lambda p: p.pop("graph_module") and None), USAGE, "a damaged graph description"),
    ("listmodule", in_graph(lambda p: p.update(graph_module=[])), USAGE, "a damaged graph description"),
    ("metadata", in_graph(set_metadata), USAGE, "a damaged graph description"),
    (
        "list",
        in_config(lambda c: c.update(config=[])),
        USAGE,
        "holds a damaged list of weights: it is a list",
    ),
    ("entry", in_config(lambda c: c["config"].update(weight=3)), USAGE, "entry of the weight 'weight'"),
    (
        "device",
        in_config(set_meta("device", {"type": "meta", "index": None})),
        USAGE,
        "'weight' is on the device",
    ),
    ("stride", in_config(inflate), UNSAFE, "tensor 'weight' claims 68,719,476,736 bytes"),
    ("loop", in_graph(set_target("torch.ops.higher_order.while_loop")), UNSAFE, "which is no operator"),
    ("name", in_graph(set_name("x if y else z")), UNSAFE, "as name"),
    ("attribute", in_graph(set_size("s0.__class__")), UNSAFE, "holds the text 's0.__class__' as expr_str"),
    ("tree", in_graph(set_tree("enum.Enum")), UNSAFE, "as in_spec"),
    ("context", in_graph(set_tree("builtins.dict")), UNSAFE, "as in_spec"),
    ("argument", in_graph(set_argument(f"x={CODE}")), UNSAFE, "as forward_arg_names"),
    (
        "annotation",
        in_graph(set_argument("x: torch.hub")),
        UNSAFE,
        "holds the text 'x: torch.hub' as forward_arg_names",
    ),
    ("keyword", in_graph(set_argument("lambda")), UNSAFE, "holds the text 'lambda' as forward_arg_names"),
    ("input", in_graph(set_input("x: torch.hub")), UNSAFE, "holds the text 'x: torch.hub' as name"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "make", "code", "message"), EXPORTED, ids=names(EXPORTED))
def test_exported_programs(tmp_path: Path, name: str, make: Make, code: int, message: str) -> None:
    path = tmp_path / f"{name}.pt2"
    make(path)
    assert str(path) in refused(tmp_path, ModelSection(source=path.name, input_shape=(2,)), code, message)


@pytest.mark.filterwarnings("ignore")
def test_guard_code_is_dropped_and_the_untouched_archive_runs(tmp_path: Path) -> None:
    in_graph(lambda program: program.update(guards_code=[f"{CODE} or True"]))(tmp_path / "n.pt2")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        model = ingest(ModelSection(source="n.pt2"), folder=tmp_path)
        assert model.run(torch.ones(2, 2))[0].shape == (2, 3)
    finally:
        os.chdir(before)
    assert not (tmp_path / MARK).exists()


def onnx_file(
    node: str = "MatMul",
    weight: np.ndarray | None = None,
    outputs: bool = True,
    inputs: bool = True,
    domain: str = "",
    change: Callable[[onnx.ModelProto], None] | None = None,
) -> Make:
    def write(path: Path) -> None:
        array = np.ones((2, 3), np.float32) if weight is None else weight
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
        graph = helper.make_graph(
            [helper.make_node(node, ["x" if inputs else "w", "w"], ["y"], "layer", domain=domain)],
            "g",
            [x] if inputs else [],
            [y] if outputs else [],
            [numpy_helper.from_array(array, "w")],
        )
        opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        if change is not None:
            change(model)
        path.write_bytes(model.SerializeToString())

    return write


def external(location: str, length: str = "24") -> Make:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", length)):
            tensor.external_data.add(key=key, value=value)

    return onnx_file(change=change)


def linked(path: Path) -> None:
    (path.parent / "w.bin").symlink_to("/etc/hostname")
    external("w.bin", "1")(path)


def short(path: Path) -> None:
    (path.parent / "w.bin").write_bytes(b"\0" * 8)
    external("w.bin")(path)


def in_branch(path: Path) -> None:
    """External data hidden in the branch of an If."""
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "b", [], [y])
    condition = helper.make_tensor_value_info("x", TensorProto.BOOL, [])
    choice = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([choice], "g", [condition], [y])
    path.write_bytes(helper.make_model(graph, ir_version=9).SerializeToString())


def cyclic(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def wrong_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"\0" * 5


def not_text(path: Path) -> None:
    onnx_file()(path)
    path.write_bytes(replaced(path.read_bytes(), b"layer", b"lay\xd4r"))


def unknown_input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = -2


def unknown_weight_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


NOT_ONNX = "is not an ONNX file"
INF = np.full((2, 3), np.inf, np.float32)
ONNX = [
    ("empty", raw(b""), USAGE, "is empty (0 bytes)"),
    ("html", raw(b"<!doctype html><html><body>404</body></html>"), USAGE, NOT_ONNX),
    ("text", raw(b"an onnx model"), USAGE, NOT_ONNX),
    ("cut", cut(onnx_file(), 0.5), USAGE, NOT_ONNX),
    ("checkpoint", torch_file(state()), USAGE, NOT_ONNX),
    ("safetensors", tensors(), USAGE, NOT_ONNX),
    ("unknown", onnx_file("MatMull"), USAGE, "is not valid ONNX: No Op registered for MatMull"),
    ("custom", onnx_file("Magic", domain="com.example"), USAGE, "onnxruntime cannot run"),
    ("nooutput", onnx_file(outputs=False), USAGE, "the graph has no output"),
    ("noinput", onnx_file(inputs=False), USAGE, "the graph has no input besides its weights"),
    ("cyclic", onnx_file(change=cyclic), USAGE, "is not valid ONNX"),
    ("size", onnx_file(change=wrong_size), USAGE, "size.onnx"),
    ("text", not_text, USAGE, "a text in it (onnx.NodeProto.name: b'lay\\xd4r') is not UTF-8"),
    ("weighttype", onnx_file(change=unknown_weight_type), USAGE, "tensor 'w' cannot be read: 99"),
    ("shapes", onnx_file(weight=np.ones((5, 3), np.float32)), USAGE, "onnxruntime cannot run"),
    ("nan", onnx_file(weight=np.full((2, 3), np.nan, np.float32)), USAGE, "tensor 'w' holds NaN"),
    ("inf", onnx_file(weight=INF), USAGE, "tensor 'w' holds infinite values"),
    (
        "parent",
        external("../secret.bin"),
        UNSAFE,
        "is stored in '../secret.bin', outside the model's own folder",
    ),
    (
        "absolute",
        external("/etc/passwd"),
        UNSAFE,
        "is stored in '/etc/passwd', outside the model's own folder",
    ),
    ("backslash", external("..\\secret.bin"), UNSAFE, "outside the model's own folder"),
    (
        "branch",
        in_branch,
        UNSAFE,
        "tensor 'c' is stored in '../../etc/passwd', outside the model's own folder",
    ),
    ("link", linked, UNSAFE, "is stored in 'w.bin', outside the model's own folder"),
    ("lost", external("w.bin"), USAGE, "is stored in 'w.bin', and that file does not exist"),
    ("short", short, USAGE, "which is too short: 8 bytes"),
    ("negative", external("negative.onnx", "-4"), USAGE, "which is too short"),
]


def test_an_input_of_a_type_that_onnx_does_not_know(tmp_path: Path) -> None:
    onnx_file(change=unknown_input_type)(tmp_path / "m.onnx")
    message = "input 'x' is of type unknown (-2); samples can be float32"
    refused(tmp_path, ModelSection(source="m.onnx"), USAGE, message)
    assert any(message in note for note in inspect_model("m.onnx", folder=tmp_path).notes)


@pytest.mark.parametrize(("name", "make", "code", "message"), ONNX, ids=names(ONNX))
def test_onnx_files(tmp_path: Path, name: str, make: Make, code: int, message: str) -> None:
    path = tmp_path / f"{name}.onnx"
    make(path)
    section = ModelSection(source=path.name)
    assert str(path) in refused(tmp_path, section, code, message)
    with pytest.raises(CompressError):  # inspecting it fails the same way, or says that it cannot run
        found = inspect_model(path.name, folder=tmp_path)
        raise CompressError(*found.notes)


def test_a_mask_of_minus_infinity_is_no_weight(tmp_path: Path) -> None:
    mask = np.array([[0, -np.inf, 0], [0, 0, 0]], np.float32)[:1]

    def add_mask(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
        model.graph.node[0].output[0] = "plain"
        model.graph.node.append(helper.make_node("Add", ["plain", "mask"], ["y"], "masked"))

    onnx_file(change=add_mask)(tmp_path / "mask.onnx")
    model = ingest(ModelSection(source="mask.onnx"), folder=tmp_path)
    assert model.run(torch.ones(1, 2))[0].tolist() == [[2.0, float("-inf"), 2.0]]


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    external("w.bin")(tmp_path / "outside.onnx")
    model = ingest(ModelSection(source="outside.onnx"), folder=tmp_path)
    assert model.run(torch.ones(1, 2))[0].tolist() == [[3.0, 5.0, 7.0]]

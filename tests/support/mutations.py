"""Seeded, structure-aware mutants of small valid files, read in batches by a process of their own.

A kind of file is a `Kind`: a valid original, how a mutant is made of it, and what reads one. Mutant number n of a
kind is the same on every machine. A batch runs in a child: one that crashes, hangs or raises anything but a
CompressError names the number that did it. In this folder, `echo pt:17 | python -m mutations` reads one by hand.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickletools
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]
SECONDS_EACH = 20.0  # on a busy machine; a mutant takes some 20 ms
MESSAGE = 3000  # characters of an error
MARK = "attack_ran"  # what a mutant that runs code could leave behind
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    64,
    255,
    256,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    -1,
    -2,
    -(2**63),
)
ODD: tuple[Any, ...] = (
    *NUMBERS,
    None,
    True,
    False,
    "",
    "x",
    "\ud800",
    "a" * 300,
    [],
    {},
    [[]],
    0.5,
    1e308,
    "os.system",
)


@dataclass(frozen=True)
class Kind:
    """One kind of file. suffix: of the mutants; original: makes a valid file; read: what must hold or refuse it."""

    suffix: str
    original: Callable[[], bytes]
    mutate: Mutate
    read: Callable[[Path], object]


def number_of_mutants(quick: int) -> int:
    """How many to try: the environment's MUTATIONS, else the quick share."""
    return int(os.environ.get("MUTATIONS", str(quick)))


def read_mutants(counts: Mapping[str, int], first: int = 0, module: str = "mutations") -> list[str]:
    """What went wrong with mutants of the kinds of a module: as many of each as `counts` says, from number `first`."""
    wrong: list[str] = []
    left = [(kind, index) for kind, count in counts.items() for index in range(first, first + count)]
    while left:
        left = left[_batch(left, module, wrong) :]
    return wrong


def _batch(jobs: list[tuple[str, int]], module: str, wrong: list[str]) -> int:
    """Read mutants in a child until they or it end; how many were done, the last perhaps badly."""
    with tempfile.TemporaryDirectory() as folder:
        here = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
        try:
            child = subprocess.run(
                [sys.executable, "-m", module],
                input=" ".join(f"{kind}:{index}" for kind, index in jobs),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60 + SECONDS_EACH * len(jobs),
                check=False,
                env={**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"},
            )
            code, output, said = str(child.returncode), child.stdout, child.stderr[-800:]
        except subprocess.TimeoutExpired as error:
            code, output, said = "no end", (error.stdout or b"").decode(), ""
        ran = (Path(folder) / MARK).exists()
    lines = output.splitlines()
    done = sum(line.startswith("done ") for line in lines)
    wrong += [line for line in lines if line.startswith("wrong ")]
    if ran:
        wrong.append(f"code of a mutant ran, one of {jobs[0]} to {jobs[max(0, done - 1)]}")
    if code == "0" and done == len(jobs):
        return done
    kind, index = jobs[min(done, len(jobs) - 1)]
    wrong.append(f"wrong {kind} {index}: the process ended with {code}: {said}")
    return done + 1


def read_here(kinds: Mapping[str, Kind], jobs: list[str], folder: Path) -> None:
    """Read mutants, each named `kind:number`, and print of each that it is done, or before that what was wrong."""
    originals: dict[str, bytes] = {}
    for job in jobs:
        kind, _, index = job.partition(":")
        chosen = kinds[kind]
        original = originals.get(kind) or chosen.original()
        originals[kind] = original
        path = folder / f"m{index}{chosen.suffix}"
        path.write_bytes(chosen.mutate(original, random.Random(f"{kind} {index}")))
        faulthandler.dump_traceback_later(SECONDS_EACH, exit=True)
        started = time.process_time()
        if problem := _problem(chosen, path):
            print(f"wrong {kind} {index}: {problem}", flush=True)
        faulthandler.cancel_dump_traceback_later()
        if (took := time.process_time() - started) > SECONDS_EACH / 2:
            print(f"wrong {kind} {index}: took {took:.0f} s", flush=True)
        path.unlink()
        print(f"done {kind} {index}", flush=True)


def _problem(kind: Kind, path: Path) -> str | None:
    """What reading the file raised, unless it is one clear CompressError."""
    from edgepress.errors import CompressError

    try:
        kind.read(path)
    except CompressError as error:
        text = str(error)
        return f"a message of {len(text)} characters" if "\n" in text or len(text) > MESSAGE else None
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return ascii(f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})")[:500]
    return None


# ---- how files are changed ----


def bytes_changed(content: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut out, doubled, or the end cut off."""
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place] = rng.randrange(256)
            case 2 if len(changed) > 64:
                del changed[place : place + rng.randrange(1, 9)]
            case 3:
                changed[place:place] = changed[place : place + rng.randrange(1, 64)]
            case 4 if len(changed) > 64:
                del changed[max(32, place) :]
        if not changed:
            return b"x"
    return bytes(changed)


def json_changed(value: Any, rng: random.Random) -> Any:
    """One place of a JSON document replaced, removed, doubled, renamed or filled with another of its values."""
    places = list(_places(value))
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            holder[key] = rng.choice(ODD)
        case 1:
            other, its = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[its]))
        case 2:
            del holder[key]
        case 3 if isinstance(holder, dict):
            holder[rng.choice(("x", "", "__class__", "s0"))] = holder.pop(key)
        case 4 if isinstance(holder[key], str):
            holder[key] = text_changed(holder[key], rng)
        case _:
            holder[key] = rng.choice(NUMBERS) if isinstance(holder[key], int) else rng.choice(ODD)
    return value


def text_changed(text: str, rng: random.Random) -> str:
    """A text with a part of another kind put in."""
    parts = (
        "9**9**9",
        "__import__('os').system('touch attack_ran')",
        "s0",
        "/",
        "..",
        "\x00",
        "é",
        "(",
        "1e400",
        ".",
    )
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(parts) + text[place + rng.randrange(3) :]


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        holder = pending.pop()
        items = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
        for key, inner in items:
            found.append((holder, key))
            if isinstance(inner, dict | list):
                pending.append(inner)
    return found


def pickle_changed(content: bytes, rng: random.Random) -> bytes:
    """Whole opcodes dropped, doubled, moved or replaced, or one's argument changed."""
    try:
        codes = list(pickletools.genops(content))
    except Exception:
        return bytes_changed(content, rng)
    starts = [position or 0 for _, _, position in codes]
    pieces = [content[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    rest = b""
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(pieces))
        match rng.randrange(6):
            case 0:
                del pieces[place]
            case 1:
                pieces.insert(place, pieces[place])
            case 2:
                pieces.insert(rng.randrange(len(pieces)), pieces[place])
            case 3:
                pieces[place] = rng.choice(_OPCODES)
            case 4:
                pieces.insert(place, rng.choice(_OPCODES))
            case 5:
                pieces[place] = _argument_changed(pieces[place], rng)
        if not pieces:
            return b"."
    return b"".join(pieces) + rest


_GLOBALS = (
    "torch._utils\n_rebuild_parameter", "torch._utils\n_rebuild_qtensor", "torch._utils\n_rebuild_sparse_tensor",
    "torch._utils\n_rebuild_tensor", "torch._utils\n_rebuild_tensor_v3", "torch._utils\n_rebuild_nested_tensor",
    "torch._utils\n_rebuild_meta_tensor_no_storage", "torch._utils\n_rebuild_wrapper_subclass", "torch\nFloatTensor",
    "torch\nTensor", "torch\nSize", "torch\ndevice", "torch\nfloat8_e4m3fn", "torch\nquint4x2", "torch\nLongStorage",
    "torch.storage\nUntypedStorage", "builtins\nset", "builtins\ncomplex", "builtins\nbytearray", "_codecs\nencode",
    "collections\nCounter", "torch._tensor\n_rebuild_from_type_v2", "torch.nn.parameter\nParameter", "posix\nsystem",
    "torch._utils\n_rebuild_parameter_with_state", "torch._utils\n_rebuild_device_tensor_from_numpy",
)  # fmt: skip
_OPCODES = (
    *(bytes([code]) for code in b"N\x88\x89]})(t\x85\x86\x87Rb\x81suaeQ02\x8f\x90\x93\x94"),
    b"K\x00", b"K\x07", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"G\x7f\xf0" + b"\0" * 6, b"h\x00", b"h\x01", b"h\x05", b"q\x01", b"X\x01\x00\x00\x00x", b"U\x01x",
    b"P0\n", b"I1\n", *(f"c{name}\n".encode() for name in _GLOBALS), b"\x85" * 200, b"(K\x01K\x02t" * 8,
)  # fmt: skip


def _argument_changed(piece: bytes, rng: random.Random) -> bytes:
    code, rest = piece[:1], piece[1:]
    if code == b"c":
        return f"c{rng.choice(_GLOBALS)}\n".encode()
    if code in (b"K", b"M", b"J") or code == b"\x8a":
        value = rng.choice(NUMBERS)
        return b"\x8a\x0e" + value.to_bytes(14, "little", signed=True)
    if code == b"X" and len(rest) > 4:
        text = text_changed(rest[4:].decode("utf-8", "replace"), rng).encode("utf-8", "surrogatepass")
        return code + struct.pack("<I", len(text)) + text
    if not rest:
        return rng.choice(_OPCODES)
    changed = bytearray(rest)
    changed[rng.randrange(len(changed))] = rng.randrange(256)
    return code + bytes(changed)


_TAILS = (
    b"PK\5\6", b"PK\5\6" * 6, b"PK\6\7" + b"\0" * 16, b"\0", b"PK\5\6" + b"\0" * 18, b"PK\3\4",
    b"PK\5\6" + b"\xff" * 18,
)  # fmt: skip


def zip_changed(
    content: bytes, rng: random.Random, member: Callable[[str, bytes, random.Random], bytes]
) -> bytes:
    """A member changed by `member`, dropped, renamed, doubled or packed, a header changed, or bytes appended."""
    kind = rng.randrange(11)
    if kind == 0:
        return bytes_changed(content, rng)
    if kind == 10:
        return content + rng.choice(_TAILS)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    if kind == 1:
        return _field_changed(_stored(members), rng)
    place = rng.randrange(len(members))
    name, inner = members[place]
    method = zipfile.ZIP_STORED
    if kind == 2:
        del members[place]
    elif kind == 3:
        members[place] = (
            rng.choice((name + "x", name.upper(), "../" + name, "/" + name, "x/" + name, "data.pkl")),
            inner,
        )
    elif kind == 4:
        members.insert(rng.randrange(len(members)), (name, rng.choice(members)[1]))
    elif kind == 5:
        method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    else:
        readable = [i for i, (n, c) in enumerate(members) if n.endswith((".pkl", ".json", ".npy", ".pt"))]
        place = rng.choice(readable) if readable and rng.random() < 0.8 else place
        name, inner = members[place]
        members[place] = (name, member(name, inner, rng))
    return _stored(members, method)


def _stored(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def _field_changed(content: bytes, rng: random.Random) -> bytes:
    """A number in a local, central or end header of a zip archive."""
    changed = bytearray(content)
    marks = [i for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for i in _found(content, mark)]
    place = rng.choice(marks) + rng.randrange(4, 22, 2)
    changed[place : place + 2] = struct.pack("<H", rng.choice((0, 1, 8, 9, 12, 14, 45, 93, 99, 255, 0xFFFF)))
    return bytes(changed[: len(content)])


def _found(content: bytes, mark: bytes) -> list[int]:
    places, start = [], content.find(mark)
    while start >= 0:
        places.append(start)
        start = content.find(mark, start + 1)
    return places


def safetensors_changed(content: bytes, rng: random.Random) -> bytes:
    """The header's JSON, its length, or bytes changed."""
    if rng.randrange(8) == 0:
        return bytes_changed(content, rng)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header = _tensor_changed(header, rng) if rng.random() < 0.5 else json_changed(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    if rng.randrange(8) == 0:
        length = rng.choice([n for n in NUMBERS if 0 <= n < 2**64])
        return struct.pack("<Q", length) + text + content[8:]
    return struct.pack("<Q", len(text)) + text + content[8 + struct.unpack("<Q", content[:8])[0] :]


_DTYPES = (
    ("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8), ("I32", 4), ("I8", 1), ("U16", 2), ("BOOL", 1), ("F8_E4M3", 1),
    ("F8_E5M2", 1), ("F8_E8M0", 1), ("C64", 8), ("U64", 8), ("F4", 0.5), ("F6_E2M3", 0.75), ("F8_E4M3FNUZ", 1),
)  # fmt: skip


def _tensor_changed(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A tensor of another type, shape or name, in the bytes that it has: what the format itself may take."""
    name = rng.choice([n for n in header if n != "__metadata__"])
    entry = header[name]
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    dtype, width = rng.choice(_DTYPES)
    count = int(size / width)
    shapes = (
        [count],
        [1, count],
        [count, 1],
        [1] * 70 + [count],
        [0, count],
        [2, count // 2],
        entry["shape"],
        [],
    )
    entry.update(dtype=dtype, shape=rng.choice(shapes))
    if rng.randrange(4) == 0:
        header[rng.choice(("x", "", "weight", "__metadata__", name.upper()))] = header.pop(name)
    return header


def member_changed(name: str, content: bytes, rng: random.Random) -> bytes:
    """A member by what it is: a pickle, JSON, an array, an archive in the archive, or bytes."""
    if name.endswith(".pkl"):
        return pickle_changed(content, rng)
    if name.endswith(".json"):
        return json.dumps(json_changed(json.loads(content), rng)).encode()
    if name.endswith(".npy"):
        return npy_changed(content, rng)
    if name.endswith(".pt") and content[:2] == b"PK":
        return zip_changed(content, rng, member_changed)
    return bytes_changed(content, rng) if content else b"x"


def npy_changed(content: bytes, rng: random.Random) -> bytes:
    """The header's text, its length, or bytes changed."""
    if rng.randrange(4) == 0:
        return bytes_changed(content, rng)
    (length,) = struct.unpack("<H", content[8:10])
    header = content[10 : 10 + length].decode("latin-1").rstrip()
    choices = (
        ("<f4", "|O"), ("<f4", "<U9"), ("<f4", "V1000000"), ("<f4", "<c16"), ("<i8", "|O"), ("4,", "-4,"),
        ("4,", f"{2**62},"), ("4,", f"{10**30},"), ("False", "True"), ("descr", "x"), ("<f4", "<f2"), ("4,", "0,"),
        ("<f4", "|b1"), ("'<f4'", "[('a','<f4')]"), ("4,", "4," * 70), ("<i8", "<f8"), ("<i8", "<u8"),
    )  # fmt: skip
    header = header.replace(*rng.choice(choices), 1) if rng.random() < 0.8 else text_changed(header, rng)
    text = (header + "\n").encode("utf-8", "replace")
    return content[:8] + struct.pack("<H", min(len(text), 65535)) + text + content[10 + length :]


def torch_zip_changed(content: bytes, rng: random.Random) -> bytes:
    """A `.pt` archive."""
    return zip_changed(content, rng, member_changed)


def torch_stream_changed(content: bytes, rng: random.Random) -> bytes:
    """An old `.pt`: one of its five pickles, or the bytes behind them."""
    if rng.randrange(6) == 0:
        return bytes_changed(content, rng)
    stream, ends = BytesIO(content), [0]
    for _ in range(5):
        for _code in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    chosen = rng.choice((0, 1, 2, 3, 3, 3, 3, 4, 4))
    inner = pickle_changed(content[ends[chosen] : ends[chosen + 1]], rng)
    return content[: ends[chosen]] + inner + content[ends[chosen + 1] :]


# ---- what is read ----


def _network() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).eval()


def _torch_saved(**options: Any) -> bytes:
    import torch

    torch.manual_seed(0)
    saved = {
        "state_dict": _network().state_dict(),
        "epoch": 3,
        "best": torch.tensor(0.5),
        "shape": (1, (2, 3)),
    }
    buffer = BytesIO()
    torch.save(saved, buffer, **options)
    return buffer.getvalue()


def _safetensors() -> bytes:
    import torch
    from safetensors.torch import save

    torch.manual_seed(0)
    return bytes(save(_network().state_dict(), metadata={"format": "pt"}))


def _exported() -> bytes:
    import torch

    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(_network(), (torch.ones(2, 1, 4, 4),), dynamic_shapes=({0: batch},))
    buffer = BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _npz() -> bytes:
    import numpy as np

    buffer = BytesIO()
    np.savez(buffer, x=np.ones((4, 2, 3), np.float32), y=np.arange(4))
    return buffer.getvalue()


def _read_weights(path: Path) -> None:
    from edgepress.pipeline.ingest.checkpoint import load_into, read_checkpoint
    from edgepress.pipeline.inspect.run import inspect_model

    try:
        load_into(_network(), read_checkpoint(path))
    finally:
        inspect_model(path.name, folder=path.parent)


def _read_exported(path: Path) -> None:
    from edgepress.pipeline.inspect.run import inspect_model

    inspect_model(path.name, folder=path.parent)


def _read_npz(path: Path) -> None:
    from edgepress.calibration.sources import load_data
    from edgepress.pipeline.recipe.sections import ImagePreprocessing

    split = {"calibration": 0.5, "validation": 0.5}
    load_data(path.name, {}, split, ImagePreprocessing(), 4, 0, folder=path.parent)


KINDS = {
    "pt": Kind(".pt", _torch_saved, torch_zip_changed, _read_weights),
    "legacy": Kind(
        ".pt", lambda: _torch_saved(_use_new_zipfile_serialization=False), torch_stream_changed, _read_weights
    ),
    "safetensors": Kind(".safetensors", _safetensors, safetensors_changed, _read_weights),
    "pt2": Kind(".pt2", _exported, torch_zip_changed, _read_exported),
    "npz": Kind(".npz", _npz, torch_zip_changed, _read_npz),
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    read_here(KINDS, sys.stdin.read().split(), Path.cwd())

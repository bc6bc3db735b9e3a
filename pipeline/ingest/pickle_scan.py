"""What the pickles of a checkpoint would import and build, read from their opcodes: nothing in them is executed.

torch's weights-only reader runs no code of a file, and trusts its numbers: a tuple nested a hundred thousand deep
ends the process when it is hashed, a storage that claims more bytes than its member holds is read past its end, and
some functions that rebuild tensors look at memory that arguments name. So an abstract machine walks the opcodes first.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from .zip_archive import is_zip

MAX_PICKLE_BYTES = 256 * 2**20
MAX_STREAM_PICKLES = 8  # torch.save's old format writes five pickles one after the other
MAX_TUPLE_DEPTH = 64  # arguments of a tensor nest four deep
MAX_SHARED = (
    10_000  # elements of nested tuples written out: tuples that hold each other twice double at each level
)
MAX_INTEGER_BYTES = 16
_STORAGE_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8, "Untyped": 1, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1,
    "QUInt2x4": 1,
}  # fmt: skip
_REFUSED = {
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass without values",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of a device that is not here",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of a device that is not here",
    "builtins.bytearray": "a bytearray",
}


@dataclass(frozen=True)
class PickleFinding:
    """Why a pickle must not be loaded. unsafe: an attack rather than something that is not supported."""

    reason: str
    unsafe: bool = True


class _Tuple(NamedTuple):
    items: tuple[Any, ...]
    depth: int
    weight: int


class _Global(NamedTuple):
    name: str


@dataclass(eq=False)
class _List:
    items: list[Any] = field(default_factory=list)


class _Refused(Exception):  # noqa: N818  # carries a finding through the machine, and is never shown
    def __init__(self, reason: str, unsafe: bool = True) -> None:
        super().__init__(reason)
        self.finding = PickleFinding(reason, unsafe)


def imported_names(file: IO[bytes]) -> list[str]:
    """`module.name` of every global that the pickles in `file` (a zip or a bare stream) would import."""
    return [name for pickled, _ in _pickles(file) for name in _names(pickled)]


def why_refused(file: IO[bytes]) -> PickleFinding | None:
    """Why torch must not read the pickles of `file`; None when it may. Linear in the pickles' size.

    zipfile.BadZipFile, OSError, RuntimeError or NotImplementedError for an archive that cannot be read.
    """
    try:
        for pickled, room in _pickles(file):
            for _ in range(MAX_STREAM_PICKLES):
                if not _Machine(room).walk(pickled):
                    break
    except _Refused as refused:
        return refused.finding
    return None


def _pickles(file: IO[bytes]) -> Iterator[tuple[IO[bytes], Callable[[str], int]]]:
    """Each pickle, or stream of them, open for reading, and the bytes that there are for a storage by its key."""
    if not is_zip(file):
        size = file.seek(0, 2)
        file.seek(0)
        yield file, lambda _: size
        return
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename.partition("/")[2]: info.file_size for info in archive.infolist()}
        for info in archive.infolist():
            if info.filename.lower().endswith(".pkl"):  # torch finds members whatever their case
                if info.file_size > MAX_PICKLE_BYTES:
                    raise _Refused(
                        f"holds a pickle of {info.file_size:,} bytes; the limit is {MAX_PICKLE_BYTES:,}"
                    )
                with archive.open(info) as member:
                    yield member, lambda key: sizes.get(f"data/{key}", 0)


def _names(file: IO[bytes]) -> list[str]:
    names: list[str] = []
    for _ in range(MAX_STREAM_PICKLES):
        strings: list[str] = []
        ended = False
        try:
            for opcode, argument, _position in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif opcode.name == "STOP":
                    ended = True
                elif isinstance(argument, str):
                    strings.append(argument)
        except Exception:  # not a pickle from here on: genops raises many types on garbage
            break
        if not ended:
            break
    return names


_CONSTANTS = frozenset(
    "BININT BININT1 BININT2 LONG1 BINUNICODE SHORT_BINSTRING NONE NEWFALSE NEWTRUE BINFLOAT".split()  # noqa: SIM905
)
_HASHING = ("builtins.set", "collections.Counter", "collections.OrderedDict")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class _Machine:
    """The stack of torch's weights-only reader, holding sizes in place of values.

    None stands for a dict, a tensor, or what a function returns: none of these is hashed by what it holds.
    room: the bytes that are stored under a storage's key.
    """

    room: Callable[[str], int]
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    steps: int = 0

    def walk(self, file: IO[bytes]) -> bool:
        """Walk one pickle; whether it ended well. What is no pickle for torch is left for torch to say."""
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self.steps += 1
                if opcode.name == "STOP":
                    return True
                if not self._step(opcode.name, argument):
                    return False
        except _Refused:
            raise
        except Exception:  # genops and an empty stack: torch, too, fails at this very opcode
            return False
        return False

    def _step(self, name: str, argument: Any) -> bool:
        stack = self.stack
        if name in _CONSTANTS:
            if name == "LONG1" and argument.bit_length() > 8 * MAX_INTEGER_BYTES:
                raise _Refused(f"holds an integer of {argument.bit_length():,} bits")
            stack.append(argument)
        elif name in ("EMPTY_DICT", "EMPTY_SET"):
            stack.append(None)
        elif name == "EMPTY_LIST":
            stack.append(_List())
        elif name == "EMPTY_TUPLE":
            stack.append(_Tuple((), 1, 1))
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(stack) < count:
                return False
            stack[-count:] = [self._tuple(stack[-count:])]
        elif name == "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".")))
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name != "PROTO":
            return self._combine(name)
        return True

    def _combine(self, name: str) -> bool:
        stack = self.stack
        if name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name == "TUPLE":
            items = self._marked()
            self.stack.append(self._tuple(items))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._marked()
            if isinstance(self.stack[-1], _List):
                self.stack[-1].items += items
        elif name == "SETITEMS":
            self._require_keys(self._marked()[::2])
        elif name == "BUILD":
            stack.pop()
        elif name == "SETITEM":
            _, key = stack.pop(), stack.pop()
            self._require_keys([key])
        elif name in ("REDUCE", "NEWOBJ"):
            given, called = stack.pop(), stack.pop()
            if isinstance(called, _Global):
                self._require_harmless(called.name, given)
            stack.append(None)
        elif name == "BINPERSID":
            self._require_room(stack[-1])
            stack[-1] = None
        else:
            return False  # torch knows no other opcode
        return True

    def _marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def _require_harmless(self, name: str, given: Any) -> None:
        if name in _REFUSED:
            raise _Refused(f"holds {_REFUSED[name]}, which is not read; save plain tensors", unsafe=False)
        if name not in _HASHING:
            return
        for argument in _items(given):
            elements = _items(argument)
            self._require_keys(
                [k for e in elements for k in _items(e)[:1]] if name.endswith("OrderedDict") else elements
            )

    def _tuple(self, items: list[Any]) -> _Tuple:
        inner = [item for item in items if isinstance(item, _Tuple)]
        depth = 1 + max((item.depth for item in inner), default=0)
        weight = len(items) + 1 + sum(item.weight for item in inner)
        if depth > MAX_TUPLE_DEPTH:
            raise _Refused(f"nests tuples deeper than {MAX_TUPLE_DEPTH}")
        if weight > MAX_SHARED + self.steps:  # more than there are opcodes: they hold each other many times
            raise _Refused(f"nests tuples of {weight:,} elements in {self.steps:,} opcodes")
        return _Tuple(tuple(items), depth, weight)

    @staticmethod
    def _require_keys(keys: list[Any]) -> None:
        """Keys are hashed: what takes long to hash, or collides at will, is none."""
        for key in keys:
            if isinstance(key, _Tuple) and key.weight > MAX_SHARED:
                raise _Refused(f"holds a key of {key.weight:,} elements")

    def _require_room(self, saved: Any) -> None:
        """A storage must be as large as it says: torch reads past the end of one that is not."""
        items = saved.items if isinstance(saved, _Tuple) else ()
        if len(items) not in (5, 6) or not isinstance(items[1], _Global):
            raise _Refused("names a storage in a way that torch.save does not", unsafe=False)
        kind = items[1].name.rpartition(".")[2].removesuffix("Storage")
        key, count = items[2], items[4]
        if not isinstance(key, str | bytes | int) or not isinstance(count, int) or kind not in _STORAGE_BYTES:
            raise _Refused("names a storage in a way that torch.save does not", unsafe=False)
        text = key.decode("latin-1") if isinstance(key, bytes) else str(key)
        claimed, stored = count * _STORAGE_BYTES[kind], self.room(text)
        if count < 0 or claimed > stored:
            raise _Refused(f"says that storage {text[:40]!r} has {claimed:,} bytes, and {stored:,} are there")


def _items(value: Any) -> list[Any]:
    return list(value.items) if isinstance(value, _Tuple | _List) else []

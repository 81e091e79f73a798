"""The pickle inside a PyTorch checkpoint, read without running any of it.

A pickle is a program that may call anything. This reader walks its instructions with the standard
library's disassembler and understands only what a dictionary of tensors needs: containers, text,
numbers, `_rebuild_tensor_v2`, storage types and OrderedDict. Everything else is refused by name,
and nothing is ever called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_REBUILD = "torch._utils _rebuild_tensor_v2"
_ORDERED_DICT = "collections OrderedDict"
STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_DIMENSIONS_LIMIT = 8


class RefusedPickleError(ValueError):
    """The pickle holds something other than a dictionary of tensors; the text says what."""


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as the pickle describes it: a window into a storage; sizes in elements."""

    storage: str
    dtype: str
    storage_size: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    name: str  # "module name"


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    size: int


class _Mark:
    pass


def read_tensor_records(pickle: bytes) -> dict[str, TensorRecord]:
    """The tensors that ``pickle`` describes, by name. Raises RefusedPickleError."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            machine.step(opcode.name, argument)
    except RefusedPickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise RefusedPickleError(f"is damaged ({error or type(error).__name__})") from error
    return machine.tensors()


class _Machine:
    """The stack and memo of a pickle in progress."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Perform one instruction."""
        if name in _IGNORED:
            return
        if name in _PUSH_ARGUMENT:
            self._stack.append(argument)
        elif name in _PUSH_VALUE:
            self._stack.append(_PUSH_VALUE[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise RefusedPickleError(f"uses the instruction {name}, which tensors do not need")

    def tensors(self) -> dict[str, TensorRecord]:
        """What is left at the end, which must be a dictionary of tensors by name."""
        result = self._stack[-1] if self._stack else None
        if not isinstance(result, dict):
            raise RefusedPickleError(f"holds {_describe(result)}, not a dictionary of tensors")
        for key, value in result.items():
            if not isinstance(value, TensorRecord):
                raise RefusedPickleError(f"holds {_describe(value)} as {key[:80]!r}")
        return result

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[index], _Mark):
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise RefusedPickleError("is damaged (no mark)")

    def pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise RefusedPickleError("is damaged (empty stack)")
        values = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return values

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def global_from_stack(self) -> None:
        module, name = self.pop(2)
        self.push(_global(f"{module} {name}"))

    def set_items(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise RefusedPickleError(f"sets items of {_describe(target)}")
        # Checked before use as a key: hashing nested tuples could take for ever.
        for key in pairs[::2]:
            if not isinstance(key, str):
                raise RefusedPickleError(f"names an item by {_describe(key)}")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise RefusedPickleError(f"appends to {_describe(target)}")
        target.extend(values)

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        if function == _Global(_ORDERED_DICT) and arguments == ():
            self.push({})
        elif function == _Global(_REBUILD) and isinstance(arguments, tuple):
            self.push(_tensor(arguments))
        else:
            raise RefusedPickleError(f"calls {_describe(function)}")

    def build(self) -> None:
        # The state of an OrderedDict is its _metadata (versions of modules): of no use here.
        self.pop(1)
        if not isinstance(self._stack[-1], dict):
            raise RefusedPickleError(f"sets the state of {_describe(self._stack[-1])}")

    def persistent(self) -> None:
        (reference,) = self.pop(1)
        kind, storage, key, _, size = reference
        if kind != "storage" or not isinstance(storage, _Global) or not isinstance(key, str):
            raise RefusedPickleError(f"refers to {_describe(kind)}, not to a storage")
        self.push(_Storage(key, _storage_dtype(storage), _size(size)))


_IGNORED = {"PROTO", "FRAME", "STOP"}
_PUSH_ARGUMENT = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
    *("BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_PUSH_VALUE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.memoize(),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "GLOBAL": lambda machine, name: machine.push(_global(name)),
    "STACK_GLOBAL": lambda machine, _: machine.global_from_stack(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}


def _global(name: str) -> _Global:
    module, _, attribute = name.partition(" ")
    known = name in (_REBUILD, _ORDERED_DICT) or (module == "torch" and attribute in STORAGE_DTYPES)
    if not known:
        raise RefusedPickleError(f"refers to {module}.{attribute}"[:200])
    return _Global(name)


def _storage_dtype(storage: _Global) -> str:
    module, _, attribute = storage.name.partition(" ")
    if module != "torch":
        raise RefusedPickleError(f"stores numbers as {storage.name}")
    return STORAGE_DTYPES[attribute]


def _tensor(arguments: tuple[Any, ...]) -> TensorRecord:
    """From the arguments of `_rebuild_tensor_v2`: storage, offset, shape, stride, and hooks."""
    storage, offset, shape, stride = arguments[:4]
    if (
        not isinstance(storage, _Storage)
        or not isinstance(shape, tuple)
        or not isinstance(stride, tuple)
    ):
        raise RefusedPickleError("builds a tensor from something other than a storage")
    if len(shape) != len(stride) or len(shape) > _DIMENSIONS_LIMIT:
        raise RefusedPickleError(f"has a tensor of {len(shape)} sizes and {len(stride)} strides")
    record = TensorRecord(
        storage=storage.key,
        dtype=storage.dtype,
        storage_size=storage.size,
        offset=_size(offset),
        shape=tuple(map(_size, shape)),
        stride=tuple(map(_size, stride)),
    )
    last = sum((size - 1) * step for size, step in zip(record.shape, record.stride, strict=True))
    if 0 not in record.shape and record.offset + last >= record.storage_size:
        raise RefusedPickleError("has a tensor that reaches beyond its storage")
    return record


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise RefusedPickleError(f"has {_describe(value)} where a size belongs")
    return value


def _describe(value: Any) -> str:
    if isinstance(value, _Global):
        return value.name.replace(" ", ".")
    if isinstance(value, (int, str)):
        return repr(value)[:80]
    return f"a {type(value).__name__.strip('_')}"

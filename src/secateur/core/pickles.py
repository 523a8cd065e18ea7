"""Pickles read without the unpickler: plain values, and the few functions that the caller names.

A pickle is a program. The standard unpickler runs it, with all its operations, and a table of what it may not call is
looked for gaps for ever; ten bytes make it ask for gigabytes. This reader knows the operations that plain data need,
counts them, and calls nothing but what it was handed.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["Calls", "Source", "UnsafePickle", "read_pickle"]


class Source(Protocol):
    """What a pickle is read from."""

    def read(self, count: int, /) -> bytes:
        """At most so many bytes."""
        ...

    def readline(self) -> bytes:
        """Bytes up to the end of a line."""
        ...

    def tell(self) -> int:
        """The place of the next byte."""
        ...


Calls = Mapping[tuple[str, str], Callable[..., Any]]
"""By module and name: what stands for a function or class of that name."""

_MOST = 1_000_000  # operations; CIFAR-100's training images, written by Python 3, take 500,000
_MARK = object()


class UnsafePickle(Exception):
    """A pickle that asks for more than it was allowed; says what for."""


def read_pickle(
    file: Source, calls: Calls, *, persistent: Callable[[Any], Any] | None = None, bytes_texts: bool = False
) -> Any:
    """Reads one pickle and leaves ``file`` behind it.

    Args:
        file: Where the pickle starts.
        calls: What it may name; everything else is refused.
        persistent: What stands for objects that lie outside of the pickle, by their identification.
        bytes_texts: Give the byte strings of Python 2 as bytes.

    Raises:
        UnsafePickle: It names something else, or has an operation that plain data do not need.
        Exception: Damaged pickles trip over anything.

    >>> import io, pickle
    >>> read_pickle(io.BytesIO(pickle.dumps({"a": [1, (2.0, None)]})), {})
    {'a': [1, (2.0, None)]}
    """
    machine = _Machine(calls, persistent, bytes_texts)
    for number, (operation, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if number >= _MOST:
            raise UnsafePickle(f"more than {_MOST:,} operations")
        machine.do(operation.name, argument)
    (found,) = machine.stack
    return found


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, calls: Calls, persistent: Callable[[Any], Any] | None, bytes_texts: bool) -> None:
        self.calls, self.persistent, self.bytes_texts = calls, persistent, bytes_texts
        self.allowed = set(map(id, calls.values()))
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """One operation."""
        operation = _OPERATIONS.get(name)
        if operation is None:
            raise UnsafePickle(f"the operation {name}, which plain data do not need")
        operation(self, argument)

    def nothing(self, _: Any) -> None:
        """What says something of the pickle alone."""

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def old_text(self, text: str) -> None:
        self.stack.append(text.encode("latin1") if self.bytes_texts else text)

    def put(self, place: Any) -> None:
        self.memo[int(place)] = self.stack[-1]

    def get(self, place: Any) -> None:
        self.stack.append(self.memo[int(place)])

    def _marked(self) -> list[Any]:
        """What lies above the last mark, which goes too."""
        at = next(i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is _MARK)
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._marked()

    def take(self, count: int | None) -> None:
        """A tuple of the last ``count`` values, or of those above the mark."""
        found = self._marked() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(found))

    def mark_list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def mark_dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self._set(items)

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        self._extend([value])

    def appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise UnsafePickle(f"entries for a {type(target).__name__}")
        target.extend(values)

    def setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def setitems(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise UnsafePickle(f"keys for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _KEYS:  # the hash of nested tuples is a recursion in C
                raise UnsafePickle(f"a {type(key).__name__} for a key")
            target[key] = value

    def name(self, argument: str | None) -> None:
        """A function or class, by module and name."""
        if argument is None:
            leaf, home = self.stack.pop(), self.stack.pop()
        else:
            home, _, leaf = argument.partition(" ")
        found = self.calls.get((home, leaf)) if isinstance(home, str) and isinstance(leaf, str) else None
        if found is None:
            raise UnsafePickle(f"{str(home)[:80]}.{str(leaf)[:80]}")
        self.stack.append(found)

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if id(function) not in self.allowed or not isinstance(arguments, tuple):
            raise UnsafePickle(f"a call of a {type(function).__name__}")
        self.stack.append(function(*arguments))

    def build(self, _: Any) -> None:
        """State for the last value: what stands for an object may take it; a dict's attributes are left out."""
        state, target = self.stack.pop(), self.stack[-1]
        take = getattr(type(target), "take_state", None)
        if take is not None:
            take(target, state)
        elif type(target) is not dict:
            raise UnsafePickle(f"attributes for a {type(target).__name__}")

    def outside(self, _: Any) -> None:
        if self.persistent is None:
            raise UnsafePickle("an object outside of it")
        self.stack.append(self.persistent(self.stack.pop()))


_KEYS = (str, bytes, int, float, bool, type(None))

_VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
           "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8")  # fmt: skip
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.nothing),
    **dict.fromkeys(_VALUES, _Machine.push),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.old_text),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "MARK": lambda machine, _: machine.push(_MARK),
    "MEMOIZE": _Machine.memoize,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "TUPLE": _Machine.take,
    "TUPLE1": lambda machine, _: machine.take(1),
    "TUPLE2": lambda machine, _: machine.take(2),
    "TUPLE3": lambda machine, _: machine.take(3),
    "LIST": _Machine.mark_list,
    "DICT": _Machine.mark_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.outside,
}

"""What a value has to be to pass for an annotation, and annotations in words."""

from __future__ import annotations

import math
import numbers
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
from torch import Tensor, nn

__all__ = ["NO", "HoldsNetwork", "accepted", "in_words", "members"]

NO: Any = object()
"""What :func:`accepted` gives for a value that does not fit."""

_LONGEST = 2**63
"""Whole numbers go on to PyTorch and NumPy, whose largest is one less."""

_MOST_NAME_BYTES = 255


class HoldsNetwork:
    """A result that holds a network, and stands for it wherever a function asks for a network alone.

    Attributes:
        model: The network.
    """

    model: nn.Module


def accepted(value: Any, hint: Any) -> Any:
    """The value as the function gets it: numbers as plain ones, all else as it is; :data:`NO` where it does not fit.

    >>> accepted(np.float32(0.5), float), accepted(3, int | str), accepted("x", Iterable[str])
    (0.5, 3, 'x')
    >>> accepted(True, float) is NO, accepted(float("nan"), float) is NO, accepted(b"x", str | Path) is NO
    (True, True, True)
    """
    options = members(hint)  # in their order, which equality of unions does not know
    return (_reader(hint) if len(options) == 1 else _alternatives(options))(value)


@cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """What :func:`accepted` does for one annotation; taken apart once, for plans hold thousands of values."""
    if hint is Any or isinstance(hint, TypeVar):
        return lambda value: value
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: value if isinstance(value, str) and value in parts else NO
    if origin in _GENERIC:
        read = _GENERIC[origin]
        return lambda value: _path(value) if isinstance(value, str) and origin is os.PathLike else read(value, parts)
    if hint in _PLAIN:
        return _PLAIN[hint]
    return partial(_instance, origin or hint)


@cache
def _alternatives(options: tuple[Any, ...]) -> Callable[[Any], Any]:
    paths = Path in map(_kind, options)

    def read(value: Any) -> Any:
        if paths and isinstance(value, str):
            return _path(value)
        fits = [found for option in options if (found := accepted(value, option)) is not NO]
        return next((found for found in fits if found is value), fits[0] if fits else NO)

    return read


def _instance(kind: Any, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return _path(value)
    if kind is nn.Module and isinstance(value, HoldsNetwork):
        return value.model
    if not isinstance(value, kind):
        return NO
    return _path(value) if isinstance(value, os.PathLike) else value


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; the annotation itself where there is but one."""
    return get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)


def _kind(hint: Any) -> Any:
    """``Path`` for whatever stands for one."""
    return Path if get_origin(hint) is os.PathLike or hint is Path else hint


# -------------------------------------------------------------------------------------------------- plain ones


def _float(value: Any) -> Any:
    if type(value) not in (float, int) and not _real(value):
        return NO
    try:
        number = float(value)
    except (OverflowError, ValueError, TypeError):  # a whole number beyond all floats, a signalling NaN
        return NO
    if not math.isfinite(number):
        return NO
    return value if type(value) in (float, int) else number


def _real(value: Any) -> bool:
    """Whether another library or module calls it a real number."""
    return _single(value) or (isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, bool))


def _int(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)) or not (_single(value) or isinstance(value, numbers.Integral)):
        return NO
    try:
        number = value.item() if isinstance(value, (Tensor, np.ndarray)) else int(value)
    except (OverflowError, ValueError):
        return NO
    return number if isinstance(number, int) and -_LONGEST <= number < _LONGEST else NO


def _single(value: Any) -> bool:
    """Whether it is a real number in a tensor or array without dimensions, which has a value."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and "bool" not in str(value.dtype) and not value.is_complex() and not value.is_meta
    return isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf"


def _bool(value: Any) -> Any:
    return bool(value) if isinstance(value, (bool, np.bool_)) else NO


def _str(value: Any) -> Any:
    return value if isinstance(value, str) and "\0" not in value else NO


def _path(value: Any) -> Any:
    """A path that an operating system takes: it has an end, and no part of it is too long."""
    text = os.fspath(value)
    sound = isinstance(text, str) and "\0" not in text
    return value if sound and all(len(os.fsencode(p)) <= _MOST_NAME_BYTES for p in PurePath(text).parts) else NO


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    float: _float,
    int: _int,
    bool: _bool,
    str: _str,
    type(None): lambda value: None if value is None else NO,
}


# -------------------------------------------------------------------------------------------------- with parts


def _iterable(value: Any, items: tuple[Any, ...]) -> Any:
    """Elements are looked at where that takes nothing away; an iterator's are not."""
    if isinstance(value, (bytes, bytearray)) or not isinstance(value, Iterable):
        return NO
    if items in ((), (Any,)) or isinstance(value, Iterator):
        return NO if isinstance(value, str) and items != (str,) else value
    if isinstance(value, str):  # one name
        return _str(value) if items == (str,) else NO
    if isinstance(value, (Mapping, Tensor, np.ndarray)):  # what the names stand for would be lost in silence
        return NO
    return _elements(value, items[0], type(value) is tuple) if not isinstance(value, nn.Module) else NO


def _sequence(value: Any, items: tuple[Any, ...]) -> Any:
    if isinstance(value, (np.ndarray, Tensor)):
        value = value.tolist() if value.ndim == 1 else NO
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        return NO
    return _elements(value, items[0], isinstance(value, tuple))


def _tuple(value: Any, items: tuple[Any, ...]) -> Any:
    """A list passes for a tuple."""
    if not isinstance(value, (tuple, list)):
        return NO
    if len(items) == 2 and items[1] is ...:
        return _elements(value, items[0], True)
    if len(items) != len(value):
        return NO
    found = tuple(accepted(v, hint) for v, hint in zip(value, items, strict=True))
    return NO if any(v is NO for v in found) else found


def _elements(value: Iterable[Any], hint: Any, as_tuple: bool) -> Any:
    if hint is Any:
        return tuple(value) if as_tuple and not isinstance(value, tuple) else value
    if hint is int and isinstance(value, (tuple, list)) and _plain_numbers(value):  # plans hold many thousands
        return (value if isinstance(value, tuple) else tuple(value)) if as_tuple else list(value)
    found = [accepted(item, hint) for item in value]
    if any(item is NO for item in found):
        return NO
    return tuple(found) if as_tuple else found


def _plain_numbers(value: Sequence[Any]) -> bool:
    """Whether all are Python's own whole numbers of a usual size: what most sequences hold."""
    return set(map(type, value)) == {int} and min(value) >= -_LONGEST and max(value) < _LONGEST


def _mapping(value: Any, items: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        return NO
    key, item = items
    found = {accepted(k, key): accepted(v, item) for k, v in value.items()}
    if any(k is NO or v is NO for k, v in found.items()):
        return NO
    changed = any(a is not b for a, b in zip(found.values(), value.values(), strict=True))
    return found if changed else value


def _callable(value: Any, _: tuple[Any, ...]) -> Any:
    return value if callable(value) else NO


def _pathlike(value: Any, _: tuple[Any, ...]) -> Any:
    return _path(value) if isinstance(value, os.PathLike) else NO


_GENERIC: dict[Any, Callable[[Any, tuple[Any, ...]], Any]] = {
    Iterable: _iterable,
    Sequence: _sequence,
    tuple: _tuple,
    list: _sequence,
    Mapping: _mapping,
    dict: _mapping,
    Callable: _callable,
    os.PathLike: _pathlike,
}


# ---------------------------------------------------------------------------------------------------- in words

_WORDS = {float: "a finite number", int: "a whole number", bool: "True or False", str: "a string",
          type(None): "None", Tensor: "a tensor", nn.Module: "a torch.nn.Module",
          Path: "a path"}  # fmt: skip
_MANY = {float: "finite numbers", int: "whole numbers", str: "strings", Tensor: "tensors",
         nn.Module: "torch.nn.Modules", bool: "True and False"}  # fmt: skip


def in_words(hint: Any) -> str:
    """An annotation as a sentence says it.

    >>> in_words(float | None), in_words(str | Path), in_words(Iterable[str] | None)
    ('a finite number or None', 'a path', 'an iterable of strings or None')
    """
    words = list(dict.fromkeys(map(_word, members(hint))))
    if "a path" in words and "a string" in words:  # a path may be given as one
        words.remove("a string")
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _word(hint: Any) -> str:
    if hint in _WORDS:
        return _WORDS[hint]
    origin, items = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, items))
    make = _NAMES.get(origin)
    if make is not None:
        return make(items)
    name = getattr(hint, "__name__", str(hint))
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def _of(what: str, items: tuple[Any, ...]) -> str:
    return what if not items or items[0] is Any else f"{what} of {_plural(items[0])}"


def _plural(hint: Any) -> str:
    return _MANY.get(hint) or str(getattr(hint, "__name__", in_words(hint)))


def _dict(items: tuple[Any, ...]) -> str:
    key, value = items
    return f"a dict from {_plural(key)} to {'anything' if value is Any else _plural(value)}"


_NAMES: dict[Any, Callable[[tuple[Any, ...]], str]] = {
    Iterable: partial(_of, "an iterable"),
    Sequence: partial(_of, "a list"),
    list: partial(_of, "a list"),
    tuple: partial(_of, "a tuple"),
    Mapping: _dict,
    dict: _dict,
    Callable: lambda _: "a function",
    os.PathLike: lambda _: "a path",
}

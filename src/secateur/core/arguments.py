"""Arguments of public functions, held against the functions' own annotations when they are called."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast, get_type_hints

import torch

from secateur.core.errors import InputError, nearest
from secateur.core.hints import NO, accepted, in_words
from secateur.core.instead import advice, shown

__all__ = ["checked"]

F = TypeVar("F", bound=Callable[..., Any])

_MOST_NAMES = 1_000_000
"""A generator of names that does not end would otherwise fill the memory."""


def checked(function: F) -> F:
    """Checks the arguments of every call against the annotations, and says in one sentence what does not fit.

    Numbers of other libraries (NumPy's, a tensor of one element without dimensions) come in as plain ``int`` and
    ``float``; a ``bool`` is no number, nor are NaN and infinity. Iterators are not consumed: their elements are
    checked as they are asked for. Put on a dataclass, it checks what the class is called with.

    Args:
        function: With annotations; parameters without any are not looked at.

    Raises:
        InputError: From the function's calls: an argument of another type, a missing or an unknown one.

    >>> @checked
    ... def half(value: float, *, names: Iterable[str] = ()) -> float:
    ...     return value / 2
    >>> half("1")
    Traceback (most recent call last):
    secateur.core.errors.InputError: half(value=…): value is a finite number; got '1' (str). Give the number itself: 1.
    >>> half(1, name="x")
    Traceback (most recent call last):
    secateur.core.errors.InputError: half(): got an unexpected keyword argument 'name'. Did you mean 'names'?
    """
    if isinstance(function, type):
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return cast(F, function)
    title = _title(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        signature, hints = _annotated(function)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(_misfit(title, signature, str(error), kwargs)) from None
        for name, value in bound.arguments.items():
            if name in hints and signature.parameters[name].kind not in _VARIADIC:
                bound.arguments[name] = _checked(title, name, value, hints[name])
        with torch.inference_mode(mode=False):  # tensors that are made in inference mode can never be trained
            return function(*bound.args, **bound.kwargs)

    return cast(F, wrapper)


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@functools.cache
def _annotated(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature and the annotations; read at the first call, when what they name is there."""
    hints = get_type_hints(function)
    hints.pop("return", None)
    return inspect.signature(function), hints


def _title(function: Callable[..., Any]) -> str:
    """What users call it: ``prune``, ``Plan.from_json``, ``Target`` for its ``__init__``."""
    name = function.__qualname__.rpartition("<locals>.")[2]
    return name.removesuffix(".__init__")


def _misfit(title: str, signature: inspect.Signature, error: str, given: Mapping[str, Any]) -> str:
    """Words for a missing, a surplus or an unknown argument."""
    known = [n for n, p in signature.parameters.items() if n != "self" and p.kind not in _VARIADIC]
    unknown = [name for name in given if name not in known]
    close = nearest(unknown[0], known) if unknown else []
    offer = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"It takes: {', '.join(known) or 'nothing'}."
    return f"{title}(): {error}. {offer}"


def _checked(title: str, name: str, value: Any, hint: Any) -> Any:
    taken = accepted(value, hint)
    where = f"{title}({name}=…)"
    if taken is NO:
        raise InputError(_refusal(where, name, value, hint))
    if isinstance(taken, Iterator) and (item := _item(hint)) is not None:
        return _lazily(where, name, taken, item)
    return taken


def _refusal(where: str, name: str, value: Any, hint: Any) -> str:
    more = advice(name, value, hint)
    return f"{where}: {name} is {in_words(hint)}; got {shown(value)}.{' ' + more if more else ''}"


def _item(hint: Any) -> Any:
    """What the elements of an iterable are; ``None`` where nothing is said of them."""
    options = hint.__args__ if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if getattr(option, "__origin__", None) is Iterable:
            (item,) = option.__args__
            return None if item is Any else item
    return None


def _lazily(where: str, name: str, items: Iterator[Any], hint: Any) -> Iterator[Any]:
    """Checks the elements of an iterator as they are asked for."""
    for number, value in enumerate(items):
        if number >= _MOST_NAMES:
            raise InputError(f"{where}: {name} gave more than {_MOST_NAMES:,} elements; give an iterable that ends.")
        taken = accepted(value, hint)
        if taken is NO:
            raise InputError(f"{where}: the elements of {name} are {in_words(hint)} each; got {shown(value)}.")
        yield taken

"""How a graph is called: as the network that it was traced from, with the arguments that it was traced with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, UnknownNameError

__all__ = ["KINDS", "REQUIRED", "Argument", "Call", "argument_names", "call_like", "in_order"]

REQUIRED = ...
"""In the place of a default: there is none."""

KINDS = {"positional": Parameter.POSITIONAL_ONLY, "either": Parameter.POSITIONAL_OR_KEYWORD,
         "keyword": Parameter.KEYWORD_ONLY}  # fmt: skip


@dataclass(frozen=True)
class Argument:
    """An argument of a network's forward.

    Attributes:
        name: Its name.
        kind: How it may be given: ``positional``, ``keyword`` or ``either``.
        taken: Whether the graph takes it; otherwise it had its default when the network was traced, and keeps it.
        default: What it is where it is not given; :data:`REQUIRED` where it has to be.
    """

    name: str
    kind: str
    taken: bool
    default: Any = REQUIRED


@dataclass(frozen=True)
class Call:
    """The arguments of a network's forward, and in which order the graph takes those that it takes.

    Attributes:
        arguments: In the order of the network's forward.
        order: Names of those that the graph takes, as it takes them.
    """

    arguments: tuple[Argument, ...]
    order: tuple[str, ...]

    def values(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """What the graph is called with.

        Raises:
            InputError: An argument is missing, is there twice, or has another value than when the graph was traced.
            UnknownNameError: There is no such argument.
        """
        places = [a.name for a in self.arguments if a.kind != "keyword"]
        if len(args) > len(places):
            raise InputError(f"This network takes {len(places)} positional arguments ({', '.join(places)}); got "
                             f"{len(args)}.")  # fmt: skip
        found = dict(zip(places, args, strict=False))
        for name, value in kwargs.items():
            if name in found:
                raise InputError(f"The argument {name} is given twice, by its place and by its name.")
            found[name] = value
        for argument in self.arguments:
            self._settle(argument, found)
        if len(found) > len(self.order):
            wrong = next(name for name in found if name not in self.order)
            raise UnknownNameError("argument", wrong, [a.name for a in self.arguments])
        return [found[name] for name in self.order]

    def _settle(self, argument: Argument, found: dict[str, Any]) -> None:
        """Fills in a default; an argument that the graph does not take must have it."""
        name, default = argument.name, argument.default
        if argument.taken:
            if name not in found:
                if default is REQUIRED:
                    raise InputError(f"The argument {name} is missing: this network is a graph that was traced with "
                                     "it.")  # fmt: skip
                found[name] = default
        elif name in found:
            got = found.pop(name)
            if got is not default and not (type(got) is type(default) and isinstance(got, _PLAIN) and got == default):
                what = f"its default {default!r}" if default is not REQUIRED else "its default"
                raise InputError(
                    f"This network is a graph that was traced with {name} at {what}, fixed in it; got {_brief(got)}. "
                    f"Prune with {name} among example_inputs, or take backend='module'."
                )

    @property
    def signature(self) -> inspect.Signature:
        """With the network's own names and defaults, for whoever looks at it; ``self`` comes first."""
        parameters, optional = [Parameter("self", Parameter.POSITIONAL_ONLY)], False
        either = False
        for a in self.arguments:
            default = Parameter.empty if a.default is REQUIRED and a.taken else a.default
            if a.kind != "keyword":
                either = either or a.kind == "either"
                optional = optional or default is not Parameter.empty
                default = REQUIRED if optional and default is Parameter.empty else default
            kind = KINDS["either"] if a.kind == "positional" and either else KINDS[a.kind]
            parameters.append(Parameter(a.name, kind, default=default))
        return inspect.Signature(parameters)


_PLAIN = (bool, int, float, str)


def _brief(value: Any) -> str:
    return f"a tensor of size {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:60]


def argument_names(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """A name for every positional argument, and those of the keyword arguments."""
    try:
        bound = inspect.signature(forward).bind_partial(*args).arguments
        names = list(_positional(inspect.signature(forward), bound))
    except (TypeError, ValueError):
        names = []
    known = names if len(names) == len(args) and len({*names, *kwargs}) == len(args) + len(kwargs) else None
    return [*(known or [f"arg_{i}" for i in range(len(args))]), *kwargs]


def _positional(signature: inspect.Signature, bound: Mapping[str, Any]) -> Iterator[str]:
    for name, value in bound.items():
        several = signature.parameters[name].kind is Parameter.VAR_POSITIONAL
        yield from (f"{name}_{i}" for i in range(len(value))) if several else (name,)


def in_order(forward: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments in the order of the forward: ``torch.export`` hands them to a graph by their places."""
    try:
        order = [name for name in inspect.signature(forward).parameters if name in kwargs]
    except (TypeError, ValueError):
        order = []
    return {name: kwargs[name] for name in (*order, *(name for name in kwargs if name not in order))}


def call_like(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """How a graph is called that was traced with these arguments; ``None`` where the forward does not say its own.

    Args:
        forward: The network's forward.
        args: Positional example inputs.
        kwargs: Keyword example inputs.
    """
    try:
        signature = inspect.signature(forward)
        bound = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return None
    found = [a for p in signature.parameters.values() for a in _arguments(p, bound)]
    order = tuple(argument_names(forward, args, kwargs))
    fits = len({a.name for a in found}) == len(found) and {a.name for a in found if a.taken} == set(order)
    return Call(tuple(found), order) if fits else None


def _arguments(parameter: Parameter, bound: Mapping[str, Any]) -> Iterator[Argument]:
    name, kind = parameter.name, parameter.kind
    if kind is Parameter.VAR_POSITIONAL:
        yield from (Argument(f"{name}_{i}", "positional", True) for i in range(len(bound.get(name, ()))))
    elif kind is Parameter.VAR_KEYWORD:
        yield from (Argument(inner, "keyword", True) for inner in bound.get(name, {}))
    else:
        word = next(word for word, own in KINDS.items() if own is kind)
        default = parameter.default if _sayable(parameter.default) else REQUIRED
        if name in bound:  # a tensor has no default: what the graph would do without it, it does not know
            tensors = any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(bound[name]))
            yield Argument(name, word, True, REQUIRED if tensors or not _sayable(bound[name]) else default)
        else:
            yield Argument(name, word, False, default)


def _sayable(value: Any) -> bool:
    """Whether a default is one that a file can say."""
    return value is None or type(value) in _PLAIN

"""Submodules by name, and what a network calls them with: for parts that are cut by themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.core.checks import run as called
from secateur.core.errors import InputError, UnknownNameError, nearest
from secateur.core.inputs import Data
from secateur.core.patterns import covered
from secateur.core.samples import Arguments
from secateur.core.types import ExampleInputs
from secateur.cut.selection import Selection, names_in
from secateur.graph.calling import to_args
from secateur.graph.calls import calls_of
from secateur.graph.copies import running_copy
from secateur.graph.outside import undisturbed

__all__ = ["Through", "as_inputs", "inputs_of", "names_inside", "parts_of"]


def parts_of(model: nn.Module, given: Selection) -> list[str]:
    """Names of the parts.

    Raises:
        InputError: A part is the whole network, another network's module, or inside another part.
        UnknownNameError: There is no such submodule.
    """
    known = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    several = [given] if isinstance(given, (str, nn.Module)) else list(given)
    names = []
    for found in (names_in(model, one, "part")[0] for one in several):  # one of a module's names will do
        if found not in known:
            raise UnknownNameError("submodule", found, known, argument="part")
        names.append(found)
    if not names:
        raise InputError("part=… names no submodule: leave it out to cut the whole network.")
    for number, name in enumerate(names):
        inside = {id(m) for m in known[name].modules()}
        other = next((n for k, n in enumerate(names) if k != number and id(known[n]) in inside), None)
        if other is not None:
            raise InputError(f"part=…: {other!r} lies inside {name!r}, which is a part as well.")
    return names


def names_inside(model: nn.Module, path: str, patterns: Iterable[str] | None) -> list[str] | None:
    """What patterns of the network's names are in a part, by the part's own names.

    >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(3, 1))
    >>> names_inside(net, "0", ["0.0", "1"]), names_inside(net, "0", ["0"])
    (['0', '0.weight', '0.bias'], ['*'])
    """
    if patterns is None:
        return None
    several = [patterns] if isinstance(patterns, str) else list(patterns)
    names = [n for n, _ in (*model.named_modules(), *model.named_parameters()) if n]
    wrong = next((p for p in several if not any(covered(n, [p]) for n in names)), None)
    if wrong is not None:
        raise UnknownNameError("module or parameter", wrong, names)
    if covered(path, several):
        return ["*"]
    return [n.removeprefix(f"{path}.") for n in names if n.startswith(f"{path}.") and covered(n, several)]


def inputs_of(model: nn.Module, inputs: ExampleInputs, paths: Sequence[str]) -> dict[str, list[Arguments]]:
    """What the parts are called with in the network.

    Raises:
        InputError: The network does not run, or does not call a part.
    """
    twin, (args, kwargs) = running_copy(model).eval(), to_args(inputs)
    try:
        with undisturbed(model):
            calls = calls_of(twin, paths, args, kwargs)
    except Exception:  # said in one sentence
        called(running_copy(model).eval(), inputs)
        raise
    for path in paths:
        if not calls[path]:
            raise InputError(_never_called(model, inputs, path))
    return calls


def _never_called(model: nn.Module, inputs: ExampleInputs, path: str) -> str:
    every = [name for name, _ in model.named_modules() if name]
    found = calls_of(running_copy(model).eval(), every, *to_args(inputs))
    inside = [n for n in every if found[n] and n.startswith(f"{path}.")]
    offer = inside[:3] or nearest(path, [n for n in every if found[n]])
    return (
        f"The part {path!r} is never called with these inputs: the network does not use it, or calls a method of it "
        f"other than forward. Modules that are called: {', '.join(map(repr, offer)) or 'none'}."
    )


def as_inputs(part: nn.Module, path: str, call: Arguments) -> ExampleInputs:
    """A call in the form of example inputs: keywords where there are some.

    Raises:
        InputError: It has both keywords and any number of positional inputs.
    """
    args, kwargs = call
    if not kwargs:
        return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else tuple(args)
    bound = inspect.signature(part.forward).bind(*args, **kwargs)
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise InputError(f"The part {path!r} is called with keywords and with *{name}: choose one inside it.")
        found |= dict(value) if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found


class Through:
    """Calibration data of a part: what it is called with while the network sees the data, batch by batch."""

    def __init__(self, model: nn.Module, path: str, data: Data) -> None:
        """Nothing is run yet.

        Args:
            model: The dense network.
            path: Name of the part.
            data: An iterable of batches, each what the network is called with or a pair of that and labels; or one
                batch as a tensor or a dict.
        """
        self._model, self._path, self._data = model, path, data

    def __iter__(self) -> Iterator[ExampleInputs]:
        """Runs the network on one batch after the other."""
        data: Iterable[Any] = [self._data] if isinstance(self._data, (Tensor, Mapping)) else self._data
        for batch in data:
            labelled = isinstance(batch, (tuple, list)) and len(batch) == 2
            inputs = batch[0] if labelled else tuple(batch) if isinstance(batch, list) else batch
            for call in inputs_of(self._model, inputs, [self._path])[self._path]:
                yield as_inputs(self._model.get_submodule(self._path), self._path, call)

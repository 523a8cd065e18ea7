"""What sizes a graph is good for: another number is never returned in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule

from secateur.core.errors import InputError
from secateur.graph.numbers import COMPARISONS

__all__ = ["GUARD", "TRAIN_GUARD", "SizeGuard", "Sizes", "guarded", "is_free", "require"]

Size = int | tuple[int, str]
"""A fixed size, or (step, name): a multiple of ``step`` that is the same × ``step`` wherever ``name`` stands."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs that a graph was traced for.

    Attributes:
        names: Names of the inputs, in the order in which the graph takes them.
        shapes: Shape of every input that is a tensor; ``None`` for others.
        values: Value of every input that is no tensor and was fixed; ``None`` for tensors.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[Size, ...] | None, ...]
    values: tuple[Any, ...]

    @classmethod
    def of(cls, program: ExportedProgram) -> Sizes:
        """Reads them off an exported program."""
        places = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
        shapes: list[tuple[Size, ...] | None] = []
        values: list[Any] = []
        names: list[str] = []
        for spec in program.graph_signature.input_specs:
            if spec.kind is not InputKind.USER_INPUT:
                continue
            value = getattr(spec.arg, "value", None)
            value = places[spec.arg.name].meta.get("val") if value is None else value
            tensor = isinstance(value, Tensor)
            names.append(spec.arg.name)
            shapes.append(tuple(map(_size, value.shape)) if tensor else None)
            values.append(value if not tensor and isinstance(value, (int, float, bool, str)) else None)
        return cls(tuple(names), tuple(shapes), tuple(values))

    def check(self, inputs: Sequence[Any]) -> None:
        """Compares the inputs of a call with what was traced.

        Raises:
            InputError: A size that the graph was not traced for; names the input, the dimension and both sizes.
        """
        known: dict[str, int] = {}
        for name, shape, value, got in zip(self.names, self.shapes, self.values, inputs, strict=False):
            if shape is not None and isinstance(got, Tensor):
                self._check_shape(name, shape, got, known)
            elif shape is not None:
                raise InputError(
                    f"This network is a graph that was traced with a tensor for {name}; got {str(got)[:60]}. Prune "
                    "without it among example_inputs, or take backend='module'."
                )
            elif isinstance(got, Tensor) or (value is not None and not isinstance(got, torch.SymInt) and got != value):
                words = f"a tensor of size {tuple(got.shape)}" if isinstance(got, Tensor) else repr(got)
                raise InputError(
                    f"This network is a graph that was traced with {name}={value!r}, fixed in it; got {words}. "
                    "Trace and prune with that value, or take backend='module'."
                )

    def _check_shape(self, name: str, shape: tuple[Size, ...], got: Tensor, known: dict[str, int]) -> None:
        fits = len(shape) == got.ndim and all(_fits(w, g, known) for w, g in zip(shape, got.shape, strict=True))
        if not fits:
            wanted = ", ".join(map(_word, shape))
            odd = next((f"dimension {d} is {g}" for d, (w, g) in enumerate(zip(shape, got.shape, strict=False))
                        if not _fits(w, g, dict(known))), f"it has {got.ndim} dimensions")  # fmt: skip
            raise InputError(
                f"This network is a graph that was traced for {name} of size ({wanted}); got {tuple(got.shape)}: "
                f"{odd}. "
                "At another size a traced graph can be wrong. Prune with inputs of that size, or take "
                "backend='module', whose code takes what the dense network takes."
            )


class SizeGuard(nn.Module):
    """Checks the inputs of a graph; it computes nothing."""

    _is_impure = True  # or else it would be taken out as dead code

    def __init__(self, sizes: Sizes) -> None:
        """``sizes`` are those that the graph was traced for."""
        super().__init__()
        self.sizes = sizes

    def forward(self, *inputs: Any) -> None:
        """Raises :class:`InputError` where the sizes are others."""
        self.sizes.check(inputs)


GUARD = "_sizes"
"""Name under which a graph holds its :class:`SizeGuard`."""

TRAIN_GUARD = "_sizes_in_training"
"""And the one of train mode, where that is a graph of its own."""


def require(left: Any, comparison: str, right: Any, outcome: bool) -> None:
    """Raises :class:`InputError` where a comparison of sizes has another outcome than when the graph was traced."""
    if isinstance(left, torch.SymInt) or isinstance(right, torch.SymInt):  # the graph is being traced again
        return
    if comparison not in COMPARISONS or not all(isinstance(v, (int, float)) for v in (left, right)):
        raise InputError(f"A comparison of sizes in this graph is damaged: {comparison!r} of {left!r} and {right!r}.")
    if COMPARISONS[comparison](left, right) is not outcome:
        raise InputError(
            f"This network is a graph, and at these sizes the network that it was traced from goes another way "
            f"({left} {_SIGNS[comparison]} {right} is {not outcome} and was {outcome}). Prune with inputs of such "
            "sizes, or take backend='module', whose code takes what the dense network takes."
        )


_SIGNS = {"lt": "<", "le": "≤", "eq": "=", "ne": "≠", "ge": "≥", "gt": ">"}

torch.fx.node.has_side_effect(require)  # or else it would be taken out as dead code


def guarded(module: GraphModule, sizes: Sizes, name: str = GUARD) -> GraphModule:
    """Makes a graph check the sizes of its inputs before anything else, in a module called ``name``; in place."""
    graph = module.graph
    places = [n for n in graph.nodes if n.op == "placeholder"]
    if not places or any(n.op == "call_module" and n.target == name for n in graph.nodes):
        return module
    module.add_module(name, SizeGuard(sizes))
    with graph.inserting_after(places[-1]):  # an exported graph has its parameters before its inputs
        graph.call_module(name, tuple(places))
    module.recompile()
    return module


def is_free(size: Any) -> bool:
    """Whether a size of a traced tensor can be another one (a symbol that was fixed on the way stays a symbol)."""
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def _size(size: Any) -> Size:
    """A fixed size, or the step of a free one (2·s is a multiple of two)."""
    if not is_free(size):
        return int(size)
    expression = size.node.expr
    symbols = sorted(expression.free_symbols, key=str)
    if len(symbols) != 1:
        return (1, str(expression))
    step = expression.coeff(symbols[0])
    plain = step * symbols[0] == expression and step.is_integer
    return (int(step), str(symbols[0])) if plain else (1, str(expression))


def _fits(wanted: Size, got: Any, known: dict[str, int]) -> bool:
    if isinstance(got, torch.SymInt):  # the graph is being traced again
        return not isinstance(wanted, int)
    if isinstance(wanted, int):
        return int(got) == wanted
    step, name = wanted
    return bool(got % step == 0 and known.setdefault(name, got // step) == got // step)


def _word(size: Size) -> str:
    if isinstance(size, int):
        return str(size)
    return "any" if size[0] == 1 else f"any multiple of {size[0]}"

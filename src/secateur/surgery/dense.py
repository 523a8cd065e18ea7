"""The dense side of the proof: what the masked dense network computes, once for all that is held up to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node

from secateur.graph.flow import sized_by_data
from secateur.graph.groups import Groups
from secateur.graph.schema import plain_name
from secateur.graph.traced import Traced
from secateur.graph.writes import own_tensor, written_names
from secateur.surgery.agreement import Called
from secateur.surgery.inputs import leaves, some_samples, tensors
from secateur.surgery.lifted import Draws, Lifted, double
from secateur.surgery.reference import CutEntries, MaskedInterpreter, OtherShape
from secateur.surgery.sharpen import Sharpening

__all__ = ["Dense", "Removed", "Wanted", "fresh_one", "named_tensors"]

Mask = NDArray[np.bool_]

Removed = Mapping[Node, Node]

LARGE = 1 << 16
"""Entries of a weight that is made in memory that others had before."""


@dataclass(frozen=True)
class Wanted:
    """What a pruned network has to compute on some inputs.

    Attributes:
        outputs: Results, in double precision.
        shapes: Name and shape after the cut of every operator that ran.
        draws: Random numbers that were drawn.
    """

    outputs: list[Tensor]
    shapes: list[Called]
    draws: Draws


class Dense:
    """The masked dense network on one way through it (forward, train mode, another method)."""

    def __init__(self, traced: Traced, groups: Groups, label_keep: Mask, removed: Removed | None = None) -> None:
        """Nothing is run yet.

        Args:
            traced: The way through it.
            groups: Groups of the dense network.
            label_keep: Which labels stay, shape (labels,).
            removed: Sums with what stands for them: the skips of removed residual branches.
        """
        self.traced, self.groups, self.label_keep, self.removed = traced, groups, label_keep, removed or {}
        self.graph = traced.module
        self.own = some_samples(traced)
        self.home = torch.device("cpu") if _without_double(self.graph) else None
        self._parameters = {n for n, _ in self.graph.named_parameters(remove_duplicate=False)}
        self._cut = CutEntries(groups, label_keep)
        self._known: dict[Any, Wanted | OtherShape] = {}
        self._memory: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @cached_property
    def written(self) -> frozenset[str]:
        """Names of the tensors that the network writes into."""
        return frozenset(written_names(self.graph))

    @cached_property
    def sharpened(self) -> dict[str, Sharpening]:
        """What every parameter and buffer becomes in the second look.

        Constants stay: the code of a network makes its own anew (``torch.tensor([0.5, 0.5, 0.5])``), and nobody trains
        them, so that entries that are alike now stay alike.
        """
        named = dict(named_tensors(self.graph))
        made: dict[int, Sharpening] = {}  # tied tensors stay tied
        for name, tensor in named.items():
            if id(tensor) not in made:
                made[id(tensor)] = Sharpening.of(name, tensor, parameter=name in self._parameters)
        return {name: made[id(tensor)] for name, tensor in named.items()}

    def retreat(self) -> None:
        """Goes on on the CPU, because the device has no memory left."""
        self.home = torch.device("cpu")
        self._known.clear()

    def wanted(self, args: Any, kwargs: Any, *, sharp: bool) -> Wanted:
        """What a pruned network has to compute on these inputs; remembered, for every back end is held up to it.

        Inputs that come from the same example inputs and have the same sizes are the same.

        Raises:
            OtherShape: An operator does not run at their size.
        """
        key = sharp, id(self.traced.sizes), *(tuple(t.shape) for t in tensors((args, kwargs)))
        if key not in self._known:
            try:
                self._known[key] = self._computed(args, kwargs, sharp=sharp)
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self._known[key] = OtherShape(f"{type(error).__name__}: {error}")
            except OtherShape as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, OtherShape):
            raise found
        return found

    def _computed(self, args: Any, kwargs: Any, *, sharp: bool) -> Wanted:
        draws, masked = Draws(), self.masked(sharp=sharp)
        masked.watch = not sharp
        try:
            return Wanted(self._cut_state(masked, run(masked, draws, args, kwargs)), masked.shapes, draws)
        finally:
            self._memory.clear()

    def _cut_state(self, masked: MaskedInterpreter, outputs: list[Tensor]) -> list[Tensor]:
        """Outputs as the pruned network gives them: what it keeps for itself has lost its removed entries."""
        if not self.traced.state:
            return outputs
        given: Any = next(n for n in self.graph.graph.nodes if n.op == "output").args[0]
        leaves = [(k, n) for k, n in enumerate(given) if isinstance(n, Node) and isinstance(n.meta.get("val"), Tensor)]
        return [
            masked.left_of(node, value) if k in self.traced.state else value
            for (k, node), value in zip(leaves, outputs, strict=True)
        ]

    def recorded(self) -> list[Called]:
        """Name and shape after the cut of every operator, at the sizes and the batch that were recorded.

        There is no shape where a size depends on the data.
        """
        nodes = [n for n in self.graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
        masked = self.masked()

        def shape(node: Node) -> tuple[int, ...] | None:
            return None if sized_by_data(node) else masked.small_shape(node, node.meta.get("val"))

        return [(plain_name(n.target), shape(n)) for n in nodes]

    def whole(self, args: Any, kwargs: Any) -> tuple[list[Tensor], Draws]:
        """Results of the traced graph as it is, with nothing cut."""
        draws = Draws()
        return run(self._interpreter({}, whole=True), draws, args, kwargs), draws

    def masked(self, *, sharp: bool = False) -> MaskedInterpreter:
        """What runs the masked network, for a look at single operators."""
        return self._interpreter(self.sharpened if sharp else {})

    def _interpreter(self, sharpening: Mapping[str, Sharpening], *, whole: bool = False) -> MaskedInterpreter:
        def value(name: str, tensor: Tensor, passing: bool = False) -> Tensor:
            tensor = tensor if self.home is None else tensor.to(self.home)
            how = sharpening.get(name)
            if passing and tensor.numel() >= LARGE and tensor.ndim > 1 and (how is None or how.noise is None):
                return self._lent(tensor, 1.0 if how is None else how.scale)
            return fresh_one(double(tensor) if how is None else how.applied(tensor), tensor)

        eager = {n: double(value(n, t)).clone() for n in self.written if (t := own_tensor(self.graph, n)) is not None}
        cut = CutEntries(self.groups, np.ones_like(self.label_keep)) if whole else self._cut
        masked = MaskedInterpreter(self.graph, cut, eager, value)
        masked.removed, masked.soft = {} if whole else self.removed, bool(sharpening)
        return masked

    def _lent(self, tensor: Tensor, scale: float) -> Tensor:
        """A large weight in double precision, in memory that the next one gets: new memory takes longer to fill."""
        kind = double(tensor.dtype)
        key = kind, tensor.device
        if key not in self._memory or self._memory[key].numel() < tensor.numel():  # a constant beside the weights
            largest = max(t.numel() for t in (tensor, *(t for _, t in named_tensors(self.graph))))
            self._memory[key] = torch.empty(largest, dtype=kind, device=tensor.device)
        lent = self._memory[key][: tensor.numel()].view(tensor.shape).copy_(tensor)
        return lent if scale == 1.0 else lent.mul_(scale)


def run(masked: MaskedInterpreter, draws: Draws, args: Any, kwargs: Any) -> list[Tensor]:
    """Outputs of the masked dense network, in double precision; what it draws is written down."""
    masked.around = Lifted(draws, masks=masked.masks, soft=masked.soft)
    with torch.inference_mode():
        return tensors(masked.run(*leaves(args, kwargs), enable_io_processing=False))


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def fresh_one(value: Tensor, source: Tensor) -> Tensor:
    """``value`` with memory of its own, made here and now (inference mode takes no views of what was made before)."""
    return value.clone() if value is source else value


def _without_double(module: nn.Module) -> bool:
    return any(t.device.type == "mps" for _, t in named_tensors(module))

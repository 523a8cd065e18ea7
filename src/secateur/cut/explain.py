"""Why a layer's channels go, with what, and why they stay."""

from __future__ import annotations

import numpy as np
import torch

from secateur.core.errors import UnknownNameError
from secateur.core.patterns import covered
from secateur.core.tables import Shown, Table
from secateur.core.types import Unsupported
from secateur.graph.flow import module_of
from secateur.graph.groups import Groups
from secateur.graph.labels import Labels, Pin, Vector
from secateur.graph.lines import line_of
from secateur.graph.reasons import MEETS, OUTPUT, change_for
from secateur.graph.solve import nearest

__all__ = ["Explanation", "explained", "reason_of"]

MOST = 8
"""Names that one line lists."""


class Explanation(Shown):
    """What goes with what; prints as a table.

    Attributes:
        rows: For every tensor: its name, which dimension, how many entries can go, and why or with what.
    """

    def __init__(self, name: str, rows: list[tuple[str, str, str, str]]) -> None:
        """``name`` is what was asked for."""
        self.name, self.rows = name, rows

    def table(self) -> Table:
        """One line for every dimension that the layer makes."""
        return Table(f"{self.name}: what its outputs are cut with", ("Tensor", "Dimension", "Can go", "Why"), self.rows,
                     words=(0, 3))  # fmt: skip


def explained(groups: Groups, name: str) -> Explanation:
    """Explains the output channels of a module (and of those inside it), or of a parameter.

    Args:
        groups: Groups of the network.
        name: A module, a parameter, or a pattern.

    Raises:
        UnknownNameError: Nothing is called so.
    """
    flow = groups.flow
    known = [n for n in flow.tensors if n in flow.parameters]
    wanted = [n for n in known if covered(n, [name])]
    if not wanted:
        raise UnknownNameError("layer", name, {*known, *(n.rpartition(".")[0] for n in known)}, argument="explain")
    rows = []
    for tensor in wanted:
        dims = {
            d: v[0] for d, v in flow.tensors[tensor].dims.items() if len(v[0]) and int(v[0][0]) not in flow.consumed
        }
        free = [d for d, vector in dims.items() if (groups.unit_of(vector) >= 0).any()]
        rows += [_row(groups, tensor, d, dims[d]) for d in free or list(dims)[:1]]
    return Explanation(name, rows)


def _row(groups: Groups, tensor: str, dim: int, vector: Vector) -> tuple[str, str, str, str]:
    units = groups.unit_of(vector)
    free = int((units >= 0).sum())
    count = f"{free:,} of {len(vector):,}"
    if not free:
        return tensor, str(dim), count, reason_of(groups, vector)
    chosen = set(units[units >= 0].tolist())
    group = [g for g in groups.items if chosen & set(g.units.tolist())]
    members = dict.fromkeys(m.parameter for g in group for m in g.members if m.parameter != tensor)
    why = f"with {_listed(list(members))}" if members else "alone"
    passes = _operators(groups, units)
    return tensor, str(dim), count, why + (f", through {_listed(passes)}" if passes else "")


_ELSE = "it is tied to something that stays (an input, what ignore and only keep)"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _operators(groups: Groups, units: Vector) -> list[str]:
    """Operators that the channels pass, in the order of execution."""
    wanted = units[units >= 0]
    found: dict[str, None] = {}
    for node in groups.flow.traced.nodes:
        labels = groups.flow.labels.get(node)
        if not isinstance(node.target, torch._ops.OpOverload) or not isinstance(labels, Labels):
            continue
        vectors = [v for vs in labels.dims.values() for v in vs]
        if any(np.isin(groups.unit_of(v), wanted).any() for v in vectors):
            found[f"{node.target._opname} in {module_of(node) or '(top level)'}"] = None
    return list(found)


def reason_of(groups: Groups, vector: Vector) -> str:
    """What holds the labels, and which change of the network's source would free them."""
    constraints = groups.flow.constraints
    for pins in nearest(constraints, vector):
        if pins:
            return _words(min(pins, key=lambda pin: _RANK.get(pin.reason, 0)))
    return _ELSE


_RANK = {MEETS: 1, "": 2, OUTPUT: 3}
"""What is told before what, where several things hold the same channels: the most particular first."""


def _words(pin: Pin) -> str:
    change = change_for(pin.reason)
    if pin.reason == OUTPUT:
        return f"{OUTPUT}; to free it, {change}"
    where = Unsupported(str(pin.where.target), module_of(pin.where), pin.reason or _NEEDED, line=line_of(pin.where))
    return f"{where}; to free it, {change}" if change else str(where)


_NEEDED = "it needs all of them"

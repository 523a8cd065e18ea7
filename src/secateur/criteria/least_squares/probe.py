"""How much the network's output suffers when one group alone is cut and its consumers are refitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.core.progress import watched
from secateur.criteria.least_squares.gather import Curve
from secateur.criteria.least_squares.shelf import Shelf
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Values, Walker
from secateur.graph.labels import Labels
from secateur.graph.writes import written
from secateur.surgery.reference import CutEntries, MaskedInterpreter

__all__ = ["sensitivities"]

LARGEST, PIECE = 1 << 25, 1 << 20
"""Numbers of the network's output that are looked at, and how many of them are compared at a time."""


def sensitivities(pair: Twin, curves: Mapping[int, Curve], shelf: Shelf, batch: Any, probes: int) -> dict[int, float]:
    """Error of the output per error of the layers that a group enters, by group.

    Each share of a group that was tried gives one quotient: the mean squared change of the network's outputs
    (each relative to its variance) over the error that elimination foretold; their mean is returned. Where the network
    joins several maps to one output, each counts as an output: a detector's scores lie in 0…1 and its boxes do not, so
    that all of them together would be the boxes alone. Of long outputs (64 windows of text, and a number for every
    token of the vocabulary) fewer samples than ``probes`` are looked at, as :data:`LARGEST` has it.
    """
    traced = pair.groups.flow.traced
    if traced.dynamic:
        probes = min(probes, max(1, LARGEST // _output_size(pair)))
        batch = pytree.tree_map(lambda v: v[:probes] if isinstance(v, Tensor) and v.ndim else v, batch)
    with torch.no_grad():
        base = pair.dense.begin(batch)
        joined = _joined(pair.dense.nodes[-1])
        want = [_Wanted(w) for w in _apart(_finished(pair.dense, dict(base)), joined)]
        trials = [(*_trial(pair, n, c, k, shelf), n, k) for n, c in curves.items() for k in range(len(c.repaired))]
        found: dict[int, list[float]] = {n: [] for n in curves}
        at = 0
        ordered = sorted(trials, key=lambda t: t[0])
        with watched(ordered, "Probing outputs", "cuts", lambda trial: pair.groups.items[trial[2]].name) as told:
            for start, keep, number, k in told:
                pair.dense.advance(base, at, start)
                at = start
                gone, name = curves[number].repaired[k]
                foretold = sum(curves[number].rises[:gone])
                if gone and foretold > 0:
                    got = _masked(pair, keep, shelf.get(name), base, start)
                    found[number].append(_change(_apart(got, joined), want) / foretold)
    known = [v for values in found.values() for v in values]
    return {n: float(np.mean(values)) if values else float(np.median(known or [1.0])) for n, values in found.items()}


def _finished(walker: Walker, values: Values) -> list[Tensor]:
    """Runs everything, on copies."""
    values = {n: v.clone() if isinstance(v, Tensor) else v for n, v in values.items()}
    walker.advance(values, 0, len(walker.nodes) - 1)
    return walker.output(values)


def _trial(pair: Twin, number: int, curve: Curve, k: int, shelf: Shelf) -> tuple[int, NDArray[np.bool_]]:
    """Where the cut first shows, and which labels stay."""
    gone, name = curve.repaired[k]
    tensors = shelf.get(name)
    units = np.ones(pair.groups.units, dtype=bool)
    units[pair.groups.items[number].units[list(curve.order[:gone])]] = False
    keep = pair.groups.label_keep(units)
    flow = pair.groups.flow
    for place, node in enumerate(pair.dense.nodes):
        if node.op in ("get_attr", "placeholder"):
            continue
        labels = flow.labels.get(node)
        several = labels if isinstance(labels, list) else [labels]
        cut = any(isinstance(x, Labels) and bool(pair.groups.masks(x, keep)) for x in several)
        if cut or any(n.op == "get_attr" and str(n.target) in tensors for n in node.all_input_nodes):
            return place, keep
    return len(pair.dense.nodes) - 1, keep


def _masked(
    pair: Twin, keep: NDArray[np.bool_], tensors: Mapping[str, Tensor], base: Values, start: int
) -> list[Tensor]:
    """The rest of the dense network with the group's units held at zero and the refitted weights."""
    own = written(pair.dense.module)  # a network that changes itself changes copies here
    runner = MaskedInterpreter(pair.dense.module, CutEntries(pair.groups, keep), {**own, **tensors})
    runner.env = {n: v.clone() if isinstance(v, Tensor) else v for n, v in base.items()}
    nodes = pair.dense.nodes
    for node in nodes:
        if node.op == "get_attr":
            runner.env[node] = runner.run_node(node)
    last = {used: k for k, node in enumerate(nodes) for used in node.all_input_nodes}
    for k in range(start, len(nodes) - 1):
        node = nodes[k]
        if node.op == "get_attr":
            continue
        runner.env[node] = runner.run_node(node)
        for used in node.all_input_nodes:
            if last[used] == k:
                runner.env.pop(used, None)
    found = torch.fx.node.map_arg(nodes[-1].args, lambda n: runner.env[n])
    return [v for v in pytree.tree_leaves(found) if isinstance(v, Tensor)]


_Join = tuple[int, list[int]]
"""Along which dimension an output was joined, and the sizes of its parts."""


def _joined(output: Node) -> list[_Join | None]:
    """How each tensor that the network returns was joined of several, if it was."""
    leaves = [n for n in pytree.tree_leaves(output.args) if isinstance(n, Node)]
    return [_join(n) for n in leaves if isinstance(n.meta.get("val"), Tensor)]


def _join(node: Node) -> _Join | None:
    if node.target is not torch.ops.aten.cat.default:
        return None
    rank = node.meta["val"].ndim
    parts = [n.meta["val"] for n in node.args[0]]  # type: ignore[union-attr]
    parts = [part for part in parts if part.ndim == rank]  # a cache of keys begins with an empty tensor, of any rank
    dim = int(node.args[1]) % rank if len(node.args) > 1 else 0  # type: ignore[arg-type]
    sizes = [part.shape[dim] for part in parts]
    return (dim, sizes) if dim and all(isinstance(size, int) for size in sizes) else None


def _apart(values: list[Tensor], joined: list[_Join | None]) -> list[Tensor]:
    """The outputs, with those that were joined of several as these."""
    if len(values) != len(joined):
        return values
    pairs = zip(values, joined, strict=True)
    return [part for value, join in pairs for part in (torch.split(value, join[1], join[0]) if join else [value])]


class _Wanted:
    """An output of the dense network, with its variance; numbers are compared piece by piece, in double precision."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.counts = value.is_floating_point() and value.numel() > 1
        if self.counts:
            parts = torch.split(value.reshape(-1), PIECE)
            mean = sum(float(p.double().sum()) for p in parts) / value.numel()
            variance = sum(float((p.double() - mean).square().sum()) for p in parts) / value.numel()
            self.variance = max(variance, 1e-12)

    def change(self, got: Tensor) -> float:
        """Mean squared difference over the variance."""
        pairs = zip(*(torch.split(v.reshape(-1), PIECE) for v in (got, self.value)), strict=True)
        return sum(float((g - w).double().square().sum()) for g, w in pairs) / self.value.numel() / self.variance


def _change(got: list[Tensor], want: list[_Wanted]) -> float:
    """Mean over the outputs of mean (got − want)² / variance of want."""
    parts = [w.change(g) for g, w in zip(got, want, strict=True) if w.counts]
    return float(np.mean(parts)) if parts else 0.0


def _output_size(pair: Twin) -> int:
    """Numbers that the network gives for one sample."""
    values = [n.meta.get("val") for n in pytree.tree_leaves(pair.dense.nodes[-1].args) if isinstance(n, Node)]
    found = sum(v.numel() for v in values if isinstance(v, Tensor))
    return max(1, int(found) // max(1, pair.groups.flow.traced.batch))

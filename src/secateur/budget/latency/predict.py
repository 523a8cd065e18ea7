"""What a network takes under any widths, by the latency table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from secateur.budget.latency.layers import Layer, LayerWidths, sites
from secateur.budget.latency.store import Setting
from secateur.budget.latency.table import Table, axis
from secateur.cost.counts import Costs
from secateur.graph.labels import Labels
from secateur.graph.ops import Kind, facts
from secateur.graph.writes import may_alias, mutates

__all__ = ["Network", "Sizes", "Term", "layer_terms", "predicted"]

Sizes = NDArray[np.int64]

Mask = NDArray[np.bool_]

_FREE = (Kind.COPY, Kind.SIZE, Kind.RESHAPE, Kind.TYPE_CHECK)


@dataclass(frozen=True)
class Term:
    """One part of a network's time: a function of some of its sizes.

    Attributes:
        slots: Which sizes (see :class:`~secateur.cost.counts.Costs`).
        ms: Milliseconds, given these sizes.
    """

    slots: tuple[int, ...]
    ms: Callable[..., float]


class Network:
    """A network's layers and what else of it takes time.

    The time is Σ over layers of table(out, in) + MACs of other contractions × the layers' mean time per MAC +
    ρ × elements read and written by all other operators. ρ is what the whole dense network takes beyond the rest,
    per element (nothing, where it takes less).
    """

    def __init__(self, costs: Costs) -> None:
        """Finds the layers, the other contractions and the other operators of the network of ``costs``."""
        self.costs = costs
        self.sites, covered = sites(costs)
        measured = {site.node for site in self.sites}
        self._others = [term for node, term in costs.macs.items() if node not in measured]
        nodes = [n for n in costs.groups.flow.labels if n not in covered and n not in costs.macs]
        self._moved = [self._extent(labels) for node in nodes if _works(node) for labels in self._touched(node)]
        self.full = costs.sizes(np.ones(costs.groups.units, dtype=bool))

    def grid(self, least: Sizes, step: int) -> dict[Layer, tuple[list[int], list[int]]]:
        """Widths at which every layer has to be measured, given the least that every size can become."""
        found: dict[Layer, tuple[set[int], set[int]]] = {}
        for site in self.sites:
            for widths, slot in zip(
                found.setdefault(site.layer, (set(), set())), (site.outer, site.inner), strict=True
            ):
                widths.update(axis(int(self.full[slot]), int(least[slot]), step))
        return {layer: (sorted(outer), sorted(inner)) for layer, (outer, inner) in found.items()}

    def terms(self, table: Table, dense_ms: float | None = None) -> list[Term]:
        """The parts of the network's time.

        Args:
            table: Times of the layers.
            dense_ms: What the whole dense network takes, in the table's scale; without it ρ is nothing.
        """
        terms = [Term((site.outer, site.inner), _layer_ms(table, site)) for site in self.sites]
        per_mac = self._total(terms) / max(1.0, sum(self._macs(self.costs.macs[site.node]) for site in self.sites))
        terms += [Term(tuple(slots), _product_ms(factor * per_mac)) for factor, slots in self._others]
        elements = sum(self._macs(extent) for extent in self._moved)
        if dense_ms is not None and elements:
            rate = max(0.0, dense_ms - self._total(terms)) / elements
            terms += [Term(tuple(slots), _product_ms(factor * rate)) for factor, slots in self._moved]
        return _merged(terms)

    def _total(self, terms: Sequence[Term]) -> float:
        return sum(term.ms(*(int(self.full[s]) for s in term.slots)) for term in terms)

    def _macs(self, term: tuple[float, Sequence[int]]) -> float:
        return term[0] * prod(int(self.full[s]) for s in term[1])

    def _touched(self, node: Node) -> list[Labels]:
        """Labels of the activations that an operator reads and writes."""
        labels = self.costs.groups.flow.labels
        tensors = [labels.get(n) for n in (*node.all_input_nodes, node) if n.op != "get_attr"]
        return [t for t in tensors if isinstance(t, Labels)]

    def _extent(self, labels: Labels) -> tuple[float, list[int]]:
        """Elements of one sample as a factor and the slots of the sizes that can shrink."""
        free = [d for d in range(1, labels.ndim) if labels.at(d)]
        fixed = prod(labels.shape[d] for d in range(1, labels.ndim) if d not in free)
        return float(fixed), [self.costs.slot(labels, d) for d in free]


def layer_terms(costs: Costs, setting: Setting, narrowest: Mask, references: float) -> tuple[Table, list[Term]]:
    """Measures the layers down to the narrowest network; returns the table and the parts of the network's time.

    Args:
        costs: Sizes of the network under any choice.
        setting: Where the layers are timed.
        narrowest: The units that stay in the narrowest network.
        references: Time of the dense network in times of the table's reference layer.
    """
    network, table = Network(costs), Table(setting)
    table.measure(network.grid(costs.sizes(narrowest), table.step))
    return table, network.terms(table, references * table.times.reference_ms)


def predicted(costs: Costs, terms: Sequence[Term], keep: Mask) -> float:
    """Milliseconds by the table, in its own scale."""
    sizes = costs.sizes(keep).tolist()
    return sum(term.ms(*(sizes[s] for s in term.slots)) for term in terms)


def _works(node: Node) -> bool:
    """Whether it takes time: more than another view of what it gets, or nothing at all in evaluation mode."""
    kind = facts(node).kind
    hands_on = kind in _FREE or (kind is not Kind.CAST and not mutates(node) and may_alias(node))
    return node.op == "call_function" and not hands_on


def _layer_ms(table: Table, site: LayerWidths) -> Callable[..., float]:
    return lambda outer, inner: table(site.layer, outer, inner)


def _product_ms(rate: float) -> Callable[..., float]:
    return lambda *sizes: rate * prod(sizes)


def _merged(terms: Sequence[Term]) -> list[Term]:
    """Terms of the same sizes as one: there are several per tensor."""
    found: dict[tuple[int, ...], list[Callable[..., float]]] = {}
    for term in terms:
        found.setdefault(term.slots, []).append(term.ms)
    return [Term(slots, _sum(parts)) for slots, parts in found.items()]


def _sum(parts: Sequence[Callable[..., float]]) -> Callable[..., float]:
    known: dict[tuple[int, ...], float] = {}

    def ms(*sizes: int) -> float:
        if sizes not in known:
            known[sizes] = sum(part(*sizes) for part in parts)
        return known[sizes]

    return ms

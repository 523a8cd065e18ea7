"""What a traced network really reads: entries that it never looks at cannot be told right from wrong."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from secateur.graph.facts import Kind
from secateur.graph.flow import Flow
from secateur.graph.labels import Labels
from secateur.graph.rules import facts
from secateur.graph.traced import Traced
from secateur.graph.writes import mutates

__all__ = ["read_components", "unused_parameters"]


def read_components(flow: Flow, component: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which components of labels anything reads, shape (components,).

    A component is read where an operator that the output depends on takes it and does not hand it on (a contraction,
    a reduction, the output itself); a slice that leaves it behind does not read it. Entries of a position table beyond
    the traced length are read by nobody, nor is a layer that only another method uses.
    """
    count = int(component.max()) + 1
    read = np.zeros(count, dtype=bool)
    cache: dict[int, NDArray[np.int64]] = {}

    def of(node: Node) -> NDArray[np.int64]:
        labels = flow.labels.get(node)
        if id(labels) not in cache:
            found = [component[v] for part in _parts(labels) for vs in part.dims.values() for v in vs]
            cache[id(labels)] = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        return cache[id(labels)]

    for view in flow.views:
        for node in live(view):
            if _selects(node):
                continue
            handed = np.zeros(count, dtype=bool)
            handed[of(node)] = True
            for source in node.all_input_nodes:
                taken = of(source)
                read[taken[~handed[taken]]] = True
    return read


def unused_parameters(flow: Flow) -> tuple[str, ...]:
    """Parameters that no traced way through the network reaches."""
    used = {str(s.target) for view in flow.views for n in live(view) for s in n.all_input_nodes if s.op == "get_attr"}
    named = list(flow.traced.module.named_parameters(remove_duplicate=False))
    reached = {id(p) for n, p in named if n in used}  # a tied parameter has another name where it is used
    return tuple(n for n, p in flow.traced.module.named_parameters() if id(p) not in reached)


def live(view: Traced) -> list[Node]:
    """Operators that an output or a written buffer depends on, in the order of execution."""
    needed: set[Node] = set()
    for node in reversed(view.nodes):
        if node.op == "output" or node in needed or (node.op == "call_function" and mutates(node)):
            needed.add(node)
            needed.update(node.all_input_nodes)
    return [n for n in view.nodes if n in needed and n.op in ("call_function", "output")]


def _selects(node: Node) -> bool:
    """Whether it hands on some entries; those that it leaves behind have not been read."""
    return node.target is operator.getitem or facts(node).kind is Kind.PIECE


def _parts(labels: object) -> Iterable[Labels]:
    if isinstance(labels, Labels):
        yield labels
    elif isinstance(labels, list):
        for part in labels:
            yield from _parts(part)

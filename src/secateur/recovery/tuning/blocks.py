"""Blocks of a pair of networks: stretches of the order of execution that are fitted one after another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import Tensor
from torch.fx import Node

from secateur.criteria.least_squares.twin import Twin
from secateur.graph.branches import common_module, find_branches
from secateur.graph.rules import facts

__all__ = ["Block", "find_blocks"]

MOST_LAYERS = 4
"""Layers of a block where no residual connection says what belongs together."""


@dataclass(frozen=True)
class Block:
    """What is computed between two places of the order of execution.

    Attributes:
        name: The smallest module that holds its layers; the first and the last layer where that is the network.
        end: How many operators of the dense graph have run behind it.
        stop: The same of the pruned graph.
        outputs: What it computes for others: operators of the dense and of the pruned graph.
        parameters: Names of the parameters that nothing else uses.
    """

    name: str
    end: int
    stop: int
    outputs: tuple[tuple[Node, Node], ...]
    parameters: tuple[str, ...]


def find_blocks(pair: Twin) -> list[Block]:
    """Divides the networks into blocks, in the order of execution.

    A block ends behind the sum of a residual branch and what is computed of that entry by entry (the ReLU), and where
    the skip of one begins: residual blocks, and the attention and the MLP of a transformer's layer. Where there are no
    residual connections, it has up to :data:`MOST_LAYERS` layers and ends where least is handed on.

    Source of the division: Li et al. 2021, BRECQ, arXiv:2102.05426, §3.2.
    """
    nodes, place = pair.dense.nodes, pair.dense.place
    matrices = {n for n, p in pair.dense.module.named_parameters(remove_duplicate=False) if p.ndim > 1}
    layers = [k for k, node in enumerate(nodes) if _held(node, matrices)]
    ends, sums = {len(nodes) - 1}, set[int]()
    for branch in find_branches(pair.groups.flow.traced):
        end = _behind(nodes, place[branch.add])
        sums.add(end)
        ends |= {end} if branch.reason else {end, _behind(nodes, place[branch.skip])}
    ends |= _between(pair, sorted(ends), sums, layers)
    found, start = list[Block](), 0
    for end in _with_layers(sorted(ends), layers):
        own = [name for k in layers if start <= k < end for name in _held(nodes[k], matrices)]
        found.append(_block(pair, start, end, own))
        start = end
    return found


def _with_layers(ends: Sequence[int], layers: Sequence[int]) -> list[int]:
    """The ends with layers before and at once behind them: what has none belongs to the block before."""
    kept = [a for a, b in pairwise(ends) if any(k < a for k in layers) and any(a <= k < b for k in layers)]
    return [*kept, ends[-1]]


def _held(node: Node, matrices: Collection[str]) -> list[str]:
    """Names of the matrices and kernels that an operator takes."""
    sources = node.all_input_nodes if node.op == "call_function" else []
    return [str(n.target) for n in sources if n.op == "get_attr" and n.target in matrices]


def _behind(nodes: Sequence[Node], at: int) -> int:
    """The place behind an operator and what follows at once and is computed of it alone, entry by entry."""
    while at + 1 < len(nodes) and facts(nodes[at + 1]).pointwise and nodes[at + 1].all_input_nodes == [nodes[at]]:
        at += 1
    return at + 1


def _between(pair: Twin, ends: Sequence[int], sums: Collection[int], layers: Sequence[int]) -> set[int]:
    """Further ends, in stretches of many layers that end with no residual branch."""
    more, start = set[int](), 0
    for end in ends:
        own = [k for k in layers if start <= k < end] if end not in sums else []
        while len(own) > MOST_LAYERS:
            at = min(reversed(own[1 : MOST_LAYERS + 1]), key=lambda k: _handed_on(pair, k))
            more.add(at)
            own = [k for k in own if k >= at]
        start = end
    return more


def _handed_on(pair: Twin, at: int) -> int:
    """Numbers that operators before a place give to those from there on."""
    place, nodes = pair.dense.place, pair.dense.nodes
    alive = [n for n in nodes[:at] if n.op == "call_function" and any(place[u] >= at for u in n.users)]
    return sum(prod(_numbers(n)) for n in alive)


def _numbers(node: Node) -> list[int]:
    value = node.meta.get("val")
    return [s if isinstance(s, int) else 1 for s in value.shape] if isinstance(value, Tensor) else [0]


def _block(pair: Twin, start: int, end: int, matrices: Sequence[str]) -> Block:
    dense, pruned = pair.dense, pair.pruned
    begin, stop = (pruned.place[pair.copies[dense.nodes[k]]] if k else 0 for k in (start, end))
    handed = [n for n in dense.nodes[start:end] if any(dense.place[u] >= end for u in n.users)]
    outputs = tuple((n, pair.copies[n]) for n in handed if n.op == "call_function" and _is_real(n))
    users: dict[str, list[int]] = {}
    for node in (n for n in pruned.nodes if n.op == "get_attr"):
        users.setdefault(str(node.target), []).extend(pruned.place[u] for u in node.users)
    own = tuple(name for name, at in users.items() if at and all(begin <= k < stop for k in at))
    return Block(_name(matrices), end, stop, outputs, own)


def _is_real(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _name(matrices: Sequence[str]) -> str:
    """The smallest module that holds them.

    >>> _name(["layer1.0.conv1.weight", "layer1.0.conv2.weight"]), _name(["conv1.weight", "fc.weight"])
    ('layer1.0', 'conv1 … fc')
    """
    names = [name.rpartition(".")[0] or name for name in matrices]
    return common_module(names) or (f"{names[0]} … {names[-1]}" if names else "output")

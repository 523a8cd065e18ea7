"""Which layers a network can do without, measured: the change of its output when they go, one after another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError
from secateur.core.inputs import Batch, Data, batches, pieces
from secateur.core.progress import watched
from secateur.graph.branches import Branch
from secateur.graph.traced import Traced
from secateur.graph.writes import written
from secateur.surgery.depth import live_nodes

__all__ = ["OUTPUT_CHANGE", "SAMPLES", "by_output_change"]

OUTPUT_CHANGE = "output_change"
"""What a criterion is called that looks at the output instead of weights."""

SAMPLES = 64
"""Samples that are looked at, at most."""


def by_output_change(
    traced: Traced, candidates: Mapping[str, Sequence[Branch]], count: int, data: Data
) -> list[tuple[str, float]]:
    """The layers that go, in order: next goes the one without which the output, then, is nearest to the dense one's.

    Formula: Σ‖y − y₀‖² / Σ‖y₀‖² over the first output of all samples, y₀ that of the network with all layers. Source:
    Song et al. 2024, SLEB, arXiv:2402.09025, algorithm 1, with the change of the output in the place of the loss.

    Args:
        traced: The network.
        candidates: What may go, by name: each with the branches that go with it.
        count: How many go.
        data: Calibration data, in any form of :mod:`secateur.core.inputs`; the first 64 samples count.

    Returns:
        Names and the change of the output once that one, and those before it, are gone.

    Raises:
        InputError: No data, or a network whose output is no floating-point tensor.
    """
    calls = _calls(traced, data)
    with torch.no_grad():
        wanted = [_first(traced, call, {}) for call in calls]
        gone: dict[Node, Node] = {}
        found: list[tuple[str, float]] = []
        for _ in range(count):
            names = [name for name in candidates if name not in {n for n, _ in found}]
            changes = {}
            with watched(names, "Trying layers", "layers") as told:
                for name in told:
                    changes[name] = _change(traced, calls, wanted, gone | _removed(candidates[name]))
            best = min(changes, key=lambda name: changes[name])
            gone |= _removed(candidates[best])
            found.append((best, changes[best]))
    return found


def _removed(branches: Sequence[Branch]) -> dict[Node, Node]:
    return {branch.add: branch.skip for branch in branches}


def _calls(traced: Traced, data: Data) -> list[Batch]:
    found: list[Batch] = []
    for batch in batches(data, traced):
        for part in [batch] if traced.dynamic else pieces(batch, traced.batch, traced):
            found.append(part)
            if sum(call.size for call in found) >= SAMPLES:
                return found
    if not found:
        raise InputError(f"The network takes {traced.batch} samples at a time, and no batch of the data has as many.")
    return found


def _change(traced: Traced, calls: Sequence[Batch], wanted: Sequence[Tensor], removed: Mapping[Node, Node]) -> float:
    apart = whole = 0.0
    live = live_nodes(traced.nodes, removed)
    for call, want in zip(calls, wanted, strict=True):
        got = _first(traced, call, removed, live)
        apart += float((got.double() - want.double()).square().sum())
        whole += float(want.double().square().sum())
    change = apart / max(whole, 1e-300)
    return change if change == change else float("inf")  # what gives no numbers goes last


def _first(traced: Traced, call: Batch, removed: Mapping[Node, Node], live: Collection[Node] | None = None) -> Tensor:
    """The first floating-point tensor that the network gives, with what stands for a removed sum in its place."""
    runner = Interpreter(traced.module)
    own = written(traced.module)  # a network that changes itself changes copies here
    nodes = list(traced.module.graph.nodes)
    inputs = {node: [removed[node]] if node in removed else list(node.all_input_nodes) for node in nodes}
    last = {used: k for k, node in enumerate(nodes) if live is None or node in live or node in removed
            for used in inputs[node]}  # fmt: skip
    runner.args_iter = iter(pytree.tree_leaves(call.copied()))
    for k, node in enumerate(nodes):
        if node.op == "output":
            found = torch.fx.node.map_arg(node.args, lambda n: runner.env.get(n))
            return _floating(pytree.tree_leaves(found))
        if node in removed:
            runner.env[node] = runner.env[removed[node]]
        elif node.op == "get_attr" and node.target in own:
            runner.env[node] = own[str(node.target)]
        elif node.op in ("placeholder", "get_attr") or live is None or node in live:
            runner.env[node] = runner.run_node(node)
        for used in inputs[node]:
            if last.get(used) == k:
                runner.env.pop(used, None)
    raise AssertionError("a graph ends in its output")


def _floating(values: Sequence[Any]) -> Tensor:
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise InputError("The network gives no floating-point tensor, so no change of its output can be measured.")

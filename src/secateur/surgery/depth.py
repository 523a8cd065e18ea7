"""Whole layers: a residual branch goes and its skip stays, in the graph or in the module tree."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from secateur.core.errors import PlanError
from secateur.graph.branches import Branch, through
from secateur.graph.flow import modules_of
from secateur.graph.groups import Groups
from secateur.graph.guard import require
from secateur.graph.ops import facts, plain_name
from secateur.graph.signature import call_like
from secateur.graph.traced import Traced
from secateur.graph.writes import may_alias, mutates
from secateur.surgery.graph import finished, twin_graph
from secateur.surgery.layers import put_layers
from secateur.surgery.pruned_graph import PrunedGraph
from secateur.surgery.substitutes import activations

__all__ = ["live_nodes", "remove_from_graph", "replacements"]

Branches = Sequence[Branch]


# --------------------------------------------------------------------------------------------------- live nodes


def live_nodes(nodes: Sequence[Node], removed: Mapping[Node, Node] | None = None) -> set[Node]:
    """What is still needed for the output when every addition in ``removed`` hands on its skip.

    An operator that writes in place is needed as long as what it writes into is.
    """
    removed = removed or {}
    root: dict[Node, Node] = {}
    for node in nodes:
        first = through(node.args[0], removed) if node.args and isinstance(node.args[0], Node) else None
        root[node] = root[first] if first is not None and may_alias(node) else node
    writers = [n for n in nodes if mutates(n) and n not in removed]
    live: set[Node] = set()
    _follow([n for n in nodes if n.op in ("output", "placeholder") or _checks(n)], removed, live)
    while late := [n for n in writers if n not in live and _lasts(root[n], live)]:
        _follow(late, removed, live)
    guards = [n for n in nodes if n.target is require and all(through(s, removed) in live for s in _measured(n))]
    _follow(guards, removed, live)  # what a removed branch decided by its sizes does not matter any more
    return live


def _measured(guard: Node) -> set[Node]:
    """Whose sizes a guard compares."""
    found: set[Node] = set()
    left = list(guard.all_input_nodes)
    while left:
        node = left.pop()
        if node.target is torch.ops.aten.sym_size.int:
            found.update(node.all_input_nodes)
        else:
            left += node.all_input_nodes
    return found


def _lasts(root: Node, live: set[Node]) -> bool:
    """Whether memory that is written is seen later: by a live operator, or as a buffer of the network."""
    return root in live or root.op == "get_attr"


def _checks(node: Node) -> bool:
    """Operators that give nothing, so that they are there to check what they are given."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and not schema.returns


def _follow(start: list[Node], removed: Mapping[Node, Node], live: set[Node]) -> None:
    todo = [through(n, removed) for n in start]
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo += [through(n, removed) for n in node.all_input_nodes]


# -------------------------------------------------------------------------------------------------------- graph


def remove_from_graph(groups: Groups, branches: Branches, model: nn.Module) -> PrunedGraph:
    """Copies the dense graph without ``branches``: additions hand on their skip, and what nobody needs goes.

    Args:
        groups: Groups of the dense network.
        branches: What goes.
        model: The dense network; the graph gets its layers.

    Returns:
        A trainable module whose parameters keep their names; in eval mode.
    """
    result, copies = twin_graph(groups, np.ones(groups.component.shape, dtype=bool), {})
    graph = result.graph
    idle = {n for n in graph.nodes if n.op == "get_attr" and not n.users}  # nobody's even before (batch counters)
    standing: dict[Node, Node] = {}
    for branch in branches:
        _bypass(result, copies[branch.add], through(copies[branch.skip], standing), standing)
    live = live_nodes(list(graph.nodes))
    read = [n for n in graph.nodes if n.op == "get_attr" and n not in idle]
    homes = {_home(n) for n in read if n not in live} - {_home(n) for n in read if n in live}
    for node in reversed(list(graph.nodes)):
        if node not in live and (node not in idle or _home(node) in homes):
            graph.erase_node(node)
    _forget(result, homes, {str(n.target) for n in read if n not in live} - {str(n.target) for n in read if n in live})
    put_layers(result, model)
    traced = groups.flow.traced
    return finished(result, traced.sizes, call_like(model.forward, *traced.given))


def _home(node: Node) -> str:
    """The module that a tensor belongs to."""
    return str(node.target).rpartition(".")[0]


def _bypass(module: GraphModule, add: Node, skip: Node, standing: dict[Node, Node]) -> None:
    """Hands the skip to everyone who used the sum; as a copy where one of them writes into it.

    What stands for an operator that is no longer there is noted in ``standing``.
    """
    again = [user for user in add.users if _is_relu(user)] if _is_relu(skip) else []  # relu(relu(x)) = relu(x)
    if any(mutates(node) and node not in again for node in _views(add)):
        with module.graph.inserting_before(add):
            value = skip.meta.get("val")
            skip = module.graph.call_function(torch.ops.aten.clone.default, (skip,))
            skip.meta["val"] = value
    for node in (*again, add):
        node.replace_all_uses_with(skip)
    for node in (*again, add):
        standing[node] = skip
        module.graph.erase_node(node)


def _views(node: Node) -> Iterator[Node]:
    """Operators that share the memory of ``node``."""
    for user in node.users:
        if may_alias(user) and user.args and user.args[0] is node:
            yield user
            yield from _views(user)


def _is_relu(node: Node) -> bool:
    return facts(node).module is nn.ReLU


def _forget(module: nn.Module, homes: set[str], gone: set[str]) -> None:
    """Deletes the tensors ``gone`` and everything in the modules ``homes``."""
    held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name in [name for name, _ in held if name in gone or name.rpartition(".")[0] in homes]:
        path, _, leaf = name.rpartition(".")
        delattr(operator.attrgetter(path)(module) if path else module, leaf)


# ------------------------------------------------------------------------------------------------------- module


def replacements(model: nn.Module, traced: Traced, branches: Branches) -> dict[str, str]:
    """Which modules of ``model`` stand for ``branches``, and what takes their place.

    For each branch that is the smallest module that takes the skip and nothing else, gives one tensor, and computes
    nothing more once the branch is gone than an activation.

    Raises:
        PlanError: There is no such module; says why.
    """
    removed = {branch.add: branch.skip for branch in branches}
    live = live_nodes(traced.nodes, removed)
    found: dict[str, str] = {}
    covered: set[Node] = set()
    for branch in branches:
        if branch.add not in covered:
            path, kind, nodes = _replacement(traced, branch, removed, live)
            _check_alone(model, path, branch)
            found[path] = kind
            covered |= nodes
    return found


def _replacement(
    traced: Traced, branch: Branch, removed: Mapping[Node, Node], live: set[Node]
) -> tuple[str, str, set[Node]]:
    """Path of the module, what takes its place, and all its operators."""
    reason = "it is part of the network's own forward"
    for path in reversed(modules_of(branch.add)):
        nodes = {n for n in traced.nodes if path and n.op == "call_function" and path in modules_of(n)}
        inputs = {i for n in nodes for i in n.all_input_nodes if i not in nodes and _is_activation(i)}
        outputs = {n for n in nodes if _is_tensor(n) and any(u not in nodes for u in n.users)}
        if not path or not set(branch.nodes) <= nodes or len(inputs) != 1 or len(outputs) != 1:
            continue
        kind = _left(nodes & live, next(iter(inputs)), next(iter(outputs)), removed)
        if kind is not None:
            return path, kind, nodes
        reason = f"{path!r} computes more than this branch"
        break
    raise PlanError(f"the branch {branch.name!r} has no module of its own: {reason}")


def _left(rest: set[Node], source: Node, output: Node, removed: Mapping[Node, Node]) -> str | None:
    """What a module still does: nothing, one activation, or more (``None``)."""
    source, output = through(source, removed), through(output, removed)
    computing = {n for n in rest if _is_tensor(n)}
    if output is source and not computing:
        return "identity"
    if computing != {output} or through(output.args[0], removed) is not source:  # type: ignore[arg-type]
        return None
    if _is_relu(output) and _is_relu(source):
        return "identity"
    name = plain_name(output.target).removeprefix("aten.")
    if name not in activations() or output.kwargs:
        return None
    return " ".join([name, *map(str, output.args[1:])])


def _check_alone(model: nn.Module, path: str, branch: Branch) -> None:
    own = model.get_submodule(path)
    if sum(1 for _, m in model.named_modules(remove_duplicate=False) if m is own) > 1:
        raise PlanError(f"the branch {branch.name!r} is in a module that is used in several places ({path!r})")


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), (Tensor, list, tuple))


def _is_activation(node: Any) -> bool:
    return node.op != "get_attr" and _is_tensor(node)

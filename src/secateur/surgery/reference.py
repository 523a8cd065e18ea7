"""The masked dense network: what a pruned network has to compute.

The dense graph is run operator by operator with the dense weights. After every operator the entries whose
labels were removed are set to zero, which is what "removed where it enters its consumers" means; operators
with a rule of their own (means, normalisations, softmax over a cut dimension) count the kept entries alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from secateur.graph.groups import Groups
from secateur.graph.labels import Labels
from secateur.graph.masked import Masked
from secateur.graph.ops import Kind, Operator, facts, find, plain_name

__all__ = ["CutEntries", "MaskedInterpreter", "OtherShape"]

Mask = NDArray[np.bool_]

_WEIGHED = (Kind.CONV, Kind.CONV_TRANSPOSE, Kind.LINEAR, Kind.BATCH_NORM)


class OtherShape(Exception):
    """At this batch an operator gives a result that is not the traced one with another batch (``squeeze``)."""


class CutEntries:
    """Which entries of the values in a graph go, looked up once for all runs on the same cut."""

    def __init__(self, groups: Groups, label_keep: Mask) -> None:
        """``label_keep`` says which labels stay."""
        self.groups, self._keep = groups, label_keep
        self._masks: dict[int, dict[int, Mask]] = {}
        self._gone: dict[tuple[int, torch.device], tuple[Mask, Tensor]] = {}
        self._rules: dict[Node, Operator | None] = {}
        self._weights: dict[Node, bool] = {}

    def of(self, labels: object) -> dict[int, Mask]:
        """Masks by dimension, for the dimensions that lose entries; the flow keeps labels alive."""
        if not isinstance(labels, Labels):
            return {}
        if id(labels) not in self._masks:
            self._masks[id(labels)] = self.groups.masks(labels, self._keep)
        return self._masks[id(labels)]

    def of_node(self, node: Any) -> dict[int, Mask]:
        """Masks of the value of a node."""
        return self.of(self.groups.flow.labels.get(node))

    def shape_after(self, node: Node | None) -> tuple[int, ...] | None:
        """Shape of the value of a node after the cut, ``None`` where it is no tensor."""
        value = None if node is None else node.meta.get("val")
        if not isinstance(value, Tensor):
            return None
        masks = self.of_node(node)
        return tuple(int(masks[d].sum()) if d in masks else int(size) for d, size in enumerate(value.shape))

    def labels(self, node: Node) -> Any:
        """Labels of the value of a node."""
        return self.groups.flow.labels.get(node)

    def zero(self, value: Tensor, dim: int, mask: Mask) -> None:
        """Sets what goes to zero, in place."""
        key = id(mask), value.device
        if key not in self._gone:  # the mask is held, so that its id stays its own
            self._gone[key] = mask, torch.as_tensor(np.flatnonzero(~mask), device=value.device)
        value.index_fill_(dim, self._gone[key][1], 0)

    def own_meaning(self, node: Node) -> Operator | None:
        """The rule of an operator that means something of its own on masked values, where it takes some."""
        if node not in self._rules:
            rule = find(node.target) if isinstance(node.target, torch._ops.OpOverload) else None
            own = rule is not None and rule.reference is not None and any(map(self.of_node, node.all_input_nodes))
            self._rules[node] = rule if own else None
        return self._rules[node]

    def only_a_weight(self, node: Node) -> bool:
        """Whether a parameter is nothing but the weight of convolutions, linear layers and batch norms.

        Their inputs and outputs are masked, so a masked copy of the (dense, large) weight would change nothing.
        """
        if node not in self._weights:
            self._weights[node] = node.op == "get_attr" and all(
                facts(user).kind in _WEIGHED and node not in user.args[:1] for user in node.users
            )
        return self._weights[node]


class MaskedInterpreter(Interpreter):
    """Runs the dense graph with removed entries held at zero.

    Args:
        graph: The dense network's graph.
        cut: Which entries go.
        weights: Values to use for some parameters instead of the network's own.
        late: Makes the value of a tensor, by its name, where it is used (and again where it is used again), so that
            not all of them are in memory at once; the last argument says whether nothing of it is left after that.

    Attributes:
        around: What every operator of the network runs inside (and nothing else: masks are set outside of it).
        removed: Operators with what stands for them: sums with the skips of removed residual branches.
        soft: Whether fake quantisation leaves out its rounding.
        shapes: Name of every operator that ran and the shape that its result has after the cut (``None`` for
            several results); only filled where ``watch`` is set.
    """

    def __init__(
        self,
        graph: GraphModule,
        cut: CutEntries,
        weights: Mapping[str, Tensor] | None = None,
        late: Callable[[str, Tensor, bool], Tensor] | None = None,
    ) -> None:
        """Prepares; nothing is computed yet."""
        super().__init__(graph)
        self._cut, self._weights, self._late = cut, weights or {}, late
        self.around: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self.removed: Mapping[Node, Node] = {}
        self.shapes: list[tuple[str, tuple[int, ...] | None]] = []
        self.watch = self.soft = False
        self.current: Node | None = None
        self._batch = next((view.batch for view in cut.groups.flow.views if view.module is graph), 1)
        self._shared = {t.untyped_storage().data_ptr() for t in (*graph.parameters(), *graph.buffers())}

    def of(self, node: Any, shape: Sequence[int] | None = None) -> dict[int, Mask]:
        """Masks by dimension of the value of ``node`` (only dimensions that lose entries), at its ``shape``."""
        masks = self._cut.of_node(node)
        return masks if shape is None or not masks else self._fitted(masks, shape)

    def left_of(self, node: Node, value: Tensor) -> Tensor:
        """The entries of the value of a node that stay."""
        for dim, mask in self.of(node, value.shape).items():
            value = value.index_select(dim, torch.as_tensor(np.flatnonzero(mask), device=value.device))
        return value

    def _fitted(self, masks: Mapping[int, Mask], shape: Sequence[int]) -> dict[int, Mask]:
        """Masks at another batch than the traced one: a dimension that holds the batch too is longer or shorter."""
        if any(d >= len(shape) for d in masks):
            raise OtherShape(f"the plan cuts dimension {max(masks)}, here there are {len(shape)}")
        return {d: m if len(m) == shape[d] else _at_batch(m, self._batch, shape[d]) for d, m in masks.items()}

    def masks(self, shape: Sequence[int]) -> dict[int, Mask]:
        """Masks of what the operator that runs now has to draw, of that shape.

        Attention draws over queries and keys, none of which go, for every head, which may.
        """
        masks = self._cut.of_node(self.current)
        if self.current is not None and facts(self.current).kind is Kind.ATTENTION:
            masks = {d: mask for d, mask in masks.items() if d < len(shape) - 2}
        return self._fitted(masks, shape) if masks else masks

    def run(self, *args: Any, initial_env: Any = None, enable_io_processing: bool = True) -> Any:
        """Runs the graph; as PyTorch has it, without what it does around every node."""
        self.env = initial_env if initial_env is not None else {}
        self.args_iter = iter(self.graph.process_inputs(*args) if enable_io_processing else args)
        last, standing = self.user_to_last_uses if self.garbage_collect_values else {}, set(self.removed.values())
        for node in self.graph.nodes:
            if node not in self.env:
                self.env[node] = self.run_node(node)
            for gone in last.get(node, ()):
                if gone not in standing:
                    del self.env[gone]
            if node.op == "output":
                found = self.env[node]
        return self.graph.process_outputs(found) if enable_io_processing else found

    def run_node(self, n: Node) -> Any:
        """Runs one operator and masks its result."""
        if n.op not in ("call_function", "get_attr"):
            return super().run_node(n)
        self.current = n
        if n.op == "get_attr":
            given = n.target in self._weights
            value = self._weights[str(n.target)].clone() if given else self.fetch_attr(str(n.target))
            late = self._late is not None and not given
            value = value if late or self._cut.only_a_weight(n) else self._masked(value, n)
        else:
            value = self._masked(self._called(n), n)
        if self.watch and isinstance(n.target, torch._ops.OpOverload):
            self.shapes.append((plain_name(n.target), self.small_shape(n, value)))
        return value

    def _called(self, n: Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n in self.removed:
            return self.env[self.removed[n]].clone()
        if (rule := self._cut.own_meaning(n)) is not None:
            assert rule.reference is not None
            with self.around:
                return rule.reference(Masked(self, n, args, kwargs))
        with self.around:
            return n.target(*args, **kwargs)  # type: ignore[operator]

    def small_shape(self, node: Node, value: Any) -> tuple[int, ...] | None:
        """The shape that the value of a node has after the cut; ``None`` for several results."""
        if not isinstance(value, Tensor):
            return None
        masks = self.of(node, value.shape)
        return tuple(int(masks[d].sum()) if d in masks else size for d, size in enumerate(value.shape))

    def fetch_args_kwargs_from_env(self, n: Node) -> Any:
        """The values an operator is called with; weights are made here where ``late`` makes them."""
        if self._late is None or n.op != "call_function":
            return super().fetch_args_kwargs_from_env(n)
        return tuple(torch.fx.node.map_arg(a, self._load) for a in (n.args, n.kwargs))

    def _load(self, node: Node) -> Any:
        value = self.env[node]
        if node.op != "get_attr" or node.target in self._weights or not isinstance(value, Tensor):
            return value
        assert self._late is not None
        passing = self._cut.only_a_weight(node)
        made = self._late(str(node.target), value, passing)
        return made if passing else self._zeroed(made, self._cut.labels(node))

    def _masked(self, value: Any, node: Node) -> Any:
        labels = self._cut.labels(node)
        if isinstance(value, (list, tuple)) and isinstance(labels, list):
            return [self._zeroed(v, lab) for v, lab in zip(value, labels, strict=True)]
        return self._zeroed(value, labels)

    def _zeroed(self, value: Any, labels: Any) -> Any:
        """Zeroes in place where that is safe, so that views and in-place operators see the zeros too."""
        if not isinstance(value, Tensor) or not (found := self._cut.of(labels)):
            return value
        masks = self._fitted(found, value.shape)
        own = value.untyped_storage().data_ptr() in self._shared or 0 in value.stride()
        value = value.clone() if own else value
        for dim, mask in masks.items():
            self._cut.zero(value, dim, mask)
        return value


def _at_batch(mask: Mask, batch: int, size: int) -> Mask:
    """A mask over (batch × n) or (n × batch) entries, for ``size`` entries.

    >>> _at_batch(np.array([True, False, True, False]), 2, 6)
    array([ True, False,  True, False,  True, False])
    """
    if len(mask) % batch == 0 and size % (len(mask) // batch) == 0:
        each = len(mask) // batch
        rows, columns = mask.reshape(batch, each), mask.reshape(each, batch)
        if (rows == rows[0]).all():
            return np.tile(rows[0], size // each)
        if (columns == columns[:, :1]).all():
            return np.repeat(columns[:, 0], size // each)
    raise OtherShape(f"the plan cuts {len(mask)} entries, here there are {size}")

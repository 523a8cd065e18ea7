"""Runs a traced network on labels instead of numbers."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.core.modes import no_gc
from secateur.graph.counted import BY_DATA
from secateur.graph.facts import Kind
from secateur.graph.inline import REGION
from secateur.graph.labels import Constraints, Labels
from secateur.graph.reasons import CHOSEN, NO_RULE, OUTPUT, SIZED
from secateur.graph.rules import Operator, facts, find
from secateur.graph.schema import arguments
from secateur.graph.traced import Traced

__all__ = ["Call", "Flow", "MacTerm", "Untraced", "flow", "module_of", "modules_of", "shape_of", "sized_by_data"]


@dataclass(frozen=True)
class MacTerm:
    """Multiply-accumulates of one operator: ``factor`` × the product of the kept sizes of ``sizes``.

    Attributes:
        factor: What does not depend on the plan (positions × kernel elements × batch).
        sizes: (tensor labels, dimension) pairs whose kept sizes are multiplied.
    """

    factor: float
    sizes: tuple[tuple[Labels, int], ...]


@dataclass(frozen=True)
class Untraced:
    """An operator (or a use of one) without a rule: everything that touches it is pinned."""

    node: Node
    reason: str


@dataclass
class Flow:
    """What running on labels found out.

    Attributes:
        traced: The network.
        further: Other ways through it that were traced too (train mode, further methods); what they demand counts,
            what they cost does not.
        labels: Labels of every tensor-valued node (a list for operators with several outputs).
        tensors: Labels of every parameter and buffer, by state-dict name.
        constraints: What the operators demand.
        consumed: First labels of the weight dimensions that are contracted (a consumer's input channels).
        macs: Multiply-accumulate terms by node.
        more_macs: Those of operators that are several products at once and give several results (recurrent layers).
        untraced: Operators without a rule, with the labels that they pinned.
    """

    traced: Traced
    further: tuple[Traced, ...] = ()
    labels: dict[Node, Any] = field(default_factory=dict)
    tensors: dict[str, Labels] = field(default_factory=dict)
    constraints: Constraints = field(default_factory=Constraints)
    consumed: set[int] = field(default_factory=set)
    macs: dict[Node, MacTerm] = field(default_factory=dict)
    more_macs: dict[Node, tuple[MacTerm, ...]] = field(default_factory=dict)
    untraced: list[tuple[Untraced, list[Labels]]] = field(default_factory=list)

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The network's trainable parameters under all their names."""
        return dict(self.traced.module.named_parameters(remove_duplicate=False))

    @property
    def views(self) -> tuple[Traced, ...]:
        """Every way through the network that was traced, the main one first."""
        return (self.traced, *self.further)

    def consume(self, labels: Labels, dim: int) -> None:
        """Marks a dimension of a weight as contracted (its labels are the weight's own, whatever it passed)."""
        self.consumed.update(int(v[0]) for v in labels.at(dim) if len(v))


class Call:
    """One operator call with its arguments by schema name; tensors are replaced by their labels."""

    def __init__(self, flow: Flow, node: Node) -> None:
        """Binds the arguments of ``node`` to the operator's schema, defaults filled in."""
        self.flow, self.node = flow, node
        self.c = flow.constraints
        self.nodes = arguments(node)
        self.values = {k: self._value(v) for k, v in self.nodes.items()}

    def _value(self, arg: Any) -> Any:
        if isinstance(arg, Node):
            found = self.flow.labels.get(arg)  # a number has no labels: the example's value stands for it
            return _hint(arg.meta.get("val")) if found is None else found
        if isinstance(arg, (list, tuple)):
            return [self._value(a) for a in arg]
        return arg

    def __getitem__(self, name: str) -> Any:
        """The argument called ``name`` (labels, number, list …)."""
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument called ``name`` or ``default``."""
        return self.values.get(name, default)

    @property
    def tensors(self) -> list[Labels]:
        """Labels of all tensor arguments."""
        flat: list[Labels] = []
        for value in self.values.values():
            flat += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, Labels)]
        return flat

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (only) output."""
        return shape_of(self.node)

    def dims(self, name: str = "dim") -> list[int]:
        """A dimension argument as a list of non-negative dimensions (all of them where it is absent)."""
        value, ndim = self.get(name), self["self"].ndim
        if value is None or value == []:
            return list(range(ndim))
        return [d % ndim if ndim else 0 for d in (value if isinstance(value, list) else [value])]

    def pin(self, reason: str) -> Any:
        """Pins every argument, reports why, and returns unlabelled outputs."""
        self.hold(reason, self.tensors)
        return unlabelled(self.node)

    def point(self, reason: str) -> None:
        """Pins what numbers among the arguments point at, and reports why."""
        for labels in self.tensors:
            if labels.points is not None:
                self.hold(reason, [Labels(labels.points.shape, {0: (labels.points,)})])

    def hold(self, reason: str, tensors: list[Labels]) -> None:
        """Pins ``tensors`` and reports why."""
        if any(t.dims for t in tensors):
            self.flow.untraced.append((Untraced(self.node, reason), tensors))
        for labels in tensors:
            self.c.pin_all(labels, reason)


def flow(traced: Traced, further: Sequence[Traced] = ()) -> Flow:
    """Runs ``traced`` on labels.

    Every operator's rule (``secateur.graph.ops``) says how labels pass through it and what it demands of them.
    Model inputs carry no labels; model outputs are pinned, so that the network's interface stays the same.

    Args:
        traced: The network.
        further: Other ways through the same network; its parameters carry the same labels on each.
    """
    result = Flow(traced, tuple(further))
    with no_gc():
        for view in result.views:
            _run(result, view)
    return result


def _run(result: Flow, view: Traced) -> None:
    by_tensor = {id(_tensor(result.traced, name)): labels for name, labels in result.tensors.items()}
    for node in view.nodes:
        result.constraints.here = node
        if node.op == "placeholder":
            result.labels[node] = unlabelled(node)
        elif node.op == "get_attr":
            _label_tensor(result, view, node, by_tensor)
        elif node.op == "call_function":
            result.labels[node] = _label_call(result, node)
        elif node.op == "output":
            for value in _interface(node, view):
                for labels in _flat(result.labels.get(value)):
                    result.constraints.pin_all(labels, OUTPUT)
                    result.constraints.pin(*([] if labels.points is None else [labels.points]), reason=OUTPUT)
    if view is not result.traced:
        for node in view.nodes:
            result.macs.pop(node, None)
            result.more_macs.pop(node, None)


def _interface(output: Node, view: Traced) -> list[Node]:
    """What the network gives to others, which has to stay as it is; what it keeps for itself may be cut."""
    if not view.state:
        return output.all_input_nodes
    leaves: Any = output.args[0]
    return [leaf for k, leaf in enumerate(leaves) if isinstance(leaf, Node) and k not in view.state]


def _tensor(traced: Traced, name: str) -> Any:
    return operator.attrgetter(name)(traced.module)


def _label_tensor(result: Flow, view: Traced, node: Node, by_tensor: dict[int, Labels]) -> None:
    """Labels of a parameter, buffer or constant: those of the same tensor, or of the same name in another view.

    Whole numbers (indices, masks, counters) carry none: what they point at would change its meaning; but for those
    that operators take as values. Constants of a
    further view carry none either, because no plan could name them.
    """
    name = str(node.target)
    tensor = _tensor(view, name)
    if not isinstance(tensor, Tensor):
        return
    shape = tuple(tensor.shape)
    labels = by_tensor.get(id(tensor))
    if labels is None and view is not result.traced and name in _own_names(view):
        labels = result.tensors.get(name)
    if labels is None and (
        not (tensor.is_floating_point() or tensor.is_complex() or _of_values(node))
        or (view is not result.traced and name not in _own_names(view))
    ):
        labels = Labels(shape)
    if labels is None:
        fresh = result.constraints.fresh
        labels = Labels(shape, {d: (fresh(n),) for d, n in enumerate(shape)})
    by_tensor[id(tensor)] = labels
    result.labels[node] = labels
    if labels.dims or view is result.traced:
        result.tensors[name] = labels


def _of_values(node: Node) -> bool:
    """Whether all that a tensor of whole numbers is used for is as values, one for every entry."""
    uses = [
        name in facts(user).values
        for user in node.users if isinstance(user.target, torch._ops.OpOverload)
        for name, value in arguments(user).items() if value is node
    ]  # fmt: skip
    return bool(uses) and len(node.users) <= len(uses) and all(uses)


def _own_names(view: Traced) -> set[str]:
    """Names of parameters and buffers, without the constants of the trace."""
    module = view.module
    names = {n for n, _ in (*module.named_parameters(remove_duplicate=False), *module.named_buffers())}
    return {n for n in names if not n.startswith(REGION)}


def _label_call(result: Flow, node: Node) -> Any:
    if node.target is operator.getitem:
        source, index = node.args
        several = result.labels.get(source)  # type: ignore[arg-type]
        return several[index] if isinstance(several, list) else None  # type: ignore[index]
    if not isinstance(node.target, torch._ops.OpOverload):
        return unlabelled(node)
    call = Call(result, node)
    if not call.tensors and not _produces_tensor(node):
        return None
    rule = find(node.target)
    if any(map(sized_by_data, (node, *node.all_input_nodes))):
        return _sized_call(call, rule)
    if rule is None:
        call.point(NO_RULE)
        return call.pin(NO_RULE)
    result.labels[node] = _flowed(call, rule)
    if rule.macs is not None and isinstance(result.labels[node], Labels):
        result.macs[node] = rule.macs(call)
    return result.labels[node]


def _flowed(call: Call, rule: Operator) -> Any:
    """What the rule of an operator gives; values that are numbers of entries are seen to."""
    return rule.flow(call) if rule.numbers else _numbered(call, rule.flow(call))


def _numbered(call: Call, found: Any) -> Any:
    """What a rule gives that knows nothing of numbers of entries: they stay so where values stay as they are."""
    points = [t.points for t in call.tensors if t.points is not None]
    if not points:
        return found
    known = facts(call.node)
    kept = known.same_entries or known.kind in _VALUES
    truths = isinstance(value := call.node.meta.get("val"), Tensor) and value.dtype is torch.bool
    if isinstance(found, Labels) and len(call.tensors) == 1 and kept and not truths:
        return found.pointing(points[0])
    call.point(CHOSEN)
    return found


_VALUES = (Kind.COPY, Kind.CAST, Kind.RESHAPE, Kind.PIECE)
"""What leaves values as they are."""


def _sized_call(call: Call, rule: Operator | None) -> Any:
    """An operator with sizes that the data decide: those carry no labels, the others go as the rule says.

    A rule sees 0 in the place of such a size; where it cannot do without it, everything is pinned.
    """
    try:
        found = _flowed(call, rule) if rule is not None else None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        found = None
    parts, values = _flat(found), call.node.meta.get("val")
    several = [v for v in (values if isinstance(values, (list, tuple)) else [values]) if isinstance(v, Tensor)]
    unknown = call.node.meta.get(BY_DATA, ())
    if len(parts) != len(several) or not all(_fits(x, v, unknown) for x, v in zip(parts, several, strict=True)):
        call.point(SIZED)
        return call.pin(SIZED)
    return found


def _fits(x: Labels, value: Tensor, unknown: Collection[int]) -> bool:
    """Whether labels stand on dimensions of a known size alone, one for every entry."""
    known = {d: n if isinstance(n, int) else n.node.hint for d, n in enumerate(value.shape) if d not in unknown}
    return all(len(v) == known.get(d) for d, vectors in x.dims.items() for v in vectors)


def _produces_tensor(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, (Tensor, list, tuple))


def unlabelled(node: Node) -> Any:
    """Outputs of ``node`` without labels: :class:`Labels`, a list of them, or ``None`` for a number."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return Labels(_shape(value))
    if isinstance(value, (list, tuple)):
        return [Labels(_shape(v)) if isinstance(v, Tensor) else None for v in value]
    return None


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of a tensor-valued node with the example's batch size."""
    return _shape(node.meta["val"])


def modules_of(node: Node) -> list[str]:
    """Dotted names of the modules that the operator is called in, outermost (the network itself, empty) first."""
    stack: Mapping[str, Sequence[Any]] = node.meta.get("nn_module_stack") or {}
    names = [str(path) for path, _ in stack.values() if "_empty_nn_module_stack" not in str(path)]
    return [name.removeprefix("L['self']").lstrip(".") for name in names]


def module_of(node: Node) -> str:
    """Dotted name of the module that calls the operator."""
    return (modules_of(node) or [""])[-1]


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(_hint(s) for s in value.shape)


def _hint(value: Any) -> Any:
    """The example's value of a symbolic size; 0 where the size depends on the data and nobody knows it."""
    if isinstance(value, torch.SymInt):
        return int(value.node.hint or 0)
    return value


def sized_by_data(node: Node) -> bool:
    """Whether a tensor (or one of several) has a size that only running the network on data tells."""
    return BY_DATA in node.meta or _unknown(node.meta.get("val"))


def _unknown(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_unknown, value))
    sizes = value.shape if isinstance(value, Tensor) else ()
    return any(isinstance(s, torch.SymInt) and s.node.hint is None for s in sizes)


def _flat(labels: Any) -> list[Labels]:
    if isinstance(labels, Labels):
        return [labels]
    return [x for item in labels for x in _flat(item)] if isinstance(labels, list) else []

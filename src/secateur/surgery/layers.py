"""Real layers in a graph: where a plain layer of PyTorch made one operator, a layer of the same class calls it.

A graph names operators and tensors; users name layers: hooks, freezing, learning rates by layer, adapters. A layer is
believed to stand for an operator if a twin of it without values, when it is called, calls that operator with the same
numbers and with its own tensors in the same places. So there is no second rule for what a layer computes.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from secateur.graph.facts import Kind
from secateur.graph.flow import module_of, shape_of
from secateur.graph.internals import OperatorMode
from secateur.graph.rules import facts
from secateur.graph.schema import bound
from secateur.surgery.known import Kept, resize

__all__ = ["LAYERS", "MODES", "Shapes", "by_mode", "counts_batches", "filled", "in_its_mode", "in_order", "is_layer",
           "made", "module_at", "put_layers", "settings_of"]  # fmt: skip

MODES = "_mode"
"""Where modules lie in a graph that the network did not have: what follows ``train()`` and is no layer of its own."""

LAYERS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d,
    nn.InstanceNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding, nn.PReLU,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softshrink, nn.Softsign,
    nn.Tanh, nn.Threshold, nn.Softmax, nn.LogSoftmax, nn.GLU,
)}  # fmt: skip
"""Layers that a graph may hold, by the names that a file has for them."""

_HOW = ("cudnn_enabled",)
"""Arguments of operators that say by whom it is computed, not what; ``torch.export`` switches it off."""

Shapes = Callable[[Node], tuple[int, ...] | None]


def put_layers(
    graph: GraphModule, model: nn.Module, shape: Shapes = shape_of, keep: Mapping[str, Kept] | None = None, *,
    frozen: Collection[str] | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Puts layers in the place of operators, in place; parameters and buffers stay the same tensors.

    Args:
        graph: A traced graph; its nodes know the modules that called them.
        model: The network that was traced, for the classes and settings of its layers.
        shape: Shape of what a node gives in ``graph``.
        keep: Kept indices by tensor name and dimension, where ``graph`` is smaller than ``model``.
        frozen: Where ``graph`` was traced in train mode, layers that stay in eval mode there; the others follow theirs,
            and count their batches. ``None`` in eval mode.

    Returns:
        Names of the layers.
    """
    tensors = {n: _tensor(graph, n) for n in graph.graph.nodes if n.op == "get_attr"}
    done: list[str] = []
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for path, nodes in _by_module(graph).items():
        dense = _submodule(model, path)
        if dense is None or not is_layer(dense):
            continue
        layer = _layer(graph, path, dense, nodes[0], shape, (keep or {}).get(f"{path}.weight", {}))
        trains = None if frozen is None else path not in frozen
        inputs = [_input(layer, node, tensors, shape, trains) for node in nodes] if layer is not None else [None]
        if layer is None or None in inputs:
            continue
        for name in names[id(dense)]:
            _put(graph, name, layer)
        for node, given in zip(nodes, inputs, strict=True):
            node.op, node.target, node.args, node.kwargs = "call_module", path, (given,), {}
        done.append(path)
    for node in [n for n in graph.graph.nodes if counts_batches(n) and module_of(n) in done]:
        graph.graph.erase_node(node)
    _forget(graph, done)
    in_order(graph, model)
    graph.graph.lint()
    graph.recompile()
    return tuple(done)


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of PyTorch's that a graph may hold: of the class itself, none of the user's."""
    return LAYERS.get(type(module).__name__) is type(module)


def settings_of(layer: nn.Module) -> dict[str, Any]:
    """What a layer is built with, as its attributes say it.

    >>> settings_of(nn.Linear(3, 2, bias=False))
    {'in_features': 3, 'out_features': 2, 'bias': False}
    """
    found: dict[str, Any] = {}
    for name in inspect.signature(type(layer)).parameters:
        value = getattr(layer, name, None)
        if isinstance(value, Tensor) or name in layer._parameters:
            found[name] = value is not None
        elif hasattr(layer, name):
            found[name] = value
    return found


def made(kind: type[nn.Module], settings: Mapping[str, Any]) -> nn.Module:
    """A layer without values."""
    with torch.device("meta"):
        return kind(**settings)


def filled(layer: nn.Module, holder: nn.Module | None) -> nn.Module | None:
    """Gives a layer the tensors of a module that only holds them; ``None`` where these are not the layer's."""
    own: list[dict[str, Any]] = [layer._parameters, layer._buffers]
    held: list[dict[str, Any]] = [holder._parameters, holder._buffers] if holder is not None else [{}, {}]
    for mine, theirs in zip(own, held, strict=True):
        if {n for n, t in mine.items() if t is not None} != {n for n, t in theirs.items() if t is not None}:
            return None
        mine.update({name: tensor for name, tensor in theirs.items() if tensor is not None})
    layer._non_persistent_buffers_set = set(holder._non_persistent_buffers_set) if holder is not None else set()
    return layer if holder is None or not holder._modules else None


# ------------------------------------------------------------------------------------------------------ one layer


def _by_module(graph: GraphModule) -> dict[str, list[Node]]:
    """Everything that was called in a module itself, and not in a module inside it."""
    found: dict[str, list[Node]] = {}
    for node in graph.graph.nodes:
        path = module_of(node) if node.op == "call_function" and not counts_batches(node) else ""
        if path and path.partition(".")[0] != MODES:
            found.setdefault(path, []).append(node)
    return found


def counts_batches(node: Node) -> bool:
    """Whether a batch norm counts a batch here, as it does in train mode."""
    counter = node.args[0] if node.target is torch.ops.aten.add_.Tensor else None
    return isinstance(counter, Node) and str(counter.target).rpartition(".")[2] == "num_batches_tracked"


def by_mode(node: Node) -> set[str]:
    """Arguments of an operator that say the mode of the layer that calls it."""
    known = facts(node)
    return {known.writes_if, *known.draws_if} | ({"momentum"} if known.kind is Kind.BATCH_NORM else set()) - {""}


def in_its_mode(evaluated: Any, got: Any, *, trains: bool) -> bool:
    """Whether an argument that says the mode of a layer is what it is where the network is in train mode.

    Args:
        evaluated: What it is in eval mode.
        got: What it was there.
        trains: Whether the layer is in train mode there, too; code can say otherwise as it runs.
    """
    return bool(got) == (bool(evaluated) or trains)


def _layer(
    graph: GraphModule, path: str, dense: nn.Module, node: Node, shape: Shapes, kept: Kept
) -> nn.Module | None:  # fmt: skip
    """The layer with the tensors of the graph and sizes that are true."""
    settings = settings_of(dense)
    if not any(t is not None for t in (*dense._parameters.values(), *dense._buffers.values())):
        settings |= _sizes_of_call(settings, node, shape)
    held = _submodule(graph, path)
    if type(held) is type(dense):  # the graph of the other mode has it already
        return held
    layer = filled(made(type(dense), settings), held)
    if layer is not None:
        resize(layer, kept)
    return layer


def _sizes_of_call(settings: Mapping[str, Any], node: Node, shape: Shapes) -> dict[str, Any]:
    """Sizes that a layer without tensors remembers: what it is called with says them."""
    call = bound(node.target, node.args, node.kwargs) if isinstance(node.target, torch._ops.OpOverload) else {}
    found = {}
    for name, setting in settings.items():
        if name in ("num_features", "num_channels"):
            first = next(iter(node.all_input_nodes), None)
            sizes = None if first is None else shape(first)
            found[name] = sizes[1] if sizes is not None and len(sizes) > 1 else setting
        elif type(setting) is int and type(call.get(name)) is int:
            found[name] = call[name]
        elif isinstance(setting, tuple) and isinstance(call.get(name), (tuple, list)):
            found[name] = tuple(call[name])
    return found


def _input(
    layer: nn.Module, node: Node, tensors: Mapping[Node, Any], shape: Shapes, trains: bool | None
) -> Node | None:  # fmt: skip
    """What the layer is called with where it stands for an operator; ``None`` where it does not.

    ``trains`` says whether its train mode is on where the operator was traced in train mode, else ``None``.
    """
    own = dict(layer.named_parameters()) | dict(layer.named_buffers())
    given = [n for n in node.all_input_nodes if not any(tensors.get(n) is t for t in own.values())]
    sizes = shape(given[0]) if len(given) == 1 else None
    if sizes is None or not isinstance(node.target, torch._ops.OpOverload):
        return None
    twin, names = _without_values(layer)
    value = torch.empty(sizes, dtype=given[0].meta["val"].dtype, device="meta")
    called = _called(twin, value)
    if called is None or called[0] != node.target:
        return None
    theirs, ours = bound(*called), bound(node.target, node.args, node.kwargs)
    for name, want in theirs.items():
        got = ours[name]
        if name in _HOW or (trains is not None and name in by_mode(node) and (
                name == "momentum" or in_its_mode(want, got, trains=trains))):  # fmt: skip
            continue
        if isinstance(want, Tensor):
            right = got is given[0] if want is value else own.get(names.get(id(want), "")) is tensors.get(got, layer)
        else:
            right = _plain(got) == _plain(want)
        if not right:
            return None
    return given[0]


def _without_values(layer: nn.Module) -> tuple[nn.Module, dict[int, str]]:
    """A twin in eval mode, as the graph was traced, and the names of its tensors by ``id``."""
    twin = made(type(layer), settings_of(layer)).eval()
    for held in (twin._parameters, twin._buffers):
        values: dict[str, Any] = held
        for name in values:
            own = getattr(layer, name)
            values[name] = None if own is None else own.detach().to("meta")
    return twin, {id(t): n for held in (twin._parameters, twin._buffers) for n, t in held.items() if t is not None}


class _Calls(OperatorMode):  # type: ignore[no-untyped-call]
    """Notes every operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[Any, Any, Any]] = []
        self.result: Any = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append((func, args, kwargs or {}))
        self.result = func(*args, **(kwargs or {}))
        return self.result


def _called(twin: nn.Module, value: Tensor) -> tuple[Any, Any, Any] | None:
    """The one operator that a layer calls and whose result it gives; ``None`` where it is not so."""
    try:
        with torch.inference_mode(), _Calls() as calls:
            result = twin(value)
    except Exception:  # whatever it says of such an input
        return None
    return calls.seen[0] if len(calls.seen) == 1 and result is calls.result else None


def _plain(value: Any) -> Any:
    """Numbers as they are, lists as tuples; a number that depends on sizes is like no other."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return (type(value) is bool, value) if isinstance(value, (bool, int, float)) else value


# ------------------------------------------------------------------------------------------------------ the graph


def _tensor(graph: GraphModule, node: Node) -> Any:
    return operator.attrgetter(str(node.target))(graph)


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _put(graph: GraphModule, path: str, layer: nn.Module) -> None:
    *above, name = path.split(".")
    module_at(graph, above).add_module(name, layer)


def module_at(root: nn.Module, parts: Sequence[str]) -> nn.Module:
    """The module of a name, made with those above it where there is none."""
    for part in parts:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def in_order(module: nn.Module, like: nn.Module) -> None:
    """Puts modules in the order in which another network has them, and with them the names of its weights."""
    held = module._modules
    for name in [n for n in like._modules if n in held] + [n for n in held if n not in like._modules]:
        held[name] = held.pop(name)
    for name, inside in held.items():
        other = like._modules.get(name)
        if inside is not None and other is not None and inside is not other:
            in_order(inside, other)


def _forget(graph: GraphModule, done: list[str]) -> None:
    """Takes out what names the tensors of layers and what nobody needs any more."""
    for node in list(_named_in(graph, frozenset(done))):
        if not node.users:
            graph.graph.erase_node(node)


def _named_in(graph: GraphModule, paths: frozenset[str]) -> Iterator[Node]:
    return (n for n in graph.graph.nodes if n.op == "get_attr" and str(n.target).rpartition(".")[0] in paths)

"""The recorder: a network's forward runs once on tensors without values, and what it calls is written down.

Under inference mode composite operators (convolutions, attention, recurrent layers) arrive whole. The user's Python
runs as it is, with plain numbers for sizes. A free batch is found by giving it an odd size: that of the example, times
a large prime. Whatever size is near a multiple of that prime follows the batch, all others do not.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from secateur.core.types import ExampleInputs
from secateur.graph.calling import (
    TRACING,
    alone,
    doubled,
    entered,
    has_batch,
    plain_forward,
    preserved_rng,
    to_args,
    uncollected,
)
from secateur.graph.copies import copy_network, plain_network
from secateur.graph.guard import Size, Sizes
from secateur.graph.internals import FunctionMode, LazyGraphModule, OperatorMode, codegen, exporting, pytree

__all__ = ["Recorded", "Unfollowed", "record"]

aten = torch.ops.aten

PRIMES = (1_299_709, 1_512_857, 1_747_721)
"""What the batch is multiplied by: far from powers of two and ten, from squares, and from one another."""

NEAR = 64
"""How far from a multiple of the prime a size may be that follows the batch (one sample more, say)."""

MOST_NODES = 200_000
"""More than any network has: a loop over the batch that nothing else gave away."""


class Unfollowed(Exception):
    """The recorder cannot follow this network; says why, to stand behind "because"."""


class _OfTheBatch(Unfollowed):
    """Python computed a broken number from the size of the batch, as nothing shows but its value."""


@dataclass(frozen=True)
class Recorded:
    """What was recorded.

    Attributes:
        module: Flat graph; parameters keep the names and the memory of the network's own.
        args: Positional example inputs; a batch of one became one of two.
        kwargs: Keyword example inputs.
        batch: Size of the batch in them (1 where there is none).
        dynamic: Whether the batch size stayed free.
        sizes: What sizes the graph is good for.
        notes: What the user should know about it.
    """

    module: GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    dynamic: bool
    sizes: Sizes
    notes: tuple[str, ...]


def record(model: nn.Module, inputs: ExampleInputs, *, method: str = "forward", training: bool = False) -> Recorded:
    """Records a network, with a free batch where it takes one.

    Args:
        model: Any network; it is not touched.
        inputs: What it is called with.
        method: What is called: ``forward``, or another method.
        training: Whether the network is in train mode.

    Raises:
        Unfollowed: It cannot be recorded.
    """
    model = plain_network(model)
    args, kwargs = pytree.tree_map_only(Tensor, alone, to_args(inputs))
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not tensors:
        raise Unfollowed("there is no tensor among its inputs")
    twice = doubled(args, kwargs)
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    reason: Exception | None = None
    with TRACING, uncollected(), preserved_rng(*tensors), warnings.catch_warnings(), exporting():
        warnings.simplefilter("ignore")
        for given, prime in (twice, _prime([*(t for _, t in held), *tensors])), ((args, kwargs), None):
            batch = next((t.shape[0] for t in pytree.tree_leaves(given) if has_batch(t)), 1)
            if prime is not None and batch == 1:  # the inputs do not agree on what the batch is
                continue
            try:
                return _Run(model, held, given, _Batch(batch, prime), method, training).recorded
            except _OfTheBatch:
                raise  # torch.export follows such numbers
            except Exception as error:  # the user's code raises what it likes
                reason = error
    raise reason if isinstance(reason, Unfollowed) else Unfollowed(f"{type(reason).__name__}: {reason}") from reason


# ---------------------------------------------------------------------------------------------------- the free batch


def _prime(tensors: list[Tensor]) -> int:
    """A prime that no size of the network's own tensors, or of the inputs, could be taken for."""
    sizes = {s for t in tensors for s in t.shape if s >= PRIMES[0] - NEAR}
    for prime in PRIMES:
        if all(min(size % prime, -size % prime) > NEAR for size in sizes):
            return prime
    raise Unfollowed("its tensors have sizes that stand for the batch elsewhere")


class _Batch:
    """Tells sizes that follow the batch from others, and what they are in the example."""

    def __init__(self, size: int, prime: int | None) -> None:
        self.size, self.prime = size, prime
        self.step = 1  # what the batch has to be a multiple of

    @property
    def odd(self) -> int:
        """The size in the place of the example's."""
        return self.size * (self.prime or 1)

    def follows(self, size: int) -> bool:
        """Whether a size follows the batch."""
        return self.prime is not None and size >= self.prime - NEAR and self._parts(size) is not None

    def _parts(self, size: int) -> tuple[int, int] | None:
        """How many primes there are in a size, and what is left over; ``None`` where it has nothing to do with it."""
        assert self.prime is not None
        times = (size + self.prime // 2) // self.prime
        rest = size - times * self.prime
        if times and abs(rest) > NEAR:
            return None
        if times > self.prime // 2:
            raise Unfollowed("it multiplies the batch by itself")
        return (times, rest) if times else None

    def real(self, size: int) -> int:
        """A size as it is in the example."""
        if self.prime is None or size < self.prime - NEAR or (parts := self._parts(size)) is None:
            return size
        times, rest = parts
        self.step = lcm(self.step, Fraction(times, self.size).denominator)
        return times + rest

    def expression(self, size: int, batch: Node) -> Any:
        """Nodes that compute a size from that of the batch."""
        parts = self._parts(size)
        assert parts is not None
        share, value = Fraction(parts[0], self.size), batch
        self.step = lcm(self.step, share.denominator)
        call = batch.graph.call_function
        for apply, number in (operator.mul, share.numerator), (operator.floordiv, share.denominator):
            if number != 1:
                value = _with_value(call(apply, (value, number)), apply(value.meta["val"], number))
        return _with_value(call(operator.add, (value, parts[1])), self.real(size)) if parts[1] else value

    def hides(self, number: float) -> bool:
        """Whether a broken number was computed from the size of the batch: a share of it, or of its root."""
        if self.prime is None:
            return False
        powers = (p for n in (number, number * number) for p in (n * self.prime, n / self.prime))
        return any(_simple(abs(p)) for p in powers if 1e-3 < abs(p) < 1e3)


def _simple(number: float) -> bool:
    """Whether a number is a fraction of small whole numbers, to the last digits; others hardly ever are."""
    return abs(float(Fraction(number).limit_denominator(256)) - number) <= 1e-11 * number


def _with_value(node: Node, value: Any) -> Node:
    node.meta["val"] = value
    return node


# ---------------------------------------------------------------------------------------------------- one run


class _Run:
    """One forward pass, written down."""

    def __init__(
        self, model: nn.Module, named: list[tuple[str, Tensor]], given: tuple[tuple[Any, ...], dict[str, Any]],
        batch: _Batch, method: str, training: bool,
    ) -> None:  # fmt: skip
        args, kwargs = given
        notes: list[str] = []
        twin, held, attributes = _without_values(model, named)
        twin = entered(twin, method, training)
        call = twin.forward
        plain_forward(twin, notes)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        writer = _Writer(held, attributes, batch, _device([*(t for _, t in named), *leaves]))
        fed = [writer.input(name, leaf) for name, leaf in zip(_names(call, args, kwargs), leaves, strict=True)]
        places = [n for n in writer.graph.nodes if n.op == "placeholder"]
        writer.count_batch(places)
        odd_args, odd_kwargs = pytree.tree_unflatten(fed, spec)
        with torch.inference_mode(), _stack(twin, writer), _Attributes(writer), writer:
            outputs, out_spec = pytree.tree_flatten(twin(*odd_args, **odd_kwargs))
        graph = writer.finished(outputs)
        module = _flat(model, writer.constants, graph)
        graph._codegen = codegen([str(n.target) for n in places], spec, out_spec)
        sizes = _sizes(places, batch, writer.followers)
        self.recorded = Recorded(
            module, args, kwargs, batch.size, bool(writer.followers), sizes, tuple(dict.fromkeys(notes))
        )


def _names(call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """A name for every leaf of the inputs, in order: that of the argument."""
    try:
        arguments = inspect.signature(call).bind_partial(*args).arguments
    except (TypeError, ValueError):
        arguments = {}
    bound = [name for name, value in arguments.items() for _ in range(_count(value))]
    known = bound if len(bound) == _count(args) else [f"arg_{i}" for i in range(_count(args))]
    known += [name for name, value in kwargs.items() for _ in range(_count(value))]
    used: dict[str, int] = {}
    for name in known:
        used[name] = used.get(name, 0) + 1
        yield name if known.count(name) == 1 else f"{name}_{used[name] - 1}"


def _count(tree: Any) -> int:
    return len(pytree.tree_leaves(tree))


def _sizes(places: list[Node], batch: _Batch, followers: set[Node]) -> Sizes:
    shapes: list[tuple[Size, ...] | None] = []
    values: list[Any] = []
    for node in places:
        value = node.meta["val"]
        if isinstance(value, Tensor):
            first: tuple[Size, ...] = ((batch.step, "batch"),) if node in followers else tuple(value.shape[:1])
            shapes.append((*first, *value.shape[1:]))
            values.append(None)
        else:
            shapes.append(None)
            values.append(value if isinstance(value, (int, float, bool, str)) else None)
    return Sizes(tuple(str(n.target) for n in places), tuple(shapes), tuple(values))


def _device(leaves: list[Any]) -> torch.device:
    devices = {t.device for t in leaves if isinstance(t, Tensor)}
    if len(devices) != 1:
        raise Unfollowed(f"its tensors are on {len(devices)} devices")
    return devices.pop()


def _without_values(
    model: nn.Module, named: list[tuple[str, Tensor]]
) -> tuple[nn.Module, list[tuple[str, Tensor]], dict[int, tuple[str, Tensor]]]:
    """A structural copy with meta tensors for parameters and buffers.

    Returns:
        The copy, its parameters and buffers under all their names, and other tensors that modules hold by ``id``.
    """
    made: dict[int, Tensor] = {}
    held: list[tuple[str, Tensor]] = []
    for name, tensor in named:
        if type(tensor) not in (Tensor, nn.Parameter):
            raise Unfollowed(f"{name!r} is a {type(tensor).__name__}")
        if id(tensor) not in made:
            empty = tensor.detach().to("meta")
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        held.append((name, made[id(tensor)]))
    twin = copy_network(model, made, lambda t: t.detach())
    known = {id(t) for t in made.values()}
    attributes: dict[int, tuple[str, Tensor]] = {}
    for path, module in twin.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and id(value) not in known:
                attributes.setdefault(id(value), (f"{path}.{name}".lstrip("."), value))
    return twin, held, attributes


@contextmanager
def _stack(twin: nn.Module, writer: _Writer) -> Iterator[None]:
    """Keeps the writer informed of the modules that are being called."""
    modules = dict(twin.named_modules())
    paths = {id(module): path for path, module in modules.items()}

    def enter(module: nn.Module, args: Any) -> None:
        writer.stack.append((paths[id(module)], type(module)))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        writer.stack.pop()

    hooks = []
    for module in modules.values():
        hooks += [module.register_forward_pre_hook(enter, prepend=True),
                  module.register_forward_hook(leave, always_call=True)]  # fmt: skip
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _flat(model: nn.Module, constants: Mapping[str, Tensor], graph: Graph) -> GraphModule:
    """A tree with the network's own tensors, under their names, and constants beside them."""
    root = LazyGraphModule(nn.Module(), Graph())
    made: dict[str, nn.Module] = {"": root}
    root.graph = graph

    def module_at(path: str) -> nn.Module:
        if path not in made:
            above, _, name = path.rpartition(".")
            made[path] = nn.Module()
            module_at(above).add_module(name, made[path])
        return made[path]

    def home(name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        return module_at(path), leaf

    kept = set(model.state_dict(keep_vars=True))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module, leaf = home(name)
        module.register_parameter(leaf, parameter)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        module, leaf = home(name)
        module.register_buffer(leaf, buffer, persistent=name in kept)
    for name, constant in constants.items():
        module, leaf = home(name)
        setattr(module, leaf, constant)
    return root


# ---------------------------------------------------------------------------------------------------- the writer

_READS_VALUES = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.item.default}
_BY_ENTRY = {aten.unbind.int, aten.split.Tensor, aten.chunk.default}
_LIKE_INPUT = {
    aten.batch_norm.default, aten.dropout.default, aten.dropout_.default, aten.gelu.default, aten.group_norm.default,
    aten.hardsigmoid.default, aten.hardsigmoid_.default, aten.hardswish.default, aten.hardswish_.default,
    aten.hardtanh.default, aten.hardtanh_.default, aten.layer_norm.default, aten.relu.default, aten.relu_.default,
    aten.relu6.default, aten.relu6_.default, aten.sigmoid.default, aten.silu.default, aten.silu_.default,
    aten.tanh.default,
}  # fmt: skip
"""Operators whose result is as their input, which PyTorch finds out in Python and slowly."""


def _conv2d(args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
    """What a convolution over a batch of images gives; ``None`` for what PyTorch itself has to look at."""
    rest: tuple[Any, ...] = (None, (1, 1), (0, 0), (1, 1), 1)
    x, weight, _, stride, padding, dilation, groups = (*args, *rest[len(args) - 2 :])
    alike = x.is_meta and x.dtype == weight.dtype and x.is_contiguous() and weight.is_contiguous()
    if kwargs or not alike or x.ndim != 4 or x.shape[1] != weight.shape[1] * groups:
        return None
    size = [
        (x.shape[d + 2] + 2 * padding[d % len(padding)] - dilation[d % len(dilation)] * (weight.shape[d + 2] - 1) - 1)
        // stride[d % len(stride)] + 1 for d in (0, 1)
    ]  # fmt: skip
    made: Tensor | None = x.new_empty((x.shape[0], weight.shape[0], *size)) if min(size) > 0 else None
    return made


def _linear(args: Any, kwargs: Any) -> Tensor | None:
    x, weight, *_ = args
    if kwargs or not x.is_meta or x.dtype != weight.dtype or weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        return None
    made: Tensor = x.new_empty((*x.shape[:-1], weight.shape[0]))
    return made


_LAYERS: Mapping[Any, Callable[[Any, Any], Tensor | None]] = {
    aten.conv2d.default: _conv2d, aten.linear.default: _linear,
}  # fmt: skip
"""Operators that most networks are made of, whose results PyTorch finds out in Python and slowly too."""

_CASTS = {aten.to.device, aten.to.dtype, aten.to.dtype_layout, aten.to.other, aten._to_copy.default}


def _tensors(arguments: Any) -> list[Tensor]:
    """Tensors among the arguments of an operator, in lists too."""
    found: list[Tensor] = []
    for value in arguments:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


@cache
def _written(func: Any) -> tuple[tuple[int, str], ...]:
    """Positions and names of the arguments that an operator writes into."""
    arguments = func._schema.arguments
    return tuple((i, a.name) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)


@cache
def _makes(func: Any) -> bool:
    """Whether an operator makes a tensor of no other."""
    schema = func._schema
    return any(a.name == "device" for a in schema.arguments) and not any(
        "Tensor" in str(a.type) for a in schema.arguments
    )


class _Writer(OperatorMode):  # type: ignore[no-untyped-call]
    """Writes every operator down, with sizes that follow the batch as such."""

    def __init__(
        self, held: list[tuple[str, Tensor]], attributes: dict[int, tuple[str, Tensor]], batch: _Batch,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.batch, self.device = batch, device
        self.constants: dict[str, Tensor] = {}
        self.stack: list[tuple[str, Any]] = []
        self.followers: set[Node] = set()
        self._attributes = attributes
        self._nodes: dict[int, Node] = {}
        self._alive: list[Any] = []  # an id is good as long as the tensor lives
        self._sizes: dict[int, Any] = {}
        self._stacks: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._count = 0
        self._size_of_batch: Node | None = None
        for name, tensor in held:  # all of them, used or not, as torch.export has them
            node = _with_value(self.graph.get_attr(name), tensor)
            if id(tensor) not in self._nodes:
                self._keep(tensor, node)

    # ---------------------------------------------------------------------------------------------- inputs, outputs

    def input(self, name: str, leaf: Any) -> Any:
        """A placeholder, and what the network gets in its place."""
        node = self.graph.placeholder(name)
        if not isinstance(leaf, Tensor):
            node.meta["val"] = leaf
            return leaf
        if type(leaf) is not Tensor and type(leaf) is not nn.Parameter:
            raise Unfollowed(f"its input {name!r} is a {type(leaf).__name__}")
        node.meta["val"] = torch.empty_like(leaf, device="meta", requires_grad=False)
        shape = list(leaf.shape)
        if self.batch.prime is not None and shape and shape[0] == self.batch.size:
            shape[0] = self.batch.odd
            self.followers.add(node)
        made = torch.empty(shape, dtype=leaf.dtype, device="meta")
        self._keep(made, node)
        return made

    def count_batch(self, places: list[Node]) -> None:
        """Puts the size of the batch behind the inputs."""
        first = next((n for n in places if n in self.followers), None)
        if first is not None:
            self._size_of_batch = _with_value(self.graph.call_function(aten.sym_size.int, (first, 0)), self.batch.size)

    def finished(self, outputs: list[Any]) -> Graph:
        """The graph with its outputs, and with sizes as they are in the example."""
        self.graph.output(tuple(self._argument(value) for value in outputs))
        for node in self.graph.nodes:
            if "val" in node.meta:
                node.meta["val"] = self._as_given(node.meta["val"])
        for node in [self._size_of_batch, *self._sizes.values()]:
            if isinstance(node, Node) and not node.users:
                self.graph.erase_node(node)
        self.graph.lint()
        return self.graph

    def _as_given(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            shape = tuple(map(self.batch.real, value.shape))
            return value if shape == tuple(value.shape) else torch.empty(shape, dtype=value.dtype, device="meta")
        if isinstance(value, (tuple, list)):
            return [self._as_given(v) for v in value]
        return value

    # ---------------------------------------------------------------------------------------------- arguments

    def _keep(self, value: Tensor, node: Node) -> None:
        self._nodes[id(value)] = node
        self._alive.append(value)

    def _node(self, tensor: Tensor) -> Node:
        found = self._nodes.get(id(tensor))
        if found is None:
            known = self._attributes.get(id(tensor))
            name = f"_tensor_constant{len(self.constants)}" if known is None else known[0]
            if not tensor.is_meta:  # what is an attribute is only read; others are as they were before they changed
                self.constants[name] = tensor if known is not None else tensor.clone()
            elif known is None:
                raise Unfollowed("it uses a tensor that it made elsewhere (in another thread, say)")
            found = self.graph.get_attr(name)
            found.meta["val"] = tensor
            self._keep(tensor, found)
        return found

    def _argument(self, value: Any) -> Any:
        kind = type(value)
        if kind is int:
            return self._size(value)
        if isinstance(value, Tensor):
            return self._node(value)
        if kind is float and self.batch.hides(value):
            raise _OfTheBatch("Python computes a number from the size of the batch")
        if isinstance(value, (list, tuple)):
            return [self._argument(v) for v in value]
        if kind is torch.device and value.type == "meta":
            return self.device
        return value

    def _size(self, value: int) -> Any:
        if not self.batch.follows(value):
            return value
        if value not in self._sizes:
            assert self._size_of_batch is not None
            with self.graph.inserting_before(self._size_of_batch.next):
                node = self.batch.expression(value, self._size_of_batch)
            self._sizes[value] = node
        return self._sizes[value]

    # ---------------------------------------------------------------------------------------------- operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Writes one operator down and runs it."""
        kwargs = kwargs or {}
        self._count += 1
        if self._count > MOST_NODES:
            raise Unfollowed("it calls more operators than can be written down")
        tensors = _tensors(args) if not kwargs else _tensors((*args, *kwargs.values()))
        if func in _READS_VALUES:
            return self._value(func, args, kwargs, tensors)
        if func is aten.detach_.default or (func is aten.detach.default and self._fresh(args[0])):
            return func(*args, **kwargs)  # a constant that is being made
        self._refuse_entries(func, args)
        written = [args[i] if i < len(args) else kwargs.get(name) for i, name in _written(func)]
        if any(isinstance(t, Tensor) and not t.is_meta for t in written):
            self._refuse_lost(written, tensors)
        call = tuple(self._argument(a) for a in args), {k: self._argument(v) for k, v in kwargs.items()}
        result = self._run(func, args, kwargs, tensors)
        # What is made of Python's numbers is made anew in every call.
        self._note(aten.lift_fresh_copy.default if func is aten.lift_fresh.default else func, call, result)
        return result

    def _fresh(self, tensor: Tensor) -> bool:
        return not tensor.is_meta and id(tensor) not in self._nodes and id(tensor) not in self._attributes

    def _note(self, func: Any, call: tuple[tuple[Any, ...], dict[str, Any]], result: Any) -> None:
        several = isinstance(result, (tuple, list))
        if not isinstance(result, Tensor) and not several and not _written(func):
            return
        node = self.graph.create_node("call_function", func, *call)
        node.meta["nn_module_stack"] = self._here()
        node.meta["val"] = result
        if isinstance(result, Tensor):
            self._keep(result, node)
        for index, one in enumerate(result if several else ()):
            if isinstance(one, Tensor):
                part = self.graph.call_function(operator.getitem, (node, index))
                part.meta["val"] = one
                part.meta["nn_module_stack"] = node.meta["nn_module_stack"]
                self._keep(one, part)

    def _here(self) -> dict[str, Any]:
        key = tuple(path for path, _ in self.stack)
        if key not in self._stacks:
            self._stacks[key] = {f"{i}:{path}": (path, kind) for i, (path, kind) in enumerate(self.stack)}
        return self._stacks[key]

    def _run(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        if func in _CASTS and tensors[0].is_meta:  # to the device that it is said to be on already
            return self._cast(func, args, kwargs)
        if func in _LIKE_INPUT and not kwargs and args[0].is_meta and args[0].is_floating_point():
            return self._like_input(func, args)
        if func in _LAYERS and (found := _LAYERS[func](args, kwargs)) is not None:
            return found
        if _makes(func) and not tensors and self._follows(args):
            return func(*args, **{**kwargs, "device": "meta"})
        empty = any(t.is_meta for t in tensors)
        if empty and not all(t.is_meta for t in tensors):
            args, kwargs = pytree.tree_map_only(Tensor, lambda t: t if t.is_meta else t.to("meta"), (args, kwargs))
        if empty and kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)

    @staticmethod
    def _like_input(func: Any, args: Any) -> Tensor:
        if func is aten.batch_norm.default and args[5] and args[0].numel() <= args[0].shape[1]:
            return func(*args)  # type: ignore[no-any-return]  # it asks for more than one value a channel
        return args[0] if _written(func) else torch.empty_like(args[0])

    @staticmethod
    def _cast(func: Any, args: Any, kwargs: Any) -> Any:
        named = [a.name for a in func._schema.arguments]
        given = dict(zip(named, args, strict=False)) | kwargs
        like = given.get("other")
        dtype = like.dtype if isinstance(like, Tensor) else given.get("dtype")
        source = given["self"]
        if func is aten._to_copy.default or given.get("copy"):
            return source.clone() if dtype is None else source.to(dtype, copy=True)
        return source if dtype in (None, source.dtype) else source.to(dtype)

    def _follows(self, args: Any) -> bool:
        return any(type(v) is int and self.batch.follows(v) for v in pytree.tree_leaves(args))

    # ---------------------------------------------------------------------------------------------- refusals

    def _value(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """A number that Python reads off a tensor: only a constant's, whatever the inputs are."""
        if any(t.is_meta for t in tensors):
            raise Unfollowed("Python reads the value of a tensor")
        if any(map(self.depends, tensors)):
            raise Unfollowed("Python reads a value that follows the batch, or a random number")
        return func(*args, **kwargs)

    def depends(self, tensor: Tensor) -> bool:
        """Whether a value depends on an input, if only on its batch, or on chance."""
        node = self._nodes.get(id(tensor))
        seen, left = set[Node](), [node] if node is not None else []
        while left:
            one = left.pop()
            if one.op == "placeholder" or torch.Tag.nondeterministic_seeded in getattr(one.target, "tags", ()):
                return True
            left += [n for n in one.all_input_nodes if n not in seen]
            seen.update(one.all_input_nodes)
        return False

    def _refuse_entries(self, func: Any, args: Any) -> None:
        """A loop over the samples would be as long as the batch is in this run."""
        if self.batch.prime is None:
            return
        if func in (aten.select.int, aten.slice.Tensor) and len(args) > 2 and type(args[2]) is int:
            size = args[0].shape[args[1]] if args[0].ndim else 0
            if self.batch.follows(size) and self.batch.size <= args[2] < NEAR:
                raise Unfollowed("it takes the samples of a batch one by one")
        if func in _BY_ENTRY:
            dim = (args[2] if len(args) > 2 else 0) if func is not aten.unbind.int else args[1] if len(args) > 1 else 0
            pieces = args[0].shape[dim] if func is aten.unbind.int else args[1]
            if self.batch.follows(args[0].shape[dim]) and not (func is aten.chunk.default and pieces < NEAR):
                whole = func is aten.split.Tensor and self.batch.follows(pieces)
                if not whole:
                    raise Unfollowed("it takes the samples of a batch one by one")

    def _refuse_lost(self, written: list[Any], tensors: list[Tensor]) -> None:
        """Writing into a tensor with values what has none would leave it with wrong ones."""
        for tensor in written:
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                if id(tensor) in self._attributes or any(t.is_meta for t in tensors):
                    raise Unfollowed("it writes into a tensor that it holds as a plain attribute, or into a constant")
                node = self._nodes.get(id(tensor))
                if node is None or node.op == "get_attr":
                    raise Unfollowed("it changes a constant that it holds")


_DEVICE: Any = torch.Tensor.device
_WHERE: Mapping[Any, str] = {getattr(torch.Tensor, f"is_{kind}").__get__: kind for kind in ("cpu", "cuda", "meta")}
_MEMORY: set[Any] = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.data_ptr}


class _Attributes(FunctionMode):
    """Tensors without values say that they are where the network is; nobody reads their memory."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self._writer = writer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answers for one call."""
        if func == _DEVICE.__get__ and args[0].is_meta:
            return self._writer.device
        if func in _WHERE and args[0].is_meta:
            return self._writer.device.type == _WHERE[func]
        if func in _MEMORY and (args[0].is_meta or self._writer.depends(args[0])):
            raise Unfollowed("Python reads the values of a tensor")
        return func(*args, **(kwargs or {}))

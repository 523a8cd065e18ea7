"""Writes down every operator that a network calls, with sizes that follow the batch as such."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from secateur.graph.again import NUMBERS, Again, Path, whole_numbers
from secateur.graph.batch import NEAR, Batch, OfTheBatch, ReadsValue, Unfollowed, with_value
from secateur.graph.chance import middle, settled
from secateur.graph.counted import Counted
from secateur.graph.internals import OperatorMode, pytree
from secateur.graph.lines import LINE, caller
from secateur.graph.patience import Patience

__all__ = ["Writer"]

aten = torch.ops.aten

MOST_NODES = 200_000
"""More than any network has: a loop over the batch that nothing else gave away."""

_ASSIGNS = {aten.index_put.default, aten.index_put_.default}
_READS_VALUES = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.item.default}
_BY_ENTRY = {aten.unbind.int, aten.split.Tensor, aten.chunk.default}
_LIKE_INPUT = {
    aten.batch_norm.default, aten.dropout.default, aten.dropout_.default, aten.gelu.default, aten.group_norm.default,
    aten.hardsigmoid.default, aten.hardsigmoid_.default, aten.hardswish.default, aten.hardswish_.default,
    aten.hardtanh.default, aten.hardtanh_.default, aten.layer_norm.default, aten.relu.default, aten.relu_.default,
    aten.relu6.default, aten.relu6_.default, aten.sigmoid.default, aten.silu.default, aten.silu_.default,
    aten.tanh.default, aten.fake_quantize_per_tensor_affine.tensor_qparams,
    aten.fake_quantize_per_channel_affine.default,
}  # fmt: skip
"""Operators whose result is as their input, which PyTorch finds out in Python and slowly, or not at all."""


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


def _grouped(args: Any, kwargs: Any) -> Tensor | None:
    """Rows times one of several matrices each; without values PyTorch takes bfloat16 alone."""
    x, weight, *_ = args
    if not x.is_meta or x.ndim != 2 or weight.ndim != 3 or x.dtype != weight.dtype or x.shape[1] != weight.shape[1]:
        return None
    made: Tensor = x.new_empty((x.shape[0], weight.shape[2]))
    return made


def _recurrent(args: tuple[Any, ...], kwargs: Any) -> tuple[Tensor, ...] | None:
    """What a recurrent layer gives. PyTorch goes through all steps in time for it, and where time is the first
    dimension there are as many as the odd batch."""
    if kwargs or len(args) != 9:  # packed sequences
        return None
    x, states, params, _, layers, _, _, both, batch_first = args
    several = isinstance(states, (list, tuple))
    states = list(states) if several else [states]
    directions = 2 if both else 1
    batch = x.shape[0 if batch_first else 1] if x.ndim == 3 else None
    given = [tuple(s.shape[:2]) for s in states]
    if not x.is_meta or given != [(layers * directions, batch)] * len(states) or x.shape[2] != params[0].shape[1]:
        return None
    steps = x.shape[1 if batch_first else 0]
    out = x.new_empty((steps, batch, directions * states[0].shape[2]))
    return (out.transpose(0, 1) if batch_first else out, *(torch.empty_like(s, device="meta") for s in states))


_LAYERS: Mapping[Any, Callable[[Any, Any], Any]] = {
    aten.conv2d.default: _conv2d, aten.linear.default: _linear, aten.lstm.input: _recurrent,
    aten.gru.input: _recurrent, aten.rnn_tanh.input: _recurrent, aten.rnn_relu.input: _recurrent,
    **({aten._grouped_mm.default: _grouped} if hasattr(aten, "_grouped_mm") else {}),
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


class Writer(OperatorMode):  # type: ignore[no-untyped-call]
    """Writes every operator down, with sizes that follow the batch as such."""

    def __init__(
        self, held: list[tuple[str, Tensor]], attributes: dict[int, tuple[str, Tensor]], batch: Batch,
        device: torch.device, again: Again | None = None,
    ) -> None:  # fmt: skip
        """Writes down parameters and buffers first.

        Args:
            held: Parameters and buffers without values, under all their names.
            attributes: Other tensors that modules hold, with their names, by ``id``.
            batch: The free batch.
            device: Where the network is.
            again: What is found out where it has been recorded before.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.batch, self.device = batch, device
        self.constants: dict[str, Tensor] = {}
        self.stack: list[tuple[str, Any]] = []
        self.followers: set[Node] = set()
        self.again = again
        self.until: CodeType | None = None  # who calls the network's forward
        self.read: list[Any] = []
        self.training = self.decided_by_chance = False
        self.patience = Patience()
        self._attributes = attributes
        self._nodes: dict[int, Node] = {}
        self._alive: list[Any] = []  # an id is good as long as the tensor lives
        self._sizes: dict[int, Any] = {}
        self._stacks: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._count = 0
        self._counted = Counted(batch)
        self._size_of_batch: Node | None = None
        for name, tensor in held:  # all of them, used or not, as torch.export has them
            node = with_value(self.graph.get_attr(name), tensor)
            if id(tensor) not in self._nodes:
                self._keep(tensor, node)

    # ---------------------------------------------------------------------------------------------- inputs, outputs

    def input(self, name: str, leaf: Any) -> Any:
        """A placeholder, and what the network gets in its place."""
        node = self._met(self.graph.placeholder(name))
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
            self._size_of_batch = with_value(self.graph.call_function(aten.sym_size.int, (first, 0)), self.batch.size)

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
            shape = tuple(map(self._counted.as_given, value.shape))
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
            found = self._met(self.graph.get_attr(name))
            found.meta["val"] = tensor
            self._keep(tensor, found)
        return found

    def node_of(self, tensor: Tensor) -> Node | None:
        """What was written down for a tensor."""
        return self._nodes.get(id(tensor))

    def made(self, tensor: Tensor) -> bool:
        """Whether it was computed."""
        node = self.node_of(tensor)
        return node is not None and node.op == "call_function"

    def _argument(self, value: Any) -> Any:
        kind = type(value)
        if kind is int:
            return self._size(value)
        if isinstance(value, Tensor):
            return self._node(value)
        if kind is float and self.batch.hides(value):
            raise OfTheBatch("Python computes a number from the size of the batch")
        if isinstance(value, (list, tuple)):
            return [self._argument(v) for v in value]
        if kind is torch.device and value.type == "meta":
            return self.device
        return value

    def _size(self, value: int) -> Any:
        if not self.batch.follows(value):
            return self._counted.asked(value)
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
        self.patience.again()
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
        numbers = whole_numbers(args) + whole_numbers(kwargs.values(), kwargs)
        result = self._run(func, args, kwargs, tensors, any(self.batch.follows(number) for _, number in numbers))
        # What is made of Python's numbers is made anew in every call.
        kind = aten.lift_fresh_copy.default if func is aten.lift_fresh.default else func
        if func is aten.copy_.default and (number := self._one_number(args[1])) is not None:
            kind, call = aten.fill_.Tensor, ((call[0][0], number), {})  # y[:, 0] = 1.0
        if func in _ASSIGNS and isinstance(number := args[2], Tensor) and not number.ndim:
            call = (*call[0][:2], self._as_type(call[0][2], call[0][0]), *call[0][3:]), call[1]  # y[i] = 1.0
        self._note(kind, call, result, numbers)
        return result

    def _as_type(self, number: Node, other: Node) -> Node:
        """A number in the type of a tensor, whatever that is by then (PyTorch makes it so for ``y[i] = 1``)."""
        cast = self.graph.call_function(aten.type_as.default, (number, other))
        return with_value(cast, number.meta["val"].to(other.meta["val"].dtype))

    def _one_number(self, tensor: Tensor) -> Node | None:
        """The tensor without dimensions that one is spread from, entry by entry."""
        node = self._nodes.get(id(tensor))
        while node is not None and node.target is aten.expand.default:
            node = node.args[0] if isinstance(node.args[0], Node) else None
        return node if node is not None and isinstance(v := node.meta.get("val"), Tensor) and not v.ndim else None

    def _fresh(self, tensor: Tensor) -> bool:
        return not tensor.is_meta and id(tensor) not in self._nodes and id(tensor) not in self._attributes

    def _met(self, node: Node, numbers: list[tuple[Path, int]] | None = None) -> Node:
        """Marks what another recording has to have too, with the whole numbers that it is called with."""
        node.meta[NUMBERS] = numbers or []
        if self.again is not None:
            self.again.met(node)
        return node

    def _note(
        self, func: Any, call: tuple[tuple[Any, ...], dict[str, Any]], result: Any, numbers: list[tuple[Path, int]]
    ) -> None:
        several = isinstance(result, (tuple, list))
        if not isinstance(result, Tensor) and not several and not _written(func):
            return
        node = self.graph.create_node("call_function", func, *call)
        node.meta["nn_module_stack"] = self._here()
        node.meta[LINE] = None if self.until is None else caller(self.until)
        node.meta["val"] = result
        self._met(node, numbers)
        self._counted.met(node, result)
        if isinstance(result, Tensor):
            self._keep(result, node)
        for index, one in enumerate(result if several else ()):
            if isinstance(one, Tensor):
                part = self._met(self.graph.call_function(operator.getitem, (node, index)))
                part.meta["val"] = one
                part.meta["nn_module_stack"] = node.meta["nn_module_stack"]
                self._counted.met(part, one)
                self._keep(one, part)

    def _here(self) -> dict[str, Any]:
        key = tuple(path for path, _ in self.stack)
        if key not in self._stacks:
            self._stacks[key] = {f"{i}:{path}": (path, kind) for i, (path, kind) in enumerate(self.stack)}
        return self._stacks[key]

    def _run(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], follows: bool) -> Any:
        if (counted := self._counted.run(func, args)) is not None:
            return counted
        if func in _CASTS and tensors[0].is_meta:  # to the device that it is said to be on already
            return self._cast(func, args, kwargs)
        if func in _LIKE_INPUT and not kwargs and args[0].is_meta and args[0].is_floating_point():
            return self._like_input(func, args)
        if self.training and (single := middle(func, args, kwargs)) is not None:
            return single
        if func in _LAYERS and (found := _LAYERS[func](args, kwargs)) is not None:
            return found
        if _makes(func) and not tensors and follows:
            return func(*args, **{**kwargs, "device": "meta"})
        # A constant that is repeated for every sample would fill the memory at the odd size.
        empty = any(t.is_meta for t in tensors) or (follows and bool(tensors) and not _written(func))
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

    # ---------------------------------------------------------------------------------------------- refusals

    def _value(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """A number that Python reads off a tensor: only a constant's, whatever the inputs are."""
        if any(t.is_meta for t in tensors):
            raise ReadsValue("Python reads the value of a tensor")
        if any(map(self.depends, tensors)):
            raise Unfollowed("Python reads a value that follows the batch, or a random number")
        self.decided_by_chance |= any(self.depends(t, settled_too=True) for t in tensors)
        self.read.append(func(*args, **kwargs))
        return self.read[-1]

    def depends(self, tensor: Tensor, *, settled_too: bool = False) -> bool:
        """Whether a value depends on an input, if only on its batch, or on chance (also on what is settled)."""
        node = self._nodes.get(id(tensor))
        seen, left = set[Node](), [node] if node is not None else []
        while left:
            one = left.pop()
            if one.op == "placeholder" or self._by_chance(one, settled_too):
                return True
            left += [n for n in one.all_input_nodes if n not in seen]
            seen.update(one.all_input_nodes)
        return False

    def _by_chance(self, node: Node, settled_too: bool) -> bool:
        drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        return drawn and (settled_too or not (self.training and settled(node)))

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

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
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from secateur.core.modes import no_gc
from secateur.core.plan import Place
from secateur.core.types import ExampleInputs
from secateur.graph.again import Again, Tagged
from secateur.graph.attributes import Attributes
from secateur.graph.batch import Batch, OfTheBatch, ReadsValue, Unfollowed, prime_for
from secateur.graph.calling import (
    TRACING,
    alone,
    doubled,
    entered,
    followed,
    has_batch,
    plain_forward,
    preserved_rng,
    to_args,
)
from secateur.graph.chance import drawn_since, states, traced_draws
from secateur.graph.copies import copy_network, plain_network
from secateur.graph.guard import Size, Sizes
from secateur.graph.internals import LazyGraphModule, codegen, exporting, pytree
from secateur.graph.numbers import Lost
from secateur.graph.once import BY_CHANCE, Once
from secateur.graph.outside import packages_of, undisturbed
from secateur.graph.places import tagged
from secateur.graph.signature import argument_names, in_order
from secateur.graph.traced import Traced
from secateur.graph.writer import Writer

__all__ = ["record", "record_again", "record_call", "record_tagged"]

aten = torch.ops.aten


def record(model: nn.Module, inputs: ExampleInputs, *, method: str = "forward", training: bool = False) -> Traced:
    """Records a network, with a free batch where it takes one.

    Args:
        model: Any network; it is not touched.
        inputs: What it is called with.
        method: What is called: ``forward``, or another method.
        training: Whether the network is in train mode.

    Raises:
        Unfollowed: It cannot be recorded.
    """
    return record_call(plain_network(model), *to_args(inputs), method=method, training=training)


def record_call(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, method: str = "forward", training: bool = False
) -> Traced:  # fmt: skip
    """:func:`record`, with positional and keyword inputs.

    Raises:
        Unfollowed: It cannot be recorded.
    """
    inputs = args, in_order(getattr(model, method), kwargs)
    args, kwargs = pytree.tree_map_only(Tensor, alone, inputs)
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not tensors:
        raise Unfollowed("there is no tensor among its inputs")
    twice = doubled(args, kwargs)
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    reason: Exception | None = None
    with _recording(model, tensors):
        for given, prime in (twice, prime_for([*(t for _, t in held), *tensors])), ((args, kwargs), None):
            batch = next((t.shape[0] for t in pytree.tree_leaves(given) if has_batch(t)), 1)
            if prime is not None and batch == 1:  # the inputs do not agree on what the batch is
                continue
            try:
                return _followed(model, held, given, Batch(batch, prime), method, training).recorded(inputs)
            except OfTheBatch:
                raise  # torch.export follows such numbers
            except Exception as error:  # the user's code raises what it likes
                reason = error
    raise reason if isinstance(reason, Unfollowed) else Unfollowed(f"{type(reason).__name__}: {reason}") from reason


def _followed(
    model: nn.Module, held: list[tuple[str, Tensor]], given: Any, batch: Batch, method: str, training: bool
) -> _Run:  # fmt: skip
    """One forward pass; where its code reads whole numbers that the network holds in buffers, these are known."""
    try:
        return _Run(model, held, given, batch, method, training)
    except ReadsValue:
        known = _numbers_held(held)
        if not known:
            raise
        run = _Run(model, held, given, batch, method, training, known=known)
        run.notes.append("what its code works out from whole numbers in buffers is fixed in a graph")
        return run


def _numbers_held(held: list[tuple[str, Tensor]]) -> frozenset[str]:
    """Buffers of a whole number or two: strides, paddings, flags."""
    return frozenset(
        name for name, tensor in held
        if not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= FEW and not tensor.is_meta
    )  # fmt: skip


FEW = 4
"""Numbers of a buffer that are known to the recorder, at most."""


@contextmanager
def _recording(model: nn.Module, tensors: list[Tensor]) -> Iterator[None]:
    with (
        TRACING, no_gc(), preserved_rng(*tensors), warnings.catch_warnings(), exporting(), undisturbed(model)
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        yield


def record_again(
    model: nn.Module, first: GraphModule, given: tuple[tuple[Any, ...], dict[str, Any]], free: bool, *,
    method: str = "forward", training: bool = False,
) -> tuple[Again, Batch]:  # fmt: skip
    """Records a network a second time, beside the first time.

    Args:
        model: The network.
        first: What was recorded first.
        given: Inputs of other sizes; their values do not matter.
        free: Whether the batch stayed free.
        method: What is called.
        training: Whether the network is in train mode.

    Returns:
        What was found out, and the batch in that run.

    Raises:
        Lost: It goes another way at these sizes, or uses them in a way that cannot be followed.
        Exception: Whatever the network raises at these sizes.
    """
    model = plain_network(model)
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    tensors = [t for t in pytree.tree_leaves(given) if isinstance(t, Tensor)]
    size = next((t.shape[0] for t in tensors if has_batch(t)), 1)
    with _recording(model, tensors):
        batch = Batch(size, prime_for([*(t for _, t in held), *tensors]) if free else None)
        again = Again(first.graph)
        again.log.packages = packages_of(model)
        run = _Run(model, held, given, batch, method, training, again, known=first.meta[KNOWN])
    again.finished()
    if run.writer.read != first.meta[READ] or not _same_constants(run.writer.constants, first):
        raise Lost("a number or a tensor that Python computes is another one at another size")
    return again, batch


def record_tagged(model: nn.Module, traced: Traced) -> tuple[Tagged, dict[Place, int]]:
    """Records a network once more as it was recorded, with numbers that remember which attribute or size they are.

    Args:
        model: The network.
        traced: What was recorded of it.

    Returns:
        What was found out, and the places of whole numbers with what is there.

    Raises:
        Lost: It calls other operators then.
        Exception: Whatever the network raises when its numbers are of another class.
    """
    assert traced.odd is not None
    model, given = plain_network(model), (traced.args, traced.kwargs)
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    batch = Batch(traced.odd.size, traced.odd.prime)
    with _recording(model, [t for t in pytree.tree_leaves(given) if isinstance(t, Tensor)]):
        again = Tagged(traced.module.graph)
        again.log.packages = packages_of(model)
        places: dict[Place, int] = {}
        _Run(model, held, given, batch, traced.method, traced.training, again,
             prepare=lambda twin: places.update(tagged(twin, again.log)), known=traced.module.meta[KNOWN])  # fmt: skip
    again.finished()
    return again, places


READ = "numbers_read"
"""Meta data of a recorded graph: numbers that Python read off constants."""

KNOWN = "buffers_known"
"""Meta data of a recorded graph: names of buffers whose values were known."""


def _same_constants(constants: Mapping[str, Tensor], first: GraphModule) -> bool:
    known = {name: operator.attrgetter(name)(first) for name in constants}
    return all(t.shape == known[n].shape and torch.equal(t, known[n]) for n, t in constants.items())


# ---------------------------------------------------------------------------------------------------- one run


class _Run:
    """One forward pass, written down."""

    def __init__(
        self, model: nn.Module, named: list[tuple[str, Tensor]], given: tuple[tuple[Any, ...], dict[str, Any]],
        batch: Batch, method: str, training: bool, again: Again | None = None,
        prepare: Callable[[nn.Module], object] = lambda twin: None, known: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        args, kwargs = given
        self.known = known
        self.model, self.given, self.batch, self.method, self.training = model, given, batch, method, training
        notes = self.notes = list[str]()
        twin, held, attributes = _without_values(model, named, known)
        prepare(twin)
        twin = _counting_apart(entered(twin, method, training))
        call = twin.forward
        state: list[Tensor] = []
        plain_forward(twin, notes, state)
        self.arguments = argument_names(call, args, kwargs)
        leaves, self.spec = pytree.tree_flatten((args, kwargs))
        writer = Writer(held, attributes, batch, _device([*(t for _, t in named), *leaves]), again)
        fed = [writer.input(name, leaf) for name, leaf in zip(_names(call, args, kwargs), leaves, strict=True)]
        self.places = [n for n in writer.graph.nodes if n.op == "placeholder"]
        writer.count_batch(self.places)
        odd_args, odd_kwargs = pytree.tree_unflatten(fed, self.spec)
        writer.until = _Run.__init__.__code__
        writer.training = training
        traced_draws(training)
        before, once = states(), Once(twin, writer)
        odd = training and batch.prime is not None
        watched = once.watched(training)
        with (
            torch.inference_mode(),
            _stack(twin, writer),
            watched,
            Attributes(writer),
            writer,
            writer.patience.kept(odd),
        ):
            self.outputs, self.out_spec = pytree.tree_flatten(twin(*odd_args, **odd_kwargs))
        chance = drawn_since(before) or writer.decided_by_chance
        self.once = "" if not training else once.reason() or (BY_CHANCE if chance else "")
        inner = {id(tensor) for tensor in state}
        self.state = frozenset(k for k, value in enumerate(self.outputs) if id(value) in inner)
        self.writer = writer

    def recorded(self, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Traced:
        """The graph of it."""
        writer, batch = self.writer, self.batch
        graph = writer.finished(self.outputs)
        module = _flat(self.model, writer.constants, graph)
        module.meta[READ], module.meta[KNOWN] = writer.read, self.known
        graph._codegen = codegen(self.arguments, self.spec, self.out_spec)
        sizes = _sizes(self.places, batch, writer.followers)
        notes = tuple(dict.fromkeys(self.notes))
        free = bool(writer.followers)
        return Traced(module, *self.given, batch.size, free, inputs, sizes, self.method, self.training, (), batch,
                      in_graph=notes, state=self.state, once=self.once)  # fmt: skip


def _counting_apart(twin: nn.Module) -> nn.Module:
    """Batch norms that average over all batches read their counter in train mode; what comes out does not need it.

    Those of PyTorch's own classes are layers in a graph, which do it by themselves.
    """
    for module in twin.modules():
        if type(module).__module__ == nn.BatchNorm2d.__module__ and module.training and module.momentum is None:
            module.momentum = 0.1
    return twin


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


def _sizes(places: list[Node], batch: Batch, followers: set[Node]) -> Sizes:
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
    """Where the network is; one without values is recorded as if it were in memory, as it will be when it is used."""
    devices = {t.device for t in leaves if isinstance(t, Tensor)}
    devices = {d for d in devices if d.type != "meta"} or {torch.device("cpu")}
    if len(devices) != 1:
        raise Unfollowed(f"its tensors are on {len(devices)} devices")
    return devices.pop()


def _without_values(
    model: nn.Module, named: list[tuple[str, Tensor]], valued: frozenset[str]
) -> tuple[nn.Module, list[tuple[str, Tensor]], dict[int, tuple[str, Tensor]]]:
    """A structural copy with meta tensors for parameters and buffers, but for those of the names ``valued``.

    Returns:
        The copy, its parameters and buffers under all their names, and other tensors that modules hold by ``id``.
    """
    made: dict[int, Tensor] = {}
    held: list[tuple[str, Tensor]] = []
    for name, tensor in named:
        if type(tensor) not in (Tensor, nn.Parameter):
            raise Unfollowed(f"{name!r} is a {type(tensor).__name__}")
        if id(tensor) not in made:
            empty = tensor.detach().clone() if name in valued else tensor.detach().to("meta")
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


def _stack(twin: nn.Module, writer: Writer) -> AbstractContextManager[None]:
    """Keeps the writer informed of the modules that are being called."""
    return followed(twin, lambda path, module: writer.stack.append((path, type(module))), writer.stack.pop, always=True)


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

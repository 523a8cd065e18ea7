"""Tracing: a network becomes a flat graph of whole operators, through ``torch.export``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, TraceError, first_line
from secateur.core.types import ExampleInputs, call
from secateur.graph.copies import plain_network, shallow_copy
from secateur.graph.facts import Kind
from secateur.graph.guard import Sizes, is_free
from secateur.graph.inline import inline_regions
from secateur.graph.rules import facts
from secateur.graph.schema import arguments

__all__ = ["Exported", "Traced", "export_program", "plain_outputs", "preserved_rng", "spills", "to_args", "trace"]

_TRACING = threading.RLock()
"""``torch.export`` keeps state of its own for the whole process: one trace at a time."""


@dataclass(frozen=True)
class Exported:
    """A network as ``torch.export`` gives it.

    Attributes:
        program: The exported program.
        args: Positional example inputs that it was traced with.
        kwargs: Keyword example inputs that it was traced with.
        batch: Size of the batch in them (1 where there is none).
        dynamic: Whether the batch size stayed free; otherwise ``batch`` is the only one that works.
        notes: What the user should know about the way it was traced.
    """

    program: ExportedProgram
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    dynamic: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Traced:
    """A traced network.

    Attributes:
        module: Flat graph; parameters keep the names and the memory of the network's own.
        args: Positional example inputs that the graph was traced with.
        kwargs: Keyword example inputs that the graph was traced with.
        batch: Size of the batch in the example inputs (1 where there is none).
        dynamic: Whether the batch size stayed free.
        given: The user's example inputs (positional, keyword); a batch of one was traced as a batch of two.
        sizes: What the graph was traced for, input by input.
        method: What was traced: ``forward``, or another method.
        training: Whether it was traced in train mode.
        notes: What the user should know about the way it was traced.
    """

    module: GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    dynamic: bool
    given: tuple[tuple[Any, ...], dict[str, Any]]
    sizes: Sizes
    method: str = "forward"
    training: bool = False
    notes: tuple[str, ...] = ()

    @property
    def nodes(self) -> list[Node]:
        """The operators in the order of execution."""
        return list(self.module.graph.nodes)

    @property
    def given_batch(self) -> int | None:
        """Size of the batch in the user's own inputs, ``None`` where there is none."""
        return next((t.shape[0] for t in pytree.tree_leaves(self.given) if _has_batch(t)), None)

    @property
    def any_batch(self) -> bool:
        """Whether every batch size will do (a free one may have to be a multiple of two, say)."""
        steps = [s[0] for shape in self.sizes.shapes for s in shape or () if not isinstance(s, int)]
        return self.dynamic and set(steps) == {1}

    @property
    def name(self) -> str:
        """What was traced, in words."""
        return f"{self.method} in train mode" if self.training else self.method

    def enter(self, model: nn.Module) -> nn.Module:
        """Puts a (copied) network of the same class in the state that was traced: mode, and method as ``forward``."""
        return _as_traced(model, self.method, self.training)


def _as_traced(twin: nn.Module, method: str, training: bool) -> nn.Module:
    twin.train(training)
    if method != "forward":
        object.__setattr__(twin, "forward", getattr(twin, method))
    return twin


def to_args(inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Splits example inputs into positional and keyword arguments.

    >>> to_args({"x": 1})
    ((), {'x': 1})
    """
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    raise InputError(f"example_inputs is a tensor, a tuple or a dict of keyword inputs; got {type(inputs).__name__}.")


@contextmanager
def preserved_rng(*tensors: Tensor) -> Iterator[None]:
    """Leaves the global random state as it was, on the CPU and on the devices of ``tensors``."""
    devices = {t.device for t in tensors if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=[d.index for d in devices]):
        yield


def trace(
    model: nn.Module, inputs: ExampleInputs, *, method: str = "forward", training: bool = False
) -> Traced:  # fmt: skip
    """Traces ``model`` as :func:`export_program` does, into a flat graph that shares its weights.

    Args:
        model: Any network; it is not touched.
        inputs: What it is called with.
        method: What is called: ``forward``, or another method.
        training: Whether it is traced in train mode.

    Raises:
        InputError: The network itself does not run on ``inputs``.
        TraceError: It runs but cannot be traced; names the line of the user's code.
    """
    found = export_program(model, inputs, strict=False, method=method, training=training)
    module = found.program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    _remember_averages(module, plain_network(model))
    given = to_args(inputs)
    sizes = Sizes.of(found.program)
    return Traced(inline_regions(module), found.args, found.kwargs, found.batch, found.dynamic, given, sizes, method,
                  training, found.notes)  # fmt: skip


def export_program(
    model: nn.Module, inputs: ExampleInputs, *, strict: bool = True, free: bool = True, method: str = "forward",
    training: bool = False,
) -> Exported:  # fmt: skip
    """Exports ``model``, with a free batch size where that works.

    ``torch.export`` fixes dimensions of size 1, so a batch of one is traced as a batch of two.

    Args:
        model: Any network; it is not touched (a structural copy that shares its weights is traced).
        inputs: What it is called with.
        strict: Whether a free batch has to be free altogether; otherwise a size that is free within limits
            (a multiple of three, say) is taken before a fixed one.
        free: Whether a free batch is wanted; otherwise it is that of ``inputs``.
        method: What is called: ``forward``, or another method.
        training: Whether the network is in train mode.

    Raises:
        InputError: The network itself does not run on ``inputs``.
        TraceError: It runs but cannot be traced; names the line of the user's code.
    """
    notes: list[str] = []
    twin = _as_traced(shallow_copy(plain_network(model)), method, training)
    _plain_forward(twin, notes)
    for module in twin.modules() if training else ():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.momentum is None:
            module.momentum = 0.1  # export cannot divide by a counter; what is cut does not depend on it
    args, kwargs = pytree.tree_map_only(Tensor, _alone, to_args(inputs))
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not tensors:
        raise InputError("example_inputs holds no tensor, so there is nothing to trace the network with.")
    doubled = _doubled(args, kwargs)
    attempts: list[tuple[Any, Any]] = [(doubled, torch.export.Dim("batch")), ((args, kwargs), None)][not free :]
    if free and not strict:
        attempts.insert(1, (doubled, torch.export.Dim.AUTO))
    error: Exception | None = None
    with _TRACING, preserved_rng(*tensors), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for (a, k), size in attempts:
            notes.clear()
            try:
                program = _export(twin, a, k, size)
            except Exception as caught:  # torch.export raises many unrelated classes
                error = caught
                continue
            batch = next((t.shape[0] for t in pytree.tree_leaves((a, k)) if _has_batch(t)), 1)
            found = Exported(program, a, k, batch, _is_dynamic(program), tuple(dict.fromkeys(notes)))
            if found.dynamic or size is None or doubled[0] is args:
                return found  # a batch of two that did not stay free is not the one that was given
        _raise(twin, inputs, error)
    raise AssertionError("unreachable")


CUMULATIVE = "cumulative"
"""Meta data of a batch norm whose momentum is ``None``: export leaves no trace of it."""


def _remember_averages(module: GraphModule, model: nn.Module) -> None:
    """Marks batch norms that average over all batches (``momentum=None``); in eval mode export writes 0."""
    for node in module.graph.nodes:
        mean = arguments(node)["running_mean"] if facts(node).kind is Kind.BATCH_NORM else None
        if isinstance(mean, Node) and mean.op == "get_attr":
            home = str(mean.target).rpartition(".")[0]
            with contextlib.suppress(AttributeError):
                node.meta[CUMULATIVE] = getattr(model.get_submodule(home), "momentum", 0.0) is None


def _plain_forward(twin: nn.Module, notes: list[str]) -> None:
    """Makes a copied network give plain containers: export knows no dataclass and no class of the user's."""
    forward = twin.forward

    @functools.wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return plain_outputs(forward(*args, **kwargs), notes)

    object.__setattr__(twin, "forward", plain)


def plain_outputs(tree: Any, notes: list[str] | None = None) -> Any:
    """Outputs with dictionaries in place of objects that hold tensors (dataclasses, caches).

    >>> plain_outputs([1, {"a": 2}])
    [1, {'a': 2}]
    """

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, (Tensor, nn.Module)) or not hasattr(leaf, "__dict__") or isinstance(leaf, type):
            return leaf
        held = {name: plain_outputs(value) for name, value in vars(leaf).items()}
        if not any(isinstance(value, Tensor) for value in pytree.tree_leaves(held)):
            return leaf
        if notes is not None:
            notes.append(f"its outputs of class {type(leaf).__name__} are dictionaries in a graph")
        return pytree.tree_map(lambda v: v if isinstance(v, (Tensor, int, float, str, type(None))) else None, held)

    return pytree.tree_map(plain, tree)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: Any) -> ExportedProgram:
    """Exports with the first dimension of every input as ``free`` says: one size for all, found out, or fixed."""
    shapes = None
    if free is not None:  # the specification has the structure of the arguments as forward() binds them
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        shapes = pytree.tree_map(lambda v: {0: free} if _has_batch(v) and v.shape[0] > 1 else None, dict(bound))
    return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


def spills(tensor: Tensor) -> bool:
    """Whether a tensor's memory holds more than its entries: it is a slice of something else, say."""
    return tensor.layout is torch.strided and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.itemsize


def _alone(tensor: Tensor) -> Tensor:
    """An input in memory of its own: export remembers of a slice what it was sliced from."""
    if type(tensor) is not Tensor or tensor.is_meta or not (tensor._is_view() or spills(tensor)):
        return tensor
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _has_batch(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _is_dynamic(program: ExportedProgram) -> bool:
    """Whether some input kept a free first dimension (``AUTO`` falls back to a constant by itself)."""
    names = set(program.graph_signature.user_inputs)
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    return any(isinstance(v, Tensor) and v.ndim > 0 and is_free(v.shape[0]) for v in values)


def _doubled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeats a batch of one, unless the inputs do not agree on what the batch is."""
    sizes = {t.shape[0] for t in pytree.tree_leaves((args, kwargs)) if _has_batch(t)}
    if sizes != {1}:
        return args, kwargs
    twice = pytree.tree_map(lambda v: torch.cat([v, v]) if _has_batch(v) else v, (args, kwargs))
    return twice[0], twice[1]


def _raise(model: nn.Module, inputs: ExampleInputs, error: Exception | None) -> None:
    """Words the failure: the network's own, or the tracer's with the line of the user's code."""
    name = type(model).__name__
    try:
        call(model, inputs)
    except Exception as caught:
        shapes = [tuple(t.shape) for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
        raise InputError(
            f"{name} does not run on the example inputs (shapes {shapes}): {type(caught).__name__}: "
            f"{first_line(caught)} (at {_users_line(caught)}). Give inputs of the shape that it expects."
        ) from caught
    assert error is not None
    raise TraceError(
        f"{name} runs but torch.export cannot trace it, at {_users_line(error)}: {type(error).__name__}: "
        f"{first_line(error)} Control flow that depends on tensor values has to be rewritten with tensor "
        "operators (torch.where, torch.cond) or moved out of forward."
    ) from error


def _users_line(error: BaseException) -> str:
    """The innermost line of code that is neither PyTorch's nor ours, from the traceback or from the message."""
    framework, own = Path(torch.__file__).parent, Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if (
            path.is_file()
            and framework not in path.parents
            and own not in path.parents
            and "contextlib" not in path.name
        ):
            return f"{path.name}:{frame.lineno}, {(frame.line or '').strip()!r}"
    quoted = [line.strip() for line in str(error).splitlines() if 'File "' in line and str(framework) not in line]
    return quoted[-1] if quoted else "an unknown line"

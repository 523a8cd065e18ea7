"""Tracing: a network becomes a flat graph of whole operators, through ``torch.export``."""

from __future__ import annotations

import copy
import inspect
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.errors import InputError, TraceError
from secateur.graph.inline import inline_regions
from secateur.types import ExampleInputs, call

__all__ = ["Traced", "preserved_rng", "shallow_copy", "to_args", "trace"]


@dataclass(frozen=True)
class Traced:
    """A traced network.

    Attributes:
        module: Flat graph; parameters keep the names and the memory of the network's own.
        args: Positional example inputs that the graph was traced with.
        kwargs: Keyword example inputs that the graph was traced with.
        batch: Size of the batch in the example inputs (1 where there is none).
        dynamic: Whether the batch size stayed free.
    """

    module: GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    dynamic: bool

    @property
    def nodes(self) -> list[Node]:
        """The operators in the order of execution."""
        return list(self.module.graph.nodes)


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


def shallow_copy(model: nn.Module) -> nn.Module:
    """Copies the module tree but shares every parameter and buffer: free of charge and safe to switch mode."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    memo |= {id(t): t for module in model.modules() for t in vars(module).values() if isinstance(t, Tensor)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying a traced graph warns about the pytree it carries
        return copy.deepcopy(model, memo)


@contextmanager
def preserved_rng(*tensors: Tensor) -> Iterator[None]:
    """Leaves the global random state as it was, on the CPU and on the devices of ``tensors``."""
    devices = {t.device for t in tensors if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=[d.index for d in devices]):
        yield


def trace(model: nn.Module, inputs: ExampleInputs) -> Traced:
    """Traces ``model`` in eval mode with a free batch size where that works.

    ``torch.export`` fixes dimensions of size 1, so a batch of one is traced as a batch of two.

    Args:
        model: Any network; it is not touched (a structural copy that shares its weights is traced).
        inputs: What it is called with.

    Raises:
        InputError: The network itself does not run on ``inputs``.
        TraceError: It runs but cannot be traced; names the line of the user's code.
    """
    twin = shallow_copy(model).eval()
    args, kwargs = to_args(inputs)
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not tensors:
        raise InputError("example_inputs holds no tensor, so there is nothing to trace the network with.")
    doubled = _doubled(args, kwargs)
    attempts = [(doubled, True), ((args, kwargs), True), ((args, kwargs), False)]
    error: Exception | None = None
    with preserved_rng(*tensors), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for (a, k), dynamic in attempts:
            try:
                graph = _export(twin, a, k, dynamic)
            except Exception as caught:
                error = caught
                continue
            batch = next((t.shape[0] for t in pytree.tree_leaves((a, k)) if _has_batch(t)), 1)
            return Traced(graph, a, k, batch, dynamic)
        _raise(twin, inputs, error)
    raise AssertionError("unreachable")


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: bool) -> GraphModule:
    shapes = None
    if dynamic:  # the specification has the structure of the arguments as forward() binds them
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        shapes = pytree.tree_map(_free_batch, dict(bound))
    program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return inline_regions(module)


def _has_batch(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _free_batch(value: Any) -> Any:
    """Marks the first dimension of an input as free (``AUTO`` falls back to a constant by itself)."""
    return {0: torch.export.Dim.AUTO} if _has_batch(value) and value.shape[0] > 1 else None


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
            f"{_first_line(caught)} (at {_users_line(caught)}). Give inputs of the shape that it expects."
        ) from caught
    assert error is not None
    raise TraceError(
        f"{name} runs but torch.export cannot trace it, at {_users_line(error)}: {type(error).__name__}: "
        f"{_first_line(error)} Control flow that depends on tensor values has to be rewritten with tensor "
        "operators (torch.where, torch.cond) or moved out of forward."
    ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


def _users_line(error: BaseException) -> str:
    """The innermost frame outside PyTorch and outside this file."""
    own, framework = str(Path(__file__)), str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if f.filename != own and not f.filename.startswith(framework) and "<" not in f.filename]
    for line in str(error).splitlines():  # the exporter quotes the user's frames in its message
        if 'File "' in line and framework not in line and own not in line:
            return line.strip()
    return f"{users[-1].filename}:{users[-1].lineno} ({users[-1].line})" if users else "an unknown line"

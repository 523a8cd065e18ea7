"""Tracing: a network becomes a flat graph of whole operators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.core.types import ExampleInputs
from secateur.graph.batch import Batch
from secateur.graph.calling import entered, has_batch, to_args
from secateur.graph.copies import plain_network
from secateur.graph.export import export_program
from secateur.graph.facts import Kind
from secateur.graph.guard import Sizes
from secateur.graph.inline import inline_regions
from secateur.graph.record import Unfollowed, record
from secateur.graph.rules import facts
from secateur.graph.schema import arguments

__all__ = ["CUMULATIVE", "Traced", "recorded", "trace", "without_recorder"]

_RECORDER: ContextVar[bool] = ContextVar("recorder", default=True)


@contextlib.contextmanager
def without_recorder() -> Iterator[None]:
    """Whatever is traced inside is traced through ``torch.export``."""
    before = _RECORDER.set(False)
    try:
        yield
    finally:
        _RECORDER.reset(before)


@dataclass(eq=False)
class Traced:
    """A traced network. Its graph and its sizes change once, where sizes besides the batch are freed.

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
        odd: Of a recorded network, what its whole numbers are read by; ``None`` where ``torch.export`` traced it.
        freed: Whether it was tried which sizes besides the batch are free.
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
    odd: Batch | None = None
    freed: bool = False

    @property
    def recorded(self) -> bool:
        """Whether the recorder traced it."""
        return self.odd is not None

    @property
    def nodes(self) -> list[Node]:
        """The operators in the order of execution."""
        return list(self.module.graph.nodes)

    @property
    def given_batch(self) -> int | None:
        """Size of the batch in the user's own inputs, ``None`` where there is none."""
        return next((t.shape[0] for t in pytree.tree_leaves(self.given) if has_batch(t)), None)

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
        return entered(model, self.method, self.training)


def trace(
    model: nn.Module, inputs: ExampleInputs, *, method: str = "forward", training: bool = False
) -> Traced:  # fmt: skip
    """Traces ``model`` into a flat graph that shares its weights: by the recorder, or else through ``torch.export``.

    Args:
        model: Any network; it is not touched.
        inputs: What it is called with.
        method: What is called: ``forward``, or another method.
        training: Whether it is traced in train mode.

    Raises:
        InputError: The network itself does not run on ``inputs``.
        TraceError: It runs but cannot be traced; names the line of the user's code.
    """
    notes: tuple[str, ...] = ()
    why: BaseException | None = None
    if _RECORDER.get():
        try:
            return recorded(model, inputs, method=method, training=training)
        except Unfollowed as reason:
            why, notes = reason, (f"traced by torch.export, which takes longer, because {reason}",)
    found = export_program(model, inputs, strict=False, method=method, training=training, reason=why)
    module = found.program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    _remember_averages(module, plain_network(model))
    given = to_args(inputs)
    sizes = Sizes.of(found.program)
    return Traced(inline_regions(module), found.args, found.kwargs, found.batch, found.dynamic, given, sizes, method,
                  training, (*found.notes, *notes))  # fmt: skip


def recorded(model: nn.Module, inputs: ExampleInputs, *, method: str = "forward", training: bool = False) -> Traced:
    """:func:`trace` by the recorder alone.

    Raises:
        Unfollowed: It cannot be recorded.
    """
    found = record(model, inputs, method=method, training=training)
    _remember_averages(found.module, plain_network(model))
    return Traced(found.module, found.args, found.kwargs, found.batch, found.dynamic, to_args(inputs), found.sizes,
                  method, training, found.notes, found.odd)  # fmt: skip


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

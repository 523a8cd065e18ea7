"""Tracing: a network becomes a flat graph of whole operators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch import nn
from torch.fx import GraphModule, Node

from secateur.core.progress import working
from secateur.core.types import ExampleInputs
from secateur.graph.batch import Unfollowed
from secateur.graph.calling import to_args
from secateur.graph.copies import plain_network
from secateur.graph.export import export_program
from secateur.graph.facts import Kind
from secateur.graph.guard import Sizes
from secateur.graph.inline import inline_regions
from secateur.graph.record import record
from secateur.graph.rules import facts
from secateur.graph.schema import arguments
from secateur.graph.traced import Traced

__all__ = ["CUMULATIVE", "recorded", "trace", "without_recorder"]

_RECORDER: ContextVar[bool] = ContextVar("recorder", default=True)


@contextlib.contextmanager
def without_recorder() -> Iterator[None]:
    """Whatever is traced inside is traced through ``torch.export``."""
    before = _RECORDER.set(False)
    try:
        yield
    finally:
        _RECORDER.reset(before)


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
    with working("Tracing by torch.export"):
        found = export_program(model, inputs, strict=False, method=method, training=training, reason=why)
    module = found.program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    _remember_averages(module, plain_network(model))
    given = to_args(inputs)
    sizes = Sizes.of(found.program)
    return Traced(inline_regions(module), found.args, found.kwargs, found.batch, found.dynamic, given, sizes, method,
                  training, notes, in_graph=found.notes)  # fmt: skip


def recorded(model: nn.Module, inputs: ExampleInputs, *, method: str = "forward", training: bool = False) -> Traced:
    """:func:`trace` by the recorder alone.

    Raises:
        Unfollowed: It cannot be recorded.
    """
    found = record(model, inputs, method=method, training=training)
    _remember_averages(found.module, plain_network(model))
    return found


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

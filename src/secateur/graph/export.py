"""Tracing through ``torch.export``: for files, and for what the recorder cannot follow."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from secateur.core.checks import is_torchvision_detector
from secateur.core.errors import InputError, TraceError, first_line
from secateur.core.types import ExampleInputs, call
from secateur.graph.calling import TRACING, alone, doubled, entered, has_batch, plain_forward, preserved_rng, to_args
from secateur.graph.chance import traced_draws
from secateur.graph.copies import plain_network, shallow_copy
from secateur.graph.guard import is_free
from secateur.graph.outside import undisturbed
from secateur.graph.signature import in_order

__all__ = ["Exported", "export_program"]


Dims = Sequence[Sequence[int]]
"""Dimensions of every input."""


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


def export_program(
    model: nn.Module, inputs: ExampleInputs, *, strict: bool = True, free: bool = True, method: str = "forward",
    training: bool = False, also: Dims = (), reason: BaseException | None = None,
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
        also: Further dimensions of every input that are left free where that works, by the input's number.
        reason: Why the recorder did not follow, which may know the line of the user's code.

    Raises:
        InputError: The network itself does not run on ``inputs``.
        TraceError: It runs but cannot be traced; names the line of the user's code.
    """
    notes: list[str] = []
    twin = entered(shallow_copy(plain_network(model)), method, training)
    plain_forward(twin, notes)
    for module in twin.modules() if training else ():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.momentum is None:
            module.momentum = 0.1  # export cannot divide by a counter; what is cut does not depend on it
    args, kwargs = pytree.tree_map_only(Tensor, alone, to_args(inputs))
    kwargs = in_order(twin.forward, kwargs)
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not tensors:
        raise InputError("example_inputs holds no tensor, so there is nothing to trace the network with.")
    twice = doubled(args, kwargs)
    attempts: list[tuple[Any, Any, Dims]] = [(twice, torch.export.Dim("batch"), ()), ((args, kwargs), None, ())]
    attempts = attempts[not free :]
    if free and not strict:
        attempts.insert(1, (twice, torch.export.Dim.AUTO, ()))
    if free and any(also):
        attempts.insert(0, (twice, torch.export.Dim("batch"), also))
    error: Exception | None = None
    with TRACING, preserved_rng(*tensors), torch.no_grad(), warnings.catch_warnings(), undisturbed(model):
        warnings.simplefilter("ignore")
        for (a, k), size, dims in attempts:
            notes.clear()
            traced_draws(training)
            try:
                program = _export(twin, a, k, size, dims)
            except Exception as caught:  # torch.export raises many unrelated classes
                error = caught
                continue
            batch = next((t.shape[0] for t in pytree.tree_leaves((a, k)) if has_batch(t)), 1)
            found = Exported(program, a, k, batch, _is_dynamic(program), tuple(dict.fromkeys(notes)))
            if found.dynamic or size is None or twice[0] is args:
                return found  # a batch of two that did not stay free is not the one that was given
        _raise(twin, inputs, error, reason)
    raise AssertionError("unreachable")


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: Any, also: Dims = ()
) -> ExportedProgram:
    """Exports with the first dimension of every input as ``free`` says: one size for all, found out, or fixed."""
    shapes = None
    if free is not None:  # the specification has the structure of the arguments as forward() binds them
        further = {id(leaf): dims for leaf, dims in zip(pytree.tree_leaves((args, kwargs)), also, strict=False)}

        def freed(leaf: Any) -> Any:
            first = {0: free} if has_batch(leaf) and leaf.shape[0] > 1 else {}
            return first | dict.fromkeys(further.get(id(leaf), ()), torch.export.Dim.AUTO) or None

        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        shapes = pytree.tree_map(freed, dict(bound))
    with _quietly():
        program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    if any(isinstance(constant, FakeTensor) for constant in program.constants.values()):  # newer ones say so themselves
        raise RuntimeError("found a fake tensor in the exported program constants")
    return program


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the graphs that a failing export prints, and the warnings behind them; what a network prints stays."""
    printed, logger = io.StringIO(), logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level, partial = logger.level, ""
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except Exception as error:
        partial = str(getattr(error, "partial_fx_graph", ""))
        raise
    finally:
        logger.setLevel(level)
        if rest := printed.getvalue().replace(partial, "").strip():
            print(rest, file=sys.stderr)


def _is_dynamic(program: ExportedProgram) -> bool:
    """Whether some input kept a free first dimension (``AUTO`` falls back to a constant by itself)."""
    names = set(program.graph_signature.user_inputs)
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    return any(isinstance(v, Tensor) and v.ndim > 0 and is_free(v.shape[0]) for v in values)


def _raise(
    model: nn.Module, inputs: ExampleInputs, error: Exception | None, reason: BaseException | None
) -> None:  # fmt: skip
    """Words the failure: the network's own, or the tracer's with the line of the user's code."""
    name = type(model).__name__
    if is_torchvision_detector(model):
        raise TraceError(
            f"{name} chooses boxes inside, whose number only the images decide, so that no graph describes it. Wrap "
            "it: secateur.models.TorchvisionDetector(network) is called with a tensor of images, and is cut whole, "
            "heads and all."
        ) from error
    try:
        call(model, inputs)
    except Exception as caught:
        shapes = [tuple(t.shape) for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
        raise InputError(
            f"{name} does not run on the example inputs (shapes {shapes}): {type(caught).__name__}: "
            f"{first_line(caught)} (at {_users_line(caught)}). Give inputs of the shape that it expects."
        ) from caught
    assert error is not None
    line = _users_line(error)
    if line == UNKNOWN and reason is not None:
        line = _users_line(reason.__cause__ or reason)
    what, advice = _in_words(error)
    raise TraceError(f"{name} runs but cannot be traced: {what}, at {line}. {advice}") from error


def _in_words(error: Exception) -> tuple[str, str]:
    """What stopped the trace, and what can be done."""
    text = f"{type(error).__name__}: {first_line(error)}"
    for marks, what, advice in _REASONS:
        if any(mark in text for mark in marks):
            return what.format(text.rpartition(": ")[2].rstrip(".")), advice
    return f"{text.rstrip('.')}", "If the network itself does not raise that, please report it."


_REASONS = [
    (("DataDependent", "data-dependent"),
     "Python decides or counts by the value of a tensor",
     "Write it with tensor operators (torch.where, torch.cond), or move it out of forward; or cut "
     "submodules by themselves (part=…)."),
    ((".numpy()", "data pointer", "numpy"),
     "Python reads the memory of a tensor",
     "Compute it with PyTorch's operators, or make it one (torch.library.custom_op)."),
    (("UnsupportedOperator",),
     "the operator {} does not say what it gives without values",
     "If it is your own, register that (torch.library.register_fake); otherwise use another one."),
    (("a fake tensor in the exported program constant",),
     "a tensor is made where the trace does not see it, in another thread say",
     "Compute it where forward is called."),
    (("DynamicOutputShape",),
     "how large a tensor is depends on values ({})",
     "Compute with masks in place of selections."),
]  # fmt: skip


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
    return quoted[-1] if quoted else UNKNOWN


UNKNOWN = "an unknown line"

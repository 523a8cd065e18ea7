"""The proof of parts in their places: the network reads nothing of them but what they give, in every way of calling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.errors import VerificationError, first_line
from secateur.core.plan import Plan
from secateur.core.samples import Arguments
from secateur.core.types import ExampleInputs
from secateur.cut.part_calls import as_inputs
from secateur.cut.pruned import Pruned
from secateur.graph.calling import plain_outputs, preserved_rng, to_args
from secateur.graph.copies import deep_copy, running_copy
from secateur.graph.outside import undisturbed
from secateur.surgery.agreement import NEAR, TOLERANCE, apart
from secateur.surgery.inputs import tensors
from secateur.surgery.lifted import Draws, Lifted, double

__all__ = ["Again", "prove_in_place", "prove_other_calls"]

Again = Callable[[nn.Module, Plan, ExampleInputs], Pruned]
"""Cuts a part once more, by a plan, for other inputs."""

WAYS = 16
"""Ways of calling a part that are compared, at most."""


def prove_in_place(model: nn.Module, small: nn.Module, inputs: ExampleInputs, done: Mapping[str, Pruned]) -> None:
    """The network reads nothing of its parts but what they give when they are called."""
    shell = running_copy(model).eval()
    for path, pruned in done.items():
        inner = running_copy(pruned.model).eval()
        object.__setattr__(shell.get_submodule(path), "forward", inner.forward)
    names = ", ".join(map(repr, done))
    want = _outputs(model, shell, inputs, f"With the pruned {names} in it the network does not run")
    got = _outputs(small, running_copy(small).eval(), inputs, f"With the pruned {names} in it the network does not run")
    worst = max(map(apart, got, want), default=0.0) if len(got) == len(want) else float("inf")
    if not worst <= NEAR:
        raise VerificationError(
            f"The network around {names} reads something of it that the cut changes (its results differ by "
            f"{worst:.1e}): a size in its attributes, say, or one of its layers by itself. Nothing was returned. "
            "Choose a part that holds what reads it."
        )


def _outputs(owner: nn.Module, twin: nn.Module, inputs: ExampleInputs, what: str) -> list[Tensor]:
    return tensors(_results(owner, twin, inputs, what))


def _results(
    owner: nn.Module, twin: nn.Module, inputs: ExampleInputs, what: str, *, lifted: bool = False
) -> Any:  # fmt: skip
    """What a network gives; in double precision where it is ``lifted``, casts in its code among it."""
    args, kwargs = to_args(pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs))
    try:
        with preserved_rng(), torch.no_grad(), undisturbed(owner), Lifted(Draws()) if lifted else nullcontext():
            torch.manual_seed(0)
            return plain_outputs(twin(*args, **kwargs))
    except Exception as error:  # the network raises what it likes
        raise VerificationError(
            f"{what}: {type(error).__name__}: {first_line(error)}. Nothing was returned. If a part is called with "
            "several shapes that its graph does not take, choose a smaller part."
        ) from error


def prove_other_calls(
    part: nn.Module, path: str, pruned: Pruned, calls: Sequence[Arguments], again: Again
) -> tuple[str, ...]:  # fmt: skip
    """A part that is called in several ways is right in all of them: held up to the same plan, cut for each.

    Returns:
        Ways that were not looked at, because there are too many.

    Raises:
        VerificationError: It is not right in one, or gives another number, text or truth than the dense part.
    """
    seen: list[Any] = []
    for call in calls:
        if _key(call) in seen:
            continue
        seen.append(_key(call))
        if len(seen) > WAYS:
            return (f"{path} as it is called in more than {WAYS} ways",)
        inputs = as_inputs(part, path, call)
        where = f"The part {path!r}, called with {_key(call)[1]},"
        _same_numbers(part, pruned.model, inputs, where)
        if len(seen) == 1:
            continue
        try:
            other = again(part, pruned.plan, inputs)
        except Exception as error:
            raise VerificationError(f"{where} cannot be proven: {first_line(error)} Nothing was returned.") from error
        exact = pytree.tree_map(lambda v: double(v) if isinstance(v, Tensor) else v, inputs)
        ours, theirs = (
            tensors(_results(network, deep_copy(network).double().eval(), exact, f"{where} does not run", lifted=True))
            for network in (pruned.model, other.model)
        )
        if not max(map(apart, ours, theirs), default=0.0) <= TOLERANCE:
            raise VerificationError(f"{where} gives other results than the masked dense part. Nothing was returned.")
    return ()


def _same_numbers(part: nn.Module, small: nn.Module, inputs: ExampleInputs, where: str) -> None:
    """What is no tensor among the results is as in the dense part: a size that changes is read around it."""
    dense, cut = (
        [leaf for leaf in pytree.tree_leaves(_results(network, running_copy(network).eval(), inputs, where))
         if isinstance(leaf, (int, float, str))] for network in (part, small)
    )  # fmt: skip
    if dense != cut:
        raise VerificationError(
            f"{where} gives {str(cut)[:60]} where the dense part gives {str(dense)[:60]}, and the network around would "
            "use it. Nothing was returned. Choose a part that holds what uses it."
        )


def _key(call: Arguments) -> tuple[Any, str]:
    """What tells ways of calling apart: shapes and types of tensors, and everything that is no tensor."""
    leaves, spec = pytree.tree_flatten(call)
    words = [f"{v.dtype} of size {tuple(v.shape)}" if isinstance(v, Tensor) else repr(v)[:40] for v in leaves]
    values = [(tuple(v.shape), v.dtype) if isinstance(v, Tensor) else repr(v) for v in leaves]
    return (str(spec), values), ", ".join(words)

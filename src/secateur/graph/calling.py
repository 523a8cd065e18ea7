"""How a network is called to be traced: its arguments, its outputs, its mode, and what must be as it was afterwards."""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError
from secateur.core.quantisers import hold_still
from secateur.core.types import ExampleInputs

__all__ = ["TRACING", "alone", "cloned", "doubled", "entered", "followed", "has_batch", "outputs_of",
           "plain_forward", "plain_outputs", "preserved_rng", "spills", "to_args"]  # fmt: skip

TRACING = threading.RLock()
"""Tracers keep state of PyTorch's for the whole process: one trace at a time."""


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
    """Leaves the global random states (PyTorch's, NumPy's, Python's) as they were, on the CPU and on the devices of
    ``tensors``."""
    devices = {t.device for t in tensors if t.device.type == "cuda"}
    state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[d.index for d in devices]):
            yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])


def entered(twin: nn.Module, method: str, training: bool) -> nn.Module:
    """Puts a (copied) network in a mode, with a method in the place of ``forward``."""
    twin.train(training)
    hold_still(twin)
    if method != "forward":
        object.__setattr__(twin, "forward", getattr(twin, method))
    return twin


@contextmanager
def followed(
    twin: nn.Module, enter: Callable[[str, nn.Module], object], leave: Callable[[], object], *, always: bool
) -> Iterator[None]:  # fmt: skip
    """Tells of every module of a network when it is called and when it returns.

    Args:
        twin: The network.
        enter: Gets the name of the module, and the module.
        leave: Called when it returns.
        always: Whether that is told too of a module that raises.
    """
    hooks: list[Any] = []
    for path, module in twin.named_modules():

        def before(called: nn.Module, args: Any, path: str = path) -> None:
            enter(path, called)

        def after(called: nn.Module, args: Any, output: Any) -> None:
            leave()

        hooks += [
            module.register_forward_pre_hook(before, prepend=True),
            module.register_forward_hook(after, always_call=always),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def plain_forward(twin: nn.Module, notes: list[str], state: list[Tensor] | None = None) -> None:
    """Makes a copied network give plain containers: export knows no dataclass and no class of the user's."""
    forward = twin.forward

    @functools.wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return plain_outputs(forward(*args, **kwargs), notes, state)

    with contextlib.suppress(TypeError, ValueError):  # what is wrapped may say its own, with ``self``
        plain.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    object.__setattr__(twin, "forward", plain)


def plain_outputs(tree: Any, notes: list[str] | None = None, state: list[Tensor] | None = None) -> Any:
    """Outputs with dictionaries in place of objects that hold tensors (dataclasses, caches).

    Args:
        tree: What a network gives.
        notes: Where it is written what became a dictionary.
        state: Where tensors of caches are written (of keys and values): what the network hands to its own next call.

    >>> plain_outputs([1, {"a": 2}])
    [1, {'a': 2}]
    """

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, (Tensor, nn.Module)) or not hasattr(leaf, "__dict__") or isinstance(leaf, type):
            return leaf
        held = {name: plain_outputs(value) for name, value in vars(leaf).items()}
        if not any(isinstance(value, Tensor) for value in pytree.tree_leaves(held)):
            return leaf
        if state is not None and callable(getattr(leaf, "get_seq_length", None)):
            state.extend(value for value in pytree.tree_leaves(held) if isinstance(value, Tensor))
        if notes is not None:
            notes.append(f"its outputs of class {type(leaf).__name__} are dictionaries in a graph")
        return pytree.tree_map(lambda v: v if isinstance(v, (Tensor, int, float, str, type(None))) else None, held)

    return pytree.tree_map(plain, tree)


def outputs_of(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Real and complex numbers that a network returns, without what it hands to its own next call (caches).

    The inputs are copied, because a network may write into them; no gradients are tracked.
    """
    state: list[Tensor] = []
    with torch.no_grad():
        found = pytree.tree_leaves(plain_outputs(network(*cloned(tuple(args)), **cloned(dict(kwargs))), None, state))
    kept = [v for v in found if isinstance(v, Tensor) and all(v is not s for s in state)]
    return [v for v in kept if v.is_floating_point() or v.is_complex()]


def spills(tensor: Tensor) -> bool:
    """Whether a tensor's memory holds more than its entries: it is a slice of something else, say."""
    return tensor.layout is torch.strided and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.itemsize


def cloned(tree: Any) -> Any:
    """Clones inputs as they are: a network may write into them."""
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, tree)


def alone(tensor: Tensor) -> Tensor:
    """An input in memory of its own: export remembers of a slice what it was sliced from."""
    if type(tensor) is not Tensor or tensor.is_meta or not (tensor._is_view() or spills(tensor)):
        return tensor
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def has_batch(value: Any) -> bool:
    """Whether an input is a tensor with a first dimension."""
    return isinstance(value, Tensor) and value.ndim > 0


def doubled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeats a batch of one, unless the inputs do not agree on what the batch is."""
    sizes = {t.shape[0] for t in pytree.tree_leaves((args, kwargs)) if has_batch(t)}
    if sizes != {1}:
        return args, kwargs
    twice = pytree.tree_map(lambda v: torch.cat([v, v]) if has_batch(v) else v, (args, kwargs))
    return twice[0], twice[1]

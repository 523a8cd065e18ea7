"""A cut inside a training loop that holds on to its network and its optimizers: they stay the objects that they are.

A loop keeps references that nobody can exchange: local names, schedulers, wrappers. So the network takes over what the
smaller one consists of, and the optimizers take over parameters and state.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from secateur.core import arguments
from secateur.core.errors import InputError, SecateurError
from secateur.core.plan import Plan
from secateur.core.types import ExampleInputs
from secateur.cut.prune import apply, prune
from secateur.cut.pruned import Pruned

__all__ = ["cut_again", "cut_in_place", "rehearse"]

_LOG = logging.getLogger("secateur.callbacks")
_WRAPPED = ("forward", "_original_forward")
"""What Accelerate hangs on a network in mixed precision; it is no part of what is cut, and is put back."""


@arguments.checked
def cut_in_place(
    network: nn.Module,
    example_inputs: ExampleInputs | Mapping[str, Any],
    optimizers: Iterable[Optimizer] = (),
    *,
    aside: Sequence[str] = (),
    **options: Any,
) -> Pruned:
    """Cuts a network that is being trained, in place, and carries its optimizers over.

    Parameters of the optimizers that are not of the network stay in them as they are. Schedulers step the same
    optimizers as before and need nothing.

    Args:
        network: It stays the same object, of the same class.
        example_inputs: What it is called with; moved to its device.
        optimizers: Those that train it.
        aside: Names of attributes of the network that are put aside for the cut, and put back (the loop's own).
        options: The arguments of :func:`secateur.prune`, but ``backend``.

    Returns:
        The cut, with ``network`` as its model. The network before it is gone.

    Raises:
        SecateurError: What ``prune`` and :meth:`Pruned.carry` raise; network and optimizers are as they were then.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> _ = cut_in_place(net, torch.randn(1, 4), [optimizer], ratio=0.5)
    >>> net[0].out_features, optimizer.param_groups[0]["params"][0] is net[0].weight
    (4, True)
    """
    with _aside(network, aside):
        pruned = prune(network, _moved(example_inputs, network), backend="module", **options)
        return _taken_over(network, pruned, optimizers)


def cut_again(network: nn.Module, example_inputs: ExampleInputs, plan: Plan, *, aside: Sequence[str] = ()) -> Pruned:
    """Cuts a fresh network in place as a run that was stopped had cut it."""
    with _aside(network, aside):
        pruned = apply(network, plan, _moved(example_inputs, network), backend="module")
        return _taken_over(network, pruned, ())


def rehearse(
    network: nn.Module,
    example_inputs: ExampleInputs,
    cuts: Mapping[int, Mapping[str, Any]],
    *,
    aside: Sequence[str] = (),
) -> None:
    """Tries cuts that are still to come, one after the other on a copy: an amount that widths cannot meet is told now.

    Scores that need data are replaced by magnitudes, nothing is verified, and latencies are not measured.

    Raises:
        InputError: Says which cut would fail and why.
    """
    small: nn.Module | Pruned = network
    inputs = _moved(example_inputs, network)
    with _aside(network, aside):
        for epoch, options in cuts.items():
            if options.get("latency") is not None or options.get("target") is not None:
                return
            plain = {**options, "criterion": "l2", "data": None, "loss": None, "verify": False}
            try:
                small = prune(small, inputs, backend="module", **plain)
            except SecateurError as error:
                raise InputError(f"The cut after epoch {epoch} would fail: {error}") from error


def _taken_over(network: nn.Module, pruned: Pruned, optimizers: Iterable[Optimizer]) -> Pruned:
    if type(pruned.model) is not type(network):
        raise InputError(f"The smaller network is a {type(pruned.model).__name__}, no {type(network).__name__}.")
    carried = [(optimizer, _carried(optimizer, network, pruned)) for optimizer in optimizers]
    modes = {name: module.training for name, module in network.named_modules()}
    for name, module in pruned.model.named_modules():
        module.training = modes.get(name, network.training)
    network.__dict__.clear()
    network.__dict__.update(pruned.model.__dict__)
    for optimizer, (groups, state) in carried:
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = parameters
        optimizer.state = defaultdict(dict, state)
    _LOG.info("%s", pruned.headline)
    return replace(pruned, model=network, dense=None, source=None)


def _carried(optimizer: Optimizer, network: nn.Module, pruned: Pruned) -> tuple[list[list[Tensor]], dict[Tensor, Any]]:
    """Parameters by group and state of an optimizer after the cut; those of other networks as they are."""
    own = {id(parameter) for parameter in network.parameters()}
    part: Optimizer = copy.copy(optimizer)
    part.param_groups = [{**g, "params": [p for p in g["params"] if id(p) in own]} for g in optimizer.param_groups]
    part.state = defaultdict(dict, {p: s for p, s in optimizer.state.items() if id(p) in own})
    made: Optimizer = pruned.carry(part)
    groups = [
        _in_order(old["params"], new["params"], own)
        for old, new in zip(optimizer.param_groups, made.param_groups, strict=True)
    ]
    return groups, {**made.state, **{p: s for p, s in optimizer.state.items() if id(p) not in own}}


def _in_order(old: Sequence[Tensor], new: Sequence[Tensor], own: Set[int]) -> list[Tensor]:
    """New parameters in the places of old ones: a saved state knows its parameters by their places."""
    strange = [p for p in old if id(p) not in own]
    if len(new) + len(strange) != len(old):  # some are gone with what they belonged to
        return [*new, *strange]
    rest = iter(new)
    return [next(rest) if id(p) in own else p for p in old]


@contextlib.contextmanager
def _aside(network: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Takes what a loop hung on a network off it for the block."""
    own = network.__dict__
    kept = {name: own.pop(name) for name in (*_WRAPPED, *names) if name in own}
    try:
        yield
    finally:
        network.__dict__.update(kept)


def _moved(inputs: ExampleInputs | Mapping[str, Any], network: nn.Module) -> ExampleInputs:
    device = next((p.device for p in network.parameters()), None)
    plain = dict(inputs) if isinstance(inputs, Mapping) else inputs  # transformers has a class of its own
    moved: ExampleInputs = pytree.tree_map_only(Tensor, lambda t: t.to(device), plain)
    return moved

"""What criteria of single weights may need beside the weights: gradients, curvatures, the weights of another time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, UnknownNameError
from secateur.core.inputs import Batch, Data, batches, pieces
from secateur.core.modes import evaluating
from secateur.core.registry import Registry
from secateur.core.samples import Taker
from secateur.core.types import ExampleInputs
from secateur.criteria.base import Criterion
from secateur.criteria.gradient import default_loss
from secateur.criteria.statistics import Loss
from secateur.graph.calling import preserved_rng, to_args

__all__ = ["WEIGHT_NEEDS", "Start", "Weighing", "WeightNeed", "collect_weights", "taker_of"]

Start = nn.Module | Mapping[str, Tensor]
"""Weights at the start of a training: a network of the same parameters, or its state dict."""


@dataclass(frozen=True)
class Weighing:
    """What is collected of weights, and with what.

    Attributes:
        model: The network.
        names: Of the parameters that are asked for.
        data: Pairs of inputs and labels.
        inputs: What the network is called with; ``None`` to take the data's word.
        loss: Mean loss of the samples from output and labels; ``None`` for cross-entropy.
        start: The weights at the start of the training.
    """

    model: nn.Module
    names: Collection[str]
    data: Data | None = None
    inputs: ExampleInputs | None = None
    loss: Loss | None = None
    start: Start | None = None

    @property
    def criterion_loss(self) -> Loss | None:
        """The loss that was given, or else that of a task."""
        of_task: Loss | None = self.data.loss if getattr(self.data, "has_loss", False) else None  # type: ignore[union-attr]
        return of_task if self.loss is None else self.loss


@dataclass(frozen=True)
class WeightNeed:
    """A statistic of single weights.

    Attributes:
        collect: Gives a tensor of the parameter's shape for every name.
        data: What the data have to hold: ``""`` for no data, or ``inputs, labels``.
    """

    collect: Callable[[Weighing], Mapping[str, Tensor]]
    data: str = ""


WEIGHT_NEEDS: Registry[WeightNeed] = Registry("statistic of weights")
"""What criteria of weights may need, by name."""


def collect_weights(criterion: Criterion, setting: Weighing) -> dict[str, tuple[Tensor, ...]]:
    """Collects what a criterion of weights needs: for every parameter one tensor for each need, in their order.

    Raises:
        InputError: Data, labels or the weights at the start are missing or do not fit; a loss that is not finite.
    """
    needs = [WEIGHT_NEEDS[name] for name in criterion.weight_needs]
    if setting.data is None and any(need.data for need in needs):
        raise InputError(
            f"The criterion {criterion.name!r} needs data: data=…, an iterable of batches of pairs (inputs, labels) (a "
            "DataLoader, a list). On the command line --data."
        )
    found = [need.collect(setting) for need in needs]
    return {name: tuple(values[name] for values in found) for name in setting.names}


def _gradient(setting: Weighing) -> dict[str, Tensor]:
    """Mean over samples of ∂L/∂w."""
    return _mean(setting, one_by_one=False)


def _curvature(setting: Weighing) -> dict[str, Tensor]:
    """Mean over samples of (∂L/∂w)²: the diagonal of the empirical Fisher information."""
    return _mean(setting, one_by_one=True)


def _start(setting: Weighing) -> dict[str, Tensor]:
    """The weights as they were."""
    if setting.start is None:
        raise InputError(
            "The criterion needs the weights at the start of the training: criterion=weight_scores('change', model, "
            "start=…), a network or its state dict. On the command line --start."
        )
    given = setting.start.state_dict() if isinstance(setting.start, nn.Module) else setting.start
    named, found = dict(setting.model.named_parameters()), {}
    for name in setting.names:
        if name not in given:
            raise UnknownNameError("weight in start", name, given)
        if given[name].shape != named[name].shape:
            raise InputError(
                f"start holds {name!r} of shape {tuple(given[name].shape)}; the network's is "
                f"{tuple(named[name].shape)}. Give the weights that this network was trained from."
            )
        found[name] = given[name].detach()
    return found


WEIGHT_NEEDS.add("gradient", WeightNeed(_gradient, "inputs, labels"))
WEIGHT_NEEDS.add("curvature", WeightNeed(_curvature, "inputs, labels"))
WEIGHT_NEEDS.add("start", WeightNeed(_start))


# ---------------------------------------------------------------------------------------------------- gradients


@dataclass(frozen=True)
class _Taker:
    """What the reader of the data has to know of the network's inputs."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    dynamic: bool = True


def taker_of(inputs: ExampleInputs) -> Taker:
    """What the reader of data has to know of a network that is called with ``inputs`` and takes any number of them."""
    args, kwargs = to_args(inputs)
    leaf = next(v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor))
    return _Taker(args, kwargs, len(leaf))


def _mean(setting: Weighing, *, one_by_one: bool) -> dict[str, Tensor]:
    """Mean of the gradients in float64, in eval mode; of their squares, sample by sample, if ``one_by_one``."""
    model = setting.model
    leaves = {n: p.detach().requires_grad_() for n, p in model.named_parameters() if n in set(setting.names)}
    sums = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in leaves.items()}
    seen = 0
    with preserved_rng(*leaves.values()), evaluating(model), torch.enable_grad():
        for batch in _batches(setting, one_by_one=one_by_one):
            found = torch.autograd.grad(_loss(setting, leaves, batch), list(leaves.values()), allow_unused=True)
            seen += batch.size
            for total, gradient in zip(sums.values(), found, strict=True):
                if gradient is not None:  # the loss does not depend on that layer
                    value = gradient.detach().double().cpu()
                    total += value.square() if one_by_one else value * batch.size
    return {n: total / seen for n, total in sums.items()}


def _loss(setting: Weighing, leaves: Mapping[str, Tensor], batch: Batch) -> Tensor:
    args, kwargs = batch.copied()
    buffers = {n: b.clone() for n, b in setting.model.named_buffers()}  # a network may write into them
    output = functional_call(setting.model, {**leaves, **buffers}, args, kwargs)
    given = setting.criterion_loss
    loss = given(output, batch.labels) if given is not None else default_loss(output, batch)
    if not torch.isfinite(loss):
        raise InputError(
            f"The loss is {float(loss.detach())} on batch {batch.number} of the data; scores would mean nothing."
        )
    return loss


def _batches(setting: Weighing, *, one_by_one: bool) -> Iterator[Batch]:
    """The batches of the data with their labels, or the samples one at a time."""
    assert setting.data is not None
    data, inputs = (setting.data, setting.inputs) if setting.inputs is not None else _peeked(setting.data)
    taker = taker_of(inputs)
    for batch in batches(data, taker):
        if batch.labels is None:
            raise InputError(
                f"Gradients need labels: every item of data is a pair (inputs, labels); batch {batch.number} has "
                "inputs alone."
            )
        yield from pieces(batch, 1, taker) if one_by_one else (batch,)


def _peeked(data: Data) -> tuple[Data, ExampleInputs]:
    """The data, and the inputs of their first batch."""
    first: Any = data
    if not isinstance(data, tuple | Tensor | Mapping):
        items = iter(data)
        first = next(items, None)
        data = itertools.chain([] if first is None else [first], items)
    if not isinstance(first, tuple | list) or len(first) != 2 or not isinstance(first[0], Tensor):
        raise InputError(
            "What the network is called with cannot be told from the data, which are not pairs (inputs, labels) of a "
            "tensor and its labels. Give example_inputs too."
        )
    return data, first[0]

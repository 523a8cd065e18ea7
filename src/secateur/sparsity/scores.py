"""Scores of single weights, layer by layer: by a registered criterion, or by a user's own function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import InputError, SecateurError, first_line
from secateur.core.inputs import Data
from secateur.core.types import ExampleInputs
from secateur.criteria.base import of_kind
from secateur.criteria.statistics import Loss
from secateur.criteria.weight_statistics import Start, Weighing, collect_weights
from secateur.cut.pruned import Pruned
from secateur.sparsity.masks import Masks
from secateur.sparsity.select import Layer

__all__ = ["Score", "scored_by", "scored_layer", "weight_scores"]

Score = Callable[[str, Tensor], Tensor]
"""From a parameter's name and value to one score per weight, higher = keep."""


@arguments.checked
def weight_scores(
    criterion: str,
    model: nn.Module | Pruned,
    *,
    data: Data | None = None,
    loss: Loss | None = None,
    start: Start | None = None,
    example_inputs: ExampleInputs | None = None,
    seed: int = 0,
) -> Score:
    """What a criterion of weights says of a network, for ``sparsify(…, criterion=…)``.

    Args:
        criterion: ``magnitude``, ``lamp``, ``snip``, ``obd``, ``change``, ``random`` or another one of weights.
        model: The network, or the result of an earlier cut.
        data: For criteria that need gradients (``snip``, ``obd``): pairs of inputs and labels.
        loss: From output and labels to the mean loss; by default that of ``data`` where this is a task, else
            cross-entropy.
        start: For ``change``: the network as it was at the start of its training, or its state dict.
        example_inputs: What the network is called with, where ``data`` are not pairs of a tensor and labels. The
            result of an earlier cut knows it.
        seed: For criteria that draw random numbers.

    Returns:
        A function of a parameter's name and value that gives one score per weight; higher = keep.

    Raises:
        InputError: Something that the criterion needs is missing or does not fit.
        UnknownNameError: There is no such criterion.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> score = weight_scores("change", net, start={"weight": net.weight.detach() + torch.tensor([[0.5, -2.0]])})
    >>> score("weight", net.weight.detach())
    tensor([[0.5000, 2.0000]])
    """
    network, inputs = (model.model, model.example_inputs) if isinstance(model, Pruned) else (model, None)
    names = [n for n, p in network.named_parameters() if p.ndim > 1 and p.is_floating_point()]
    inputs = inputs if example_inputs is None else example_inputs
    return scored_by(criterion, Weighing(network, names, data, inputs, loss, start), seed)


def scored_by(name: str, setting: Weighing, seed: int) -> Score:
    """A registered criterion with what it needs of a network, as a function of a parameter's name and value."""
    known = of_kind(name, "weights")
    assert known.weights is not None
    score, found = known.weights, collect_weights(known, setting)

    def scored(parameter: str, weight: Tensor) -> Tensor:
        return score(weight.cpu(), torch.Generator().manual_seed(seed), *(v.cpu() for v in found[parameter]))

    return scored


def scored_layer(name: str, weight: Tensor, criterion: Score, masks: Masks) -> Layer:
    """A layer with its scores, and what earlier masks left of it.

    Raises:
        InputError: The criterion failed, or gave something else than a finite score for each weight; a mask of another
            shape.
    """
    scores = _scored(criterion, name, weight).detach().double().cpu()
    if scores.shape != weight.shape or not torch.isfinite(scores).all():
        raise InputError(
            f"The criterion gave scores of shape {tuple(scores.shape)} for {name!r}; wanted one finite score for each "
            f"of its weights, shape {tuple(weight.shape)}."
        )
    alive = masks[name].cpu() if name in masks else torch.ones(weight.shape, dtype=torch.bool)
    if alive.shape != weight.shape:
        raise InputError(f"The mask of {name!r} has shape {tuple(alive.shape)}; its weights {tuple(weight.shape)}.")
    return Layer(name, scores, alive)


def _scored(criterion: Score, name: str, weight: Tensor) -> Tensor:
    """What a user's own criterion says; what it raises becomes a sentence that names it."""
    try:
        found = criterion(name, weight)
    except SecateurError:
        raise
    except Exception as error:
        raise InputError(
            f"The criterion failed on {name!r}: {type(error).__name__}: {first_line(error)}. It is a function of a "
            "parameter's name and value that gives one score per weight."
        ) from error
    if not isinstance(found, Tensor):
        raise InputError(
            f"The criterion gave a {type(found).__name__} for {name!r}; it has to give a tensor of scores, one for "
            "each weight."
        )
    return found

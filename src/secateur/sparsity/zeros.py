"""What a group lasso has pushed to zero is set to zero and removed: whole branches, then single channels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from secateur.core import arguments
from secateur.core.checks import check_network
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.cut.layers import remove_layers
from secateur.cut.pruned import Pruned, descended, opened
from secateur.graph.branches import find_branches
from secateur.graph.copies import deep_copy
from secateur.graph.trace import trace
from secateur.recovery import purify

__all__ = ["remove_zeros", "zeroed"]


@torch.no_grad()
def zeroed(model: nn.Module, below: float) -> nn.Module:
    """A copy of ``model`` in which every parameter of a size below ``below`` is exactly zero.

    >>> net = nn.Linear(2, 1)
    >>> net.weight.data.copy_(torch.tensor([[0.5, 9e-5]]))
    tensor([[5.0000e-01, 9.0000e-05]])
    >>> zeroed(net, 1e-4).weight.data
    tensor([[0.5000, 0.0000]])
    """
    if not 0 <= below < float("inf"):
        raise InputError(f"below is the size under which a weight counts as zero, at least 0; got {below!r}.")
    result = deep_copy(model)
    for parameter in result.parameters():
        parameter.masked_fill_(parameter.abs() < below, 0)
    return result


@arguments.checked
def remove_zeros(
    model: nn.Module | Pruned, example_inputs: ExampleInputs | None = None, *, below: float = 1e-4
) -> Pruned:
    """Sets small weights to zero and removes what has no effect then.

    Residual branches of zeros go whole (one stays, if all are), and channels that nothing makes or nothing uses go
    by :func:`secateur.recovery.purify`. Source: Wen et al. 2016, https://arxiv.org/abs/1608.03665, §4 (weights below
    1e-4 are zeroed after training).

    Args:
        model: A network (or a result) that was trained with a group lasso; it is left untouched.
        example_inputs: What it is called with. The result of an earlier cut knows it.
        below: Size under which a weight counts as zero.

    Returns:
        The smaller network. Where nothing is zero it has the same size, and a note says so.

    Raises:
        InputError: ``below`` is negative.
        VerificationError: The cut is not exact; nothing is returned.
    """
    network, first, example_inputs = opened(model, example_inputs)
    check_network(network, example_inputs)
    sparse = zeroed(network, below)
    gone = _branches(network, sparse, example_inputs)
    layers = remove_layers(sparse, example_inputs, names=gone) if gone else None
    channels = purify(sparse if layers is None else layers.model, example_inputs)
    if layers is None:
        if channels.after.params == channels.before.params:
            note = f"no group of weights is below {below:g} as a whole: raise the penalty's weight, or train longer"
            channels = replace(channels, notes=(*channels.notes, note))
        return descended(channels, first)
    notes = (f"residual branches of zeros removed: {', '.join(gone)}", *layers.notes, *channels.notes)
    return descended(replace(channels, before=layers.before, notes=notes), first)


def _branches(model: nn.Module, sparse: nn.Module, inputs: ExampleInputs) -> list[str]:
    """Names of the removable residual branches in which nothing is left."""
    free = [branch for branch in find_branches(trace(sparse, inputs)) if not branch.reason]
    left, before = dict(sparse.named_parameters()), dict(model.named_parameters())
    gone = [b for b in free if not any(left[name].any() for name in b.parameters if name in left)]
    if gone and len(gone) == len(free):  # one has to stay: that which was furthest from zero
        norms = [sum(float(before[n].detach().square().sum()) for n in b.parameters if n in before) for b in gone]
        del gone[norms.index(max(norms))]
    return [branch.name for branch in gone]

"""Energy-aware pruning: weights go layer by layer, what the output misses most returns, the rest is refitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.inputs import Batch, Data, batches
from secateur.core.modes import evaluating
from secateur.core.types import ExampleInputs
from secateur.cost.energy import energy
from secateur.criteria.weight_statistics import taker_of
from secateur.cut.pruned import Pruned, opened
from secateur.sparsity.masks import copied, weights_of
from secateur.sparsity.patterns import Pattern
from secateur.sparsity.select import Layer, by_ratio
from secateur.sparsity.shares import Amount, shares
from secateur.sparsity.weights import Sparse, sparse

__all__ = ["Gram", "energy_aware", "refitted", "restored"]

RIDGE = 1e-6
"""Of the least squares, relative to the mean square of the inputs: where inputs repeat each other, weights stay."""


@arguments.checked
def energy_aware(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | None = None,
    *,
    ratio: Amount,
    data: Data,
    restore: float = 0.2,
    only: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    masks: Mapping[str, Tensor] | None = None,
) -> Sparse:
    """Removes single weights in the order of the energy that layers take, and repairs every layer at once.

    Yang, Chen & Sze 2017, Designing Energy-Efficient Convolutional Neural Networks using Energy-Aware Pruning,
    arXiv:1611.05128, §4. For every layer, that with the highest energy (:func:`secateur.cost.energy`) first, with X its
    inputs in the network as it is by then, one row for each position of each sample, and Y its outputs in the network
    as it was:

    1. the smallest magnitudes of the layer go, more than the target asks for;
    2. filter by filter, the removed weights return, one after the other, whose return reduces ‖Y − X A‖² most, as many
       of each filter as the target leaves room for (see :func:`restored`);
    3. the weights that are left are fitted anew by least squares, A = argmin ‖Y − X A‖², filter by filter.

    Fine-tuning with the masks held comes after. The paper looks for the highest ratio of each layer that keeps the
    accuracy; here the ratio is given.

    Args:
        model: The network, or the result of an earlier cut; it is left untouched.
        example_inputs: What it is called with. The result of an earlier cut knows it.
        ratio: Share of the weights of every layer to remove, in [0, 1); or one by layer name or pattern.
        data: Batches of inputs (labels are ignored).
        restore: Share of the weights that stay which are chosen by step 2, in [0, 1); 0 prunes by magnitude alone.
        only: Modules or parameters that alone are pruned.
        ignore: Modules or parameters that are left alone.
        masks: Earlier masks, by default those of a ``Sparse``; what they removed counts towards the ratio and stays
            removed.

    Returns:
        The sparse network; its notes say the energy before and after, and the order of the layers.

    Raises:
        InputError: A value out of range, data that do not fit, or no linear layer or convolution that could be pruned.
        UnknownNameError: A name that fits nothing.
    """
    if not 0 <= restore < 1:
        raise InputError(f"restore is the share of what stays that its effect decides, in [0, 1); got {restore!r}.")
    shares("ratio", ratio, None, ())
    masks = model.masks if masks is None and isinstance(model, Sparse) else masks
    before = model if isinstance(model, Pruned) else None
    dense, _, inputs = opened(model, example_inputs)
    if any(isinstance(v, Tensor) and v.is_complex() for v in pytree.tree_leaves(inputs)):
        raise InputError("energy_aware refits real numbers, and example_inputs are complex ones.")
    result = copied(dense)
    ratios = shares("ratio", ratio, dense, list(_layers(dense, weights_of(dense, only=only, ignore=ignore))))
    takes: dict[str, float] = {}
    found = energy(dense, inputs)
    for layer in found.layers:
        takes[layer.name] = takes.get(layer.name, 0.0) + layer.total
    order = sorted(ratios, key=lambda n: -takes.get(n.rpartition(".")[0], 0.0))
    seen = list(batches(data, taker_of(inputs)))
    chosen: dict[str, Tensor] = dict(masks or {})
    for name in order:
        path = name.rpartition(".")[0]
        gram = Gram.of(dense, result, path, seen)
        weight = dense.get_parameter(name).detach()
        matrix = weight.double().cpu().flatten(1)
        alive = chosen[name].cpu().flatten(1) if name in chosen else torch.ones_like(matrix, dtype=torch.bool)
        keep = restored(matrix, gram, ratios[name], restore, alive)
        fitted = refitted(matrix, gram, keep).reshape(weight.shape)
        with torch.no_grad():
            result.get_parameter(name).copy_(fitted)
        chosen[name] = keep.reshape(weight.shape).to(weight.device)
    after = energy(result, inputs)
    notes = (
        f"Energy of one sample by the model (nothing is measured): {found.total:,.0f} → {after.total:,.0f} "
        f"multiply-accumulates ({after.total / found.total - 1:+.1%}), {found.estimated_mj:.3g} → "
        f"{after.estimated_mj:.3g} mJ.",
        f"Layers in the order of their energy: {', '.join(n.rpartition('.')[0] for n in order)}.",
    )
    return sparse(result, chosen, notes=notes, before=before, inputs=inputs,
                  dense=None if before is not None else dense)  # fmt: skip


def _layers(model: nn.Module, weights: Iterable[str]) -> Iterator[str]:
    """The weights that belong to a linear layer or an ungrouped convolution of two dimensions."""
    modules, found = dict(model.named_modules()), False
    for name in weights:
        module = modules.get(name.rpartition(".")[0])
        if name.endswith("weight") and (type(module) is nn.Linear or _plain(module)):
            found = True
            yield name
    if not found:
        raise InputError(
            "energy_aware prunes linear layers and ungrouped 2-d convolutions, and the network has none as modules. (A "
            "traced graph has no modules: prune weights first, or take backend='module' for the cut.)"
        )


def _plain(module: nn.Module | None) -> bool:
    return type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"


# ---------------------------------------------------------------------------------------------------- one layer


@dataclass(frozen=True)
class Gram:
    """What the squared error of a layer's output needs to know of its inputs; float64, K inputs of a filter.

    Attributes:
        now: XᵀX of the inputs X in the network as it is, (K, K).
        cross: XᵀX₀, where X₀ are the inputs in the network as it was, (K, K).
    """

    now: Tensor
    cross: Tensor

    @classmethod
    def of(cls, dense: nn.Module, result: nn.Module, path: str, data: Iterable[Batch]) -> Gram:
        """Adds up over all batches, and over all calls of the layer."""
        now = cross = torch.zeros(())
        for batch in data:
            for mine, theirs in zip(_seen(result, path, batch), _seen(dense, path, batch), strict=True):
                now, cross = now + mine.T @ mine, cross + mine.T @ theirs
        if not now.ndim:
            raise InputError(f"The layer {path!r} was not called on the data.")
        if not torch.isfinite(now).all():
            raise InputError(f"The inputs of {path!r} are not finite on these data.")
        return cls(now, cross)


@torch.no_grad()
def _seen(model: nn.Module, path: str, batch: Batch) -> list[Tensor]:
    """The inputs of every call of a layer as rows, (positions, K), in the order of the weight's columns."""
    found: list[Tensor] = []
    module = model.get_submodule(path)

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().double().cpu()
        if isinstance(module, nn.Conv2d):
            padding: tuple[int, int] = module.padding if not isinstance(module.padding, str) else (0, 0)  # type: ignore[assignment]
            if module.padding == "same":
                x = F.pad(x, tuple(module._reversed_padding_repeated_twice))
            columns = F.unfold(x, module.kernel_size, module.dilation, padding, module.stride)
            found.append(columns.movedim(1, 2).reshape(-1, columns.shape[1]))
        else:
            found.append(x.reshape(-1, x.shape[-1]))

    handle = module.register_forward_pre_hook(note)
    try:
        with evaluating(model):
            args, kwargs = batch.copied()
            model(*args, **kwargs)
    finally:
        handle.remove()
    return found


def restored(weight: Tensor, gram: Gram, ratio: float, restore: float, alive: Tensor | None = None) -> Tensor:
    """Which weights of a layer stay: the largest, and those whose return reduces the output's error most.

    The error of filter f with weights a is E = ‖X₀ w − X a‖². If weight k returns, it changes by
    −2 w_k · (Xᵀ(X₀ w − X a))_k + w_k² (XᵀX)_kk; the lowest of each filter returns first, and what a return does to the
    others is taken into account.

    Args:
        weight: (filters, K), float64.
        gram: Of its inputs.
        ratio: Share of the weights that goes.
        restore: Share of those that stay which is chosen by the error. Every filter gets as many back, those first
            that have most to gain where they do not divide; a filter with nothing left to return leaves its part to
            others.
        alive: What earlier masks left.

    Returns:
        bool, (filters, K).
    """
    alive = torch.ones_like(weight, dtype=torch.bool) if alive is None else alive
    stays = by_ratio([Layer("", weight.abs(), alive)], Pattern("element"), {"": ratio}, pooled=True)[""]
    total, back = int(stays.sum()), int(restore * int(stays.sum()))
    if not back:
        return stays
    beyond = 1 - (total - back) / weight.numel()
    keep = by_ratio([Layer("", weight.abs(), alive)], Pattern("element"), {"": beyond}, pooled=True)[""]
    back, squares = total - int(keep.sum()), weight.square() * gram.now.diagonal()
    pull = weight @ gram.cross.T - (weight * keep) @ gram.now  # Xᵀ(X₀ w − X a), a row for each filter
    while back:
        change = (squares - 2 * weight * pull).masked_fill(keep | ~alive, float("inf"))
        lowest, place = change.min(1)
        rows = torch.argsort(lowest, stable=True)[:back]
        rows = rows[torch.isfinite(lowest[rows])]
        if not len(rows):
            break
        keep[rows, place[rows]] = True
        pull[rows] -= weight[rows, place[rows], None] * gram.now[place[rows]]
        back -= len(rows)
    return keep


def refitted(weight: Tensor, gram: Gram, keep: Tensor) -> Tensor:
    """The weights that stay, fitted anew: filter by filter argmin ‖X₀ w − X a‖² over a that is zero outside ``keep``.

    A small ridge towards the weights as they were decides where inputs repeat each other, or are always zero.

    Args:
        weight: (filters, K), float64.
        gram: Of its inputs.
        keep: bool, of the same shape.
    """
    wanted, found = weight @ gram.cross.T, torch.zeros_like(weight)
    ridge = RIDGE * float(gram.now.diagonal().mean()) + torch.finfo(torch.float64).tiny
    for f, mask in enumerate(keep):
        own = mask.nonzero().ravel()
        matrix = gram.now[own][:, own] + ridge * torch.eye(len(own), dtype=weight.dtype)
        right = wanted[f, own] + ridge * weight[f, own]
        found[f, own] = torch.linalg.solve(matrix, right)
    return found

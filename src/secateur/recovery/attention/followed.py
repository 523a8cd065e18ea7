"""The dense network's queries and keys, predicted from what the pruned network computes; and its layers written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from secateur.core.errors import InputError
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.design import Design
from secateur.criteria.least_squares.layout import Layout
from secateur.criteria.least_squares.normal import Moments, Prior, solve
from secateur.criteria.least_squares.twin import Twin
from secateur.recovery.attention.ahead import Ahead
from secateur.recovery.attention.alternate import Maps
from secateur.recovery.attention.find import Attention
from secateur.recovery.attention.operands import Operand, Projection
from secateur.recovery.attention.placed import Placed, View, full

__all__ = ["Followed", "second_half"]

SAME = 1e-9
"""Relative squared error below which the dense network's own weights are the answer."""


@dataclass
class _Layer:
    """A layer that queries or keys come out of: what its dense outputs are predicted by.

    Attributes:
        prior: Its dense weight and bias at the inputs that are left, (1, outputs, p + 1), float64.
        folds: Normal equations of the even and the odd samples.
        apart: Squared error of ``prior``, and of nothing.
        matrix: The prediction, as ``prior``.
    """

    prior: Tensor
    folds: tuple[Moments, Moments]
    apart: list[float]
    matrix: Tensor


class Followed:
    """Weights that predict the dense layers' outputs from the pruned layers' inputs, all channels of them."""

    def __init__(self, twin: Twin, attention: Attention, options: Options) -> None:
        """Starts with empty normal equations."""
        self._twin, self._attention, self._options = twin, attention, options
        self.notes: list[str] = []
        self._layers: dict[Node, _Layer] = {}
        for side in (attention.query, attention.key):
            if side.projection.node not in self._layers:
                prior = _prior(twin, side.projection)
                size = prior.shape[2] - 1 if self._fits(prior) else 0
                folds = tuple(Moments.zeros(1, size, prior.shape[1]) for _ in range(2))
                self._layers[side.projection.node] = _Layer(prior, (folds[0], folds[1]), [0.0, 0.0], prior)

    def _fits(self, prior: Tensor) -> bool:
        return prior.shape[2] - 1 <= self._options.largest

    def add(self, index: int, dense: View, pruned: View, used: tuple[Tensor, Tensor]) -> None:
        """One batch; ``used`` are the entries of queries and keys that count."""
        sides = (self._attention.query, self._attention.key)
        for node, layer in self._layers.items():
            own = [k for k, s in enumerate(sides) if s.projection.node is node]
            targets, inputs = full(dense.outputs(sides[own[0]])), full(pruned.inputs(sides[own[0]]))
            fold = torch.full((len(targets),), -1, device=targets.device)
            for k in own:
                rows = (dense.query, dense.key)[k].rows
                fold[rows[used[k]]] = second_half(rows.shape[1], index).to(rows)[None, :, None].expand_as(rows)[used[k]]
            for number, moments in enumerate(layer.folds):
                self._add(layer, moments, inputs[fold == number], targets[fold == number])

    def _add(self, layer: _Layer, moments: Moments, inputs: Tensor, targets: Tensor) -> None:
        if not len(inputs):
            return
        if not (torch.isfinite(inputs).all() and torch.isfinite(targets).all()):
            raise InputError(
                f"What the queries and keys of {self._attention.name!r} are computed from holds NaN or infinite values "
                "on the calibration data: they cannot be fitted. Check the weights before it and the scale of the data."
            )
        targets, inputs = targets.cpu(), inputs.cpu()
        gap = targets.double() - (inputs.double() @ layer.prior[0, :, :-1].mT + layer.prior[0, :, -1])
        layer.apart[0] += float(gap.square().sum())
        layer.apart[1] += float(targets.double().square().sum())
        if self._fits(layer.prior):
            moments.add(Design(Layout(), inputs[None], None), targets.mT[None, :, None])

    def solve(self) -> None:
        """All batches were seen: where the inputs are what they were, so are the weights."""
        for node, layer in self._layers.items():
            if layer.apart[0] <= SAME * layer.apart[1]:
                continue
            if not self._fits(layer.prior):
                self.notes.append(
                    f"{layer.prior.shape[2] - 1:,} inputs are too many for a fit (at most {self._options.largest:,}); "
                    "the dense network's queries and keys are taken as they were"
                )
                continue
            biased = next(s for s in self._sides if s.projection.node is node).projection.bias is not None
            layer.matrix = solve(
                layer.folds, [Prior.fixed(layer.prior)], ridge=self._options.ridge, intercept=biased
            ).matrix

    @property
    def _sides(self) -> tuple[Operand, Operand]:
        return self._attention.query, self._attention.key

    def predicted(self, side: Operand, inputs: Tensor) -> Tensor:
        """The dense layer's outputs (rows, channels) from the pruned layer's inputs."""
        inputs = full(inputs)
        matrix = self._layers[side.projection.node].matrix[0].to(inputs)
        return inputs @ matrix[:, :-1].mT + matrix[:, -1]

    def same(self, side: Operand, dense: Tensor, pruned: Tensor) -> Tensor:
        """Where channels of the pruned layer (H, d′) are channels of the dense one (H, d): 0 and 1, (H, d′, d)."""
        stay = torch.from_numpy(_stay(self._twin, side.projection.node, -1)).to(pruned.device)
        return (stay[pruned][:, :, None] == dense[:, None, :]).double().cpu()

    def write(
        self, maps: Maps, groups: Tensor, dense_query: Placed, dense_key: Placed, query: Placed, key: Placed
    ) -> None:
        """Puts the mapped predictions into the pruned network's layers, in the groups that are true in ``groups``."""
        heads = maps.query.flatten(0, 1)
        every = groups.repeat_interleave(maps.query.shape[1]).nonzero().ravel().tolist()
        for h in every:
            self._write(self._sides[0], heads[h], dense_query.channels[h], query.channels[h])
        for g in groups.nonzero().ravel().tolist():
            h = g * maps.query.shape[1]
            self._write(self._sides[1], maps.key[g], dense_key.channels[h], key.channels[h])

    def _write(self, side: Operand, maps: Tensor, dense: Tensor, pruned: Tensor) -> None:
        projection, twin = side.projection, self._twin
        rows = maps @ self._layers[projection.node].matrix[0][dense]
        places = _entries(twin, projection.stored)
        places = places.mT if projection.inputs_first else places
        _put(twin, str(projection.stored[0].target), places[pruned], rows[:, :-1])
        bias = projection.stored_bias
        if bias is not None:
            _put(twin, str(bias[0].target), _entries(twin, bias)[pruned], rows[:, -1])


def second_half(count: int, index: int) -> Tensor:
    """Which instances of a batch are in its second half; batches of one go to either in turn."""
    return torch.arange(count) >= count // 2 if count > 1 else torch.tensor([index % 2 == 1])


def _put(twin: Twin, name: str, places: Tensor, values: Tensor) -> None:
    held = twin.tensors[name]
    flat = held.flatten().clone()
    flat[places] = values.to(flat)
    twin.write(name, flat.reshape(held.shape))


def _entries(twin: Twin, stored: tuple[Node, tuple[Node, ...]]) -> Tensor:
    """Flat places, in the pruned network's tensor, of the entries of the weight that is made of it."""
    node, steps = stored
    held = twin.tensors[str(node.target)]
    numbers = torch.arange(held.numel(), dtype=torch.float64).reshape(held.shape)
    made = Ahead(twin.pruned, {}).through([twin.copies[s] for s in steps], twin.copies[node], numbers)
    return made.long()


def _stay(twin: Twin, node: Node, dim: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The entries of a dimension that the pruned network still has."""
    labels = twin.groups.flow.labels[node]
    mask = twin.groups.masks(labels, twin.label_keep).get(dim % labels.ndim)
    return np.arange(labels.shape[dim]) if mask is None else np.flatnonzero(mask)


def _prior(twin: Twin, projection: Projection) -> Tensor:
    """The dense layer's weight and bias at the inputs that the pruned one still has, (1, outputs, p + 1)."""
    ahead = Ahead(twin.dense, {})
    weight = ahead.get(projection.weight).detach().double().cpu()
    stay = torch.from_numpy(_stay(twin, projection.weight, 0 if projection.inputs_first else 1))
    weight = weight.mT if projection.inputs_first else weight
    bias = torch.zeros(len(weight)).double() if projection.bias is None else ahead.get(projection.bias).detach()
    return torch.cat([weight[:, stay], bias.double().cpu()[:, None]], 1)[None]

"""Unused paths: channels that nothing enters or nothing uses are deleted, to a fixed point."""

from __future__ import annotations

import operator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.core.arguments import checked
from secateur.core.checks import check_network
from secateur.core.errors import VerificationError
from secateur.core.rounding import rounding
from secateur.core.types import ExampleInputs, Member, call
from secateur.criteria.least_squares.affine import Affine, Options
from secateur.criteria.least_squares.sites import Site, sites
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Walker
from secateur.cut.analysis import Analysis, analyse
from secateur.cut.plans import plan_of
from secateur.cut.prune import apply
from secateur.cut.pruned import Pruned, descended, opened
from secateur.graph.calling import preserved_rng
from secateur.graph.copies import deep_copy
from secateur.graph.labels import Labels
from secateur.graph.ops import Kind, arguments, facts, find
from secateur.recovery.datafree import back, passed
from secateur.recovery.emptiness import emptied

__all__ = ["purify"]

TOLERANCE = 1e-4
"""Largest relative difference from the network as it was; deleting zeros changes only the order of sums."""

_WEIGHING = (Kind.CONV, Kind.CONV_TRANSPOSE, Kind.LINEAR)


@checked
def purify(
    model: nn.Module | Pruned, example_inputs: ExampleInputs | None = None, *, emptiness: float | None = None
) -> Pruned:
    """Deletes channels that are no part of any path from input to output; the network computes the same.

    A channel goes when every weight that uses it is zero, or when it is constant, because every weight that
    makes it (or its batch-norm scale) is zero: a constant of zero is nothing, and another one is folded into the
    biases behind it where that is exact (no zero padding in between). Either may leave further channels unused,
    so this is repeated until nothing changes. A group never empties: one of its channels stays.

    With ``emptiness``, channels are purified first: where that share of a convolution's columns of an input channel is
    zero, the rest of the channel is set to zero too. That changes what the network computes; train it afterwards.

    Source: Ma et al. 2019, arXiv:1905.00136, §3.3 (purification and unused-path removal).

    Args:
        model: A network (or a result) with zeros in its weights, after weight pruning for instance; not touched.
        example_inputs: What it is called with. The result of an earlier cut knows it.
        emptiness: Share of zero columns, in (0, 1], from which on a channel is emptied; ``None`` for no purification.

    Returns:
        The smaller network. Nothing to delete gives a copy of the same size.

    Raises:
        InputError: ``emptiness`` is out of range.
        VerificationError: The result differs from ``model`` (purified, if that was asked for); nothing is returned.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = net[2].weight[0, 1].zero_()
    >>> purify(net, torch.zeros(1, 2)).model[0]
    Linear(in_features=2, out_features=2, bias=True)
    """
    network, first, example_inputs = opened(model, example_inputs)
    check_network(network, example_inputs)
    network, cleared = (network, 0) if emptiness is None else emptied(network, emptiness)
    clean = deep_copy(network)
    analysis = analyse(clean, example_inputs)
    with torch.no_grad():
        unused = _Cleaner(analysis).run()
    keep = np.ones(analysis.groups.units, dtype=bool)
    for group in analysis.groups.items:
        gone = group.units[unused[group.units]]
        keep[gone[1:] if len(gone) == len(group) else gone] = False
    plan = plan_of(analysis.groups, analysis.groups.label_keep(keep), {"criterion": "purify"})
    pruned = apply(clean, plan, example_inputs)
    _check(network, pruned, example_inputs)
    removed = int((~keep).sum())
    purified = () if emptiness is None else (
        f"{cleared:,} input channels with {emptiness:.0%} or more of their columns zero were emptied as a whole",
    )  # fmt: skip
    notes = (*pruned.notes, *purified, f"{removed:,} of {len(keep):,} units were unused")
    return descended(replace(pruned, notes=notes), first)


class _Cleaner:
    """Turns channels without effect into zeros, in place, until there are no more."""

    def __init__(self, analysis: Analysis) -> None:
        self.groups = analysis.groups
        flow = self.groups.flow
        walker = Walker(flow.traced.module)
        every = np.ones(len(self.groups.component), dtype=bool)
        self.pair = Twin(self.groups, every, walker, walker, {n: n for n in walker.nodes})
        self.sites = sites(flow)
        self.ends: dict[Node, Site] = {(s.norm.node if s.norm else s.node): s for s in self.sites}
        self.frozen = self._frozen()
        self.unused = np.zeros(self.groups.units, dtype=bool)

    def run(self) -> NDArray[np.bool_]:
        """Which units have no effect, shape (units,)."""
        while True:
            before = self.unused.sum()
            for site in self.sites:
                self._fold_constants(site)
            for number, group in enumerate(self.groups.items):
                if number not in self.frozen:
                    self._zero_unused(group.members, group.units)
            if self.unused.sum() == before:
                return self.unused

    def _frozen(self) -> set[int]:
        """Groups whose zeros still count: in the statistics of a norm, in a softmax, in a product of activations."""
        flow, found = self.groups.flow, set()
        number = np.full(self.groups.units + 1, -1)
        for k, group in enumerate(self.groups.items):
            number[group.units] = k
        # Products with a weight of the network: whether it is zero is looked at channel by channel.
        weighed = {
            n for n in flow.macs
            if facts(n).kind in _WEIGHING and arguments(n)["weight"].op == "get_attr"
        }  # fmt: skip

        def carried(labels: object) -> set[int]:
            if isinstance(labels, list):
                return {g for each in labels for g in carried(each)}
            vectors = [v for vs in labels.dims.values() for v in vs] if isinstance(labels, Labels) else []
            return {int(n) for v in vectors for n in np.unique(number[self.groups.unit_of(v)])}

        for node in flow.traced.nodes:
            if node.op != "call_function" or node in weighed or node.target is operator.getitem:
                continue
            entering = {g for n in node.all_input_nodes for g in carried(flow.labels.get(n))}
            # Channels that do not come out were summed up; products, norms and running sums mix them.
            found |= entering if node in flow.macs or self._mixes(node) else entering - carried(flow.labels.get(node))
        return found - {-1}

    @staticmethod
    def _mixes(node: Node) -> bool:
        """Whether a channel of the result can depend on others."""
        rule = find(node.target) if isinstance(node.target, torch._ops.OpOverload) else None
        kind = facts(node).kind
        if kind is Kind.BATCH_NORM and arguments(node)["running_mean"] is not None:
            return False
        special = rule is not None and rule.reference is not None
        return kind is Kind.SCAN or (special and kind is not Kind.REDUCE)

    def _zero_unused(self, members: tuple[Member, ...], units: NDArray[np.int64]) -> None:
        """Units that all consumers weigh with zero become zero themselves, so that what makes them is unused too."""
        consumers = [m for m in members if m.consumes]
        if not consumers or not all(m.parameter in self.pair.tensors for m in members):
            return
        dead = np.ones(len(units), dtype=bool)
        for member in consumers:
            largest = np.zeros(self.groups.units)
            of, sizes = self._units_and_sizes(member)
            np.maximum.at(largest, of[of >= 0], sizes[of >= 0])
            dead &= largest[units] == 0
        self.unused[units[dead]] = True
        for member in members:
            of, _ = self._units_and_sizes(member)
            rows = np.flatnonzero(np.isin(of, units[dead]))
            tensor = self.pair.tensors[member.parameter]
            if not member.consumes and tensor.is_floating_point() and not member.parameter.endswith("running_var"):
                tensor.index_fill_(member.dim, torch.as_tensor(rows, device=tensor.device), 0)

    def _units_and_sizes(self, member: Member) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Unit and largest absolute weight of every index of a parameter's dimension."""
        tensor = self.pair.tensors[member.parameter]
        others = [d for d in range(tensor.ndim) if d != member.dim]
        sizes = tensor.abs().amax(others) if others else tensor.abs()
        of = self.groups.unit_of(self.groups.flow.tensors[member.parameter].at(member.dim)[0])
        return of, sizes.double().cpu().numpy()

    def _fold_constants(self, site: Site) -> None:
        """Inputs of a layer that are the same everywhere go into its bias, and their weights become zero."""
        end, path = back(arguments(site.node)["input"], self.ends, self._keeps_constants)
        producer = self.ends.get(end) if end is not None else None
        mine = Affine(self.pair, site, Options())
        if producer is None or mine.layout.groups > 1 or mine.layout.transposed:
            return
        made = Affine(self.pair, producer, Options()).map().flatten(0, 1)
        constant = (made[:, :-1] == 0).all(1)
        value = passed(made[:, -1].clone(), path)
        matrix = mine.map()
        weights = matrix[0, :, :-1].reshape(matrix.shape[1], len(value), -1)
        padded = any(side for pair in mine.layout.padding for side in pair)
        fold = constant & ((value == 0) | torch.tensor(mine.intercept and not padded))
        fold &= weights.abs().amax((0, 2)) > 0
        if not fold.any():
            return
        bias = matrix[0, :, -1] + (weights.sum(2)[:, fold] * value[fold]).sum(1)
        tensors = {site.weight: self._without(site, fold)}
        offset = site.norm.bias if site.norm is not None else site.bias
        if offset is not None:
            shift = bias - matrix[0, :, -1]
            tensors[offset] = self.pair.tensors[offset].double().cpu() + shift
        for name, tensor in tensors.items():
            self.pair.write(name, tensor)

    def _without(self, site: Site, fold: Tensor) -> Tensor:
        """The layer's weight with zeros for the folded channels; every other entry stays bit for bit."""
        weight = self.pair.tensors[site.weight].clone()
        columns = fold.repeat_interleave(weight.shape[1] // len(fold)).nonzero().ravel()
        return weight.index_fill_(1, columns.to(weight.device), 0)

    @staticmethod
    def _keeps_constants(node: Node) -> bool:
        """Whether a channel that is constant over all positions stays so."""
        known = facts(node)
        return known.pointwise or known.same_entries or known.keeps_constants


def _check(model: nn.Module, pruned: Pruned, inputs: ExampleInputs) -> None:
    """Against the network as it was, not the masked one: here nothing may have changed."""
    worst, accepted = 0.0, TOLERANCE
    modes = {m: m.training for n in (model, pruned.model) for m in n.modules()}
    tensors = [t for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    try:
        with torch.no_grad():
            pairs = [_drawn(n.eval(), inputs, tensors) for n in (model, pruned.model)]
    finally:
        for module, training in modes.items():
            module.training = training
    for want, got in zip(*pairs, strict=True):
        if isinstance(want, Tensor) and want.is_floating_point() and want.numel():
            worst = max(worst, float((want - got).abs().max() / want.abs().max().clamp_min(1e-30)))
            accepted = max(accepted, rounding(want.dtype, TOLERANCE))
    if not worst <= accepted:
        raise VerificationError(
            f"The network without its unused channels differs from the network as it was by {worst:.1e} (relative, "
            f"accepted {accepted:.0e}). Nothing was returned. Please report the network."
        )


def _drawn(model: nn.Module, inputs: ExampleInputs, tensors: list[Tensor]) -> list[object]:
    """Outputs with the random numbers that come next, which come again for the other network."""
    with preserved_rng(*tensors):
        return pytree.tree_leaves(call(model, inputs))

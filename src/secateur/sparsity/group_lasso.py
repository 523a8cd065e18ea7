"""Group lasso: whole filters, channels, filter shapes, layers or coupled units are pushed to zero together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.arguments import checked
from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.graph.branches import find_branches
from secateur.graph.groups import Group, Groups
from secateur.graph.ops import Kind, arguments, facts
from secateur.sparsity.penalties import PENALTIES, Penalty

__all__ = ["FAMILIES", "GroupLasso", "GroupSet", "Part"]


@dataclass(frozen=True)
class Part:
    """The share that one parameter has in the groups of a set.

    Attributes:
        parameter: Its name.
        dims: Dimensions along which the groups differ; over the others a group reaches as a whole.
        index: Group of every position along ``dims`` (flattened), −1 for none; int64.
    """

    parameter: str
    dims: tuple[int, ...]
    index: Tensor


@dataclass(frozen=True)
class GroupSet:
    """Groups of weights of one kind: of one layer, one branch or one coupled group.

    Attributes:
        count: Number of groups n.
        parts: Where their weights lie.
    """

    count: int
    parts: tuple[Part, ...]

    def squares(self, weights: dict[str, nn.Parameter]) -> Tensor:
        """Sum of squares of every group, shape (n,)."""
        total = torch.zeros(self.count, device=weights[self.parts[0].parameter].device)
        for part in self.parts:
            weight = weights[part.parameter].detach().float()
            others = [d for d in range(weight.ndim) if d not in part.dims]
            rows = weight.square().sum(others).flatten() if others else weight.square().flatten()
            index = part.index.to(rows.device)
            total.index_add_(0, index[index >= 0], rows[index >= 0])
        return total


Finder = Callable[[Groups], list[GroupSet]]

FAMILIES: Registry[Finder] = Registry("family of groups")
"""What a group lasso can be over: functions from the label flow's groups to sets of groups of weights."""


@PENALTIES.register("group_lasso")
class GroupLasso(Penalty):
    """Structured sparsity learning: λ Σ_g ‖w_g‖₂ over groups of weights.

    The sub-gradient of a group is w_g / ‖w_g‖₂, and 0 for a group that is zero. Source: Wen et al. 2016, Learning
    Structured Sparsity in Deep Neural Networks, https://arxiv.org/abs/1608.03665: eq. 3 (filters, channels),
    eq. 4 (filter shapes), eq. 5 (depth).

    ``over`` names one or several families:

    - ``filters``: the weights that make one output channel, layer by layer;
    - ``channels``: the weights that one channel enters, layer by layer;
    - ``shapes``: the same position (input channel, row, column) of all filters of a convolution;
    - ``depth``: all weights of a residual branch (only where a shortcut goes on without it);
    - ``units``: everything that Secateur cuts together: a channel with its batch norm, all its producers and
      consumers.

    What the network needs for its inputs and outputs is in no group. λ has to fit the length of the training:
    under SGD with momentum m a group shrinks by about λ·lr/(1 − m) a step.
    """

    name = "group_lasso"

    @checked
    def __init__(self, weight: float = 1e-4, *, over: str | Sequence[str] = "filters") -> None:
        """``weight`` is λ, ``over`` one or several families of groups."""
        super().__init__(weight)
        self.over = (over,) if isinstance(over, str) else tuple(over)
        if not self.over:
            raise InputError(f"group_lasso wants at least one family in over, of: {', '.join(FAMILIES)}.")
        for family in self.over:
            FAMILIES[family]
        self._sets: tuple[GroupSet, ...] = ()

    @property
    def label(self) -> str:
        """``group_lasso`` and what it is over."""
        return f"{self.name}: {', '.join(self.over)}"

    def settings(self) -> dict[str, Any]:
        """λ, and what the lasso is over."""
        return {**super().settings(), "over": list(self.over)}

    def find(self, groups: Groups) -> None:
        """Makes the groups of every family.

        Raises:
            InputError: A family has no group in this network.
        """
        learned = {n for n, p in groups.flow.traced.module.named_parameters(remove_duplicate=False) if p.requires_grad}
        sets: list[GroupSet] = []
        for family in self.over:
            found = [part for part in (_learned(s, learned) for s in FAMILIES[family](groups)) if part.parts]
            if not found:
                raise InputError(f"The penalty 'group_lasso' over {family} meets no parameter: {_WHY[family]}")
            sets += found
        self._sets = tuple(sets)

    def sizes(self, model: nn.Module) -> Tensor:
        """‖w_g‖₂ of all groups, shape (n,)."""
        weights = self._weights(model)
        return torch.cat([found.squares(weights).sqrt() for found in self._sets])

    def subgradients(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """w_g / ‖w_g‖₂, set by set."""
        weights = self._weights(model)
        for found in self._sets:
            norms = found.squares(weights).sqrt()
            # One more entry, zero, for positions that are in no group: their index −1 is the last one.
            scale = torch.cat([torch.where(norms > 0, 1 / norms, 0.0), norms.new_zeros(1)])
            for part in found.parts:
                weight = weights[part.parameter]
                shape = [size if d in part.dims else 1 for d, size in enumerate(weight.shape)]
                yield weight, weight.detach() * scale[part.index.to(scale.device)].view(shape).to(weight.dtype)

    def _weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        if not self._sets:
            raise InputError("group_lasso needs bind(model, example_inputs) before training.")
        return dict(model.named_parameters(remove_duplicate=False))


def _learned(found: GroupSet, names: Iterable[str]) -> GroupSet:
    return GroupSet(found.count, tuple(part for part in found.parts if part.parameter in names))


_WHY = {
    "filters": "no layer has output channels that could be removed.",
    "channels": "no layer has input channels that could be removed.",
    "shapes": "the network has no convolution with a kernel of its own for every pair of channels.",
    "depth": "no branch lies beside a shortcut, so no layer can be left out. Take filters or units.",
    "units": "no unit can be removed.",
}


# ---------------------------------------------------------------------------------------------------- families


def _part(groups: Groups, group: Group, parameter: str, dim: int) -> Part:
    """The share of a member of ``group``: which unit (0…n−1) every index of the dimension belongs to."""
    unit = groups.unit_of(groups.flow.tensors[parameter].at(dim)[0])
    place = torch.full((groups.units + 1,), -1, dtype=torch.long)
    place[torch.from_numpy(group.units)] = torch.arange(len(group))
    return Part(parameter, (dim,), place[torch.from_numpy(unit)])


def _members(groups: Groups, *, consumes: bool) -> list[GroupSet]:
    """One set per weight (of at least two dimensions) on that side of a group."""
    return [
        GroupSet(len(group), (_part(groups, group, member.parameter, member.dim),))
        for group in groups.items
        for member in group.members
        if member.consumes == consumes and groups.flow.tensors[member.parameter].ndim > 1
    ]


@FAMILIES.register("filters")
def filters(groups: Groups) -> list[GroupSet]:
    """Σ_f ‖W[f, :, :, :]‖ of every layer (arXiv:1608.03665, eq. 3, first sum)."""
    return _members(groups, consumes=False)


@FAMILIES.register("channels")
def channels(groups: Groups) -> list[GroupSet]:
    """Σ_c ‖W[:, c, :, :]‖ of every layer (eq. 3, second sum)."""
    return _members(groups, consumes=True)


@FAMILIES.register("shapes")
def shapes(groups: Groups) -> list[GroupSet]:
    """Σ_{c,y,x} ‖W[:, c, y, x]‖ of every ungrouped convolution (eq. 4)."""
    found = []
    for name in _convolutions(groups):
        shape = groups.flow.tensors[name].shape
        dims = tuple(range(1, len(shape)))
        count = int(torch.tensor(shape[1:]).prod())
        found.append(GroupSet(count, (Part(name, dims, torch.arange(count)),)))
    return found


def _convolutions(groups: Groups) -> list[str]:
    """Weights of the convolutions that connect all channels, in the order of execution."""
    names = []
    for node in groups.flow.macs:
        if facts(node).kind is not Kind.CONV:
            continue
        call = arguments(node)
        name = str(call["weight"].target)
        labels = groups.flow.tensors.get(name)
        if labels is not None and labels.shape[1] == call["input"].meta["val"].shape[1]:
            names.append(name)
    return list(dict.fromkeys(names))


@FAMILIES.register("units")
def units(groups: Groups) -> list[GroupSet]:
    """Σ_u ‖everything that goes with unit u‖: the groups that Secateur cuts."""
    parameters = {n for n, _ in groups.flow.traced.module.named_parameters(remove_duplicate=False)}

    def parts(group: Group) -> tuple[Part, ...]:
        return tuple(_part(groups, group, m.parameter, m.dim) for m in group.members if m.parameter in parameters)

    return [GroupSet(len(group), parts(group)) for group in groups.items]


@FAMILIES.register("depth")
def depth(groups: Groups) -> list[GroupSet]:
    """Σ_l ‖everything learned in the residual branch l‖, of branches that can be left out (eq. 5)."""
    whole = torch.zeros(1, dtype=torch.long)
    branches = [branch for branch in find_branches(groups.flow.traced) if not branch.reason]
    return [GroupSet(1, tuple(Part(name, (), whole) for name in branch.parameters)) for branch in branches]

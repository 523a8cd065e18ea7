"""The dense and the pruned network side by side, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node

from secateur.core.plan import Scaled
from secateur.criteria.least_squares.walk import Walker
from secateur.graph.groups import Groups
from secateur.surgery.factors import scale_entries

__all__ = ["Twin"]


@dataclass(frozen=True)
class Twin:
    """Two graphs whose operators correspond; the pruned one has weights of its own that may be written.

    Attributes:
        groups: Groups of the dense network.
        label_keep: Which of its labels stay.
        dense: The dense network's graph.
        pruned: The pruned network's graph.
        copies: Operator of the dense graph → operator of the pruned graph.
        scaled: Entries that the network's own tensors hold multiplied, because its code computes a factor from a size;
            the pruned graph has the dense network's factors, and its tensors as they are without that.
    """

    groups: Groups
    label_keep: NDArray[np.bool_]
    dense: Walker
    pruned: Walker
    copies: Mapping[Node, Node]
    scaled: Mapping[str, tuple[Scaled, ...]] = field(default_factory=dict)

    def kept(self, node: Node, value: Tensor) -> Tensor:
        """The entries of a dense operator's ``value`` that the pruned network still has."""
        for dim, mask in self.groups.masks(self.groups.flow.labels[node], self.label_keep).items():
            value = value.index_select(dim, torch.as_tensor(np.flatnonzero(mask), device=value.device))
        return value

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Weights and statistics of the pruned graph by name."""
        return {name: tensor.detach() for name, tensor in self._own.items()}

    @cached_property
    def _own(self) -> dict[str, Tensor]:
        """The same as the module holds them."""
        module = self.pruned.module
        found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
        return found | dict(module.named_buffers(remove_duplicate=False))

    def write(self, name: str, value: Tensor) -> None:
        """Sets a weight or statistic of the pruned graph, in place."""
        with torch.no_grad():
            self.tensors[name].copy_(value)

    def share(self, name: str, tensor: Tensor) -> None:
        """Takes ``tensor`` for a weight or statistic of the pruned graph; :meth:`write` changes it from then on."""
        mine = self._own[name]
        if (mine.dtype, mine.device) != (tensor.dtype, tensor.device):
            self.write(name, tensor)
            return
        mine.data = tensor.detach()
        self.tensors[name] = tensor.detach()

    def fill(self, model: nn.Module) -> nn.Module:
        """Gives ``model`` the graph's weights, where it does not share them."""
        with torch.no_grad():
            for name, tensor in model.state_dict(keep_vars=True).items():
                mine = self.tensors.get(name)
                if isinstance(tensor, Tensor) and mine is not None and mine.data_ptr() != tensor.data_ptr():
                    tensor.copy_(scale_entries(mine, self.scaled.get(name, ())))
        return model

"""The masked dense network as a network: called as the dense one is, in its own precision, without a cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.graph.groups import Groups
from secateur.graph.writes import written
from secateur.surgery.reference import CutEntries, MaskedInterpreter

__all__ = ["MaskedNetwork"]

Mask = NDArray[np.bool_]


class MaskedNetwork(nn.Module):
    """Computes what the network computes once units are cut, with its own weights and nothing cut.

    What a removed unit gives is zero where it enters the next layer, so the proof's own reference is run: the traced
    graph with these entries held at zero. It is in the mode that was traced, eval mode, whatever is said to it.
    """

    def __init__(self, groups: Groups, keep: Mask) -> None:
        """Nothing is computed yet.

        Args:
            groups: The groups of the network.
            keep: Which units stay, shape (units,).
        """
        super().__init__()
        traced = groups.flow.traced
        self.graph = traced.module  # so that parameters, and the device that they are on, are found
        self._state = traced.state
        self._inputs = pytree.tree_structure((traced.args, traced.kwargs))
        self._run = MaskedInterpreter(traced.module, CutEntries(groups, groups.label_keep(keep)),
                                      written(traced.module))  # fmt: skip

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Results as the traced network gives them; objects that hold tensors are dictionaries.

        Raises:
            TypeError: Other arguments than the network was traced with.
        """
        return self.graph.graph.process_outputs(self._flat(args, kwargs))

    def outputs(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """The tensors that it gives, without what it keeps for its own next call."""
        found = self._flat(args, kwargs)
        return [v for k, v in enumerate(found) if isinstance(v, Tensor) and k not in self._state]

    def _flat(self, args: Any, kwargs: Any) -> Any:
        leaves, layout = pytree.tree_flatten((args, kwargs))
        if layout != self._inputs:
            raise TypeError("it is called with other arguments than the example inputs")
        copied = [v.clone() if isinstance(v, Tensor) else v for v in leaves]  # a network may write into them
        with torch.no_grad():
            return self._run.run(*copied, enable_io_processing=False)

"""The weights that gradient steps change, and the best of their states so far."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from secateur.criteria.least_squares.twin import Twin

__all__ = ["Weights", "free_names"]

FLOOR = 1e-3
"""What a tensor's size counts as at least: biases may be zero, and still have to move."""


def free_names(pair: Twin, model: nn.Module) -> list[str]:
    """Names of the parameters of the pruned graph that may change: floating-point ones that ``model`` does not freeze.

    Parameters that the network shares are one parameter of the graph afterwards.
    """
    module = pair.pruned.module
    mine = dict(module.named_parameters(remove_duplicate=False))
    found, first = list[str](), dict[int, nn.Parameter]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in mine:
            continue
        mine[name].requires_grad_(parameter.requires_grad and parameter.is_floating_point())
        one = first.setdefault(id(parameter), mine[name])
        if one is not mine[name]:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, one)
        if mine[name].requires_grad:
            found.append(name)
    return found


class Weights:
    """Some parameters of the pruned graph with their optimiser.

    Adam (Kingma and Ba 2015, arXiv:1412.6980) moves every tensor by a share of its own size a step: the rate is times
    the root mean square of its entries (Shazeer and Stern 2018, Adafactor, arXiv:1804.04235, §8), so that the same rate
    does for networks of any scale. Matrices' and kernels' entries that are zero stay zero: they were pruned. Parameters
    of 16 bits have a copy in float32 that takes the steps.
    """

    def __init__(self, pair: Twin, names: Iterable[str], rate: float) -> None:
        """Nothing moves yet."""
        module = pair.pruned.module
        self.tensors: list[Tensor] = list(dict.fromkeys(module.get_parameter(name) for name in names))
        self._wide = [t if t.dtype in _WIDE else t.detach().float() for t in self.tensors]
        self._gone = [t.detach() == 0 if t.ndim > 1 else None for t in self.tensors]
        self._gone = [gone if gone is not None and bool(gone.any()) else None for gone in self._gone]
        self._rates = [rate * max(FLOOR, float(t.detach().double().square().mean().sqrt())) for t in self._wide]
        groups = [{"params": [t], "lr": lr} for t, lr in zip(self._wide, self._rates, strict=True) if t.numel()]
        self._optimiser = torch.optim.Adam(groups)
        self.keep()

    def step(self, loss: Tensor, share: float) -> None:
        """One step down the gradient of ``loss``, of a share of the rate."""
        gradients = torch.autograd.grad(loss, self.tensors, allow_unused=True)
        for wide, gradient, gone in zip(self._wide, gradients, self._gone, strict=True):
            wide.grad = None if gradient is None else gradient.to(wide.dtype)
            if wide.grad is not None and gone is not None:
                wide.grad = wide.grad.masked_fill(gone, 0)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self._optimiser.step()
        with torch.no_grad():
            for tensor, wide in zip(self.tensors, self._wide, strict=True):
                wide.grad = None
                if wide is not tensor:
                    tensor.copy_(wide)

    def keep(self) -> None:
        """Remembers the present state as the best."""
        self._best = [t.detach().clone() for t in self.tensors]

    def back(self) -> None:
        """Returns to the best state."""
        with torch.no_grad():
            for tensor, best in zip(self.tensors, self._best, strict=True):
                tensor.copy_(best)


_WIDE: Collection[torch.dtype] = (torch.float32, torch.float64)

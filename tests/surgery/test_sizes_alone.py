"""What stands in for the proof of a network without values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import VerificationError

META = torch.zeros(2, 6, device="meta")


class Sized(nn.Module):
    """Its code holds a size as a plain number, or computes a factor from one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(6, 8), nn.Linear(8, 3), how

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.how == "reshapes":
            x = x.relu().reshape(-1, 8)
        elif self.how == "clamps":
            x = x.clamp(max=x.shape[1] / 3)
        else:
            x = x / x.shape[1] ** 0.5
        return self.last(x)


@pytest.mark.parametrize("how", ["reshapes", "clamps"])
def test_a_module_whose_code_holds_a_size_is_not_taken(how: str) -> None:
    with torch.device("meta"):
        net = Sized(how).eval()
    with pytest.raises(VerificationError, match="Nothing was returned"):
        secateur.prune(net, META, ratio=0.5, criterion="random", backend="module")
    pruned = secateur.prune(net, META, ratio=0.5, criterion="random")
    assert pruned.backend == "graph"
    assert pruned.verification is None


def test_factors_are_made_good_as_in_memory() -> None:
    with torch.device("meta"):
        net = Sized("divides").eval()
    pruned = secateur.prune(net, META, ratio=0.5, criterion="random")
    assert pruned.backend == "module"
    dense = secateur.prune(Sized("divides").eval(), torch.zeros(2, 6), ratio=0.5, criterion="random")
    assert pruned.plan.scaled == dense.plan.scaled != {}


def test_a_module_whose_code_fits_is_taken() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    pruned = secateur.prune(net, META, ratio=0.5, criterion="random")
    assert pruned.backend == "module"
    assert pruned.verification is None

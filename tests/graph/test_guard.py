"""A pruned graph at a size that it was not traced for: a clear error, never another number."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.graph.trace import trace
from zoo import settle

X = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(3))

TAILS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "interpolated to the input": lambda m, x, y: F.interpolate(m.d(F.avg_pool2d(y, 2)), size=x.shape[-2:]),
    "divided by the size": lambda m, x, y: m.d(y.sum((2, 3), keepdim=True) / (x.shape[-1] * x.shape[-2])),
    "cropped at the centre": lambda m, x, y: m.d(y[:, :, x.shape[-2] // 2 :, x.shape[-1] // 2 :]),
    "another way for large images": lambda m, x, y: m.d(y) if x.shape[-1] < 10 else m.d(F.avg_pool2d(y, 2)),
}


class Sized(nn.Module):
    """Zero-padded channels, which only the graph back end can cut, and a tail that looks at the size."""

    def __init__(self, tail: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 8, 3, padding=1)
        self.d, self.tail = nn.Conv2d(8, 4, 1), tail

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.tail(self, x, self.b(y) + F.pad(y, (0, 0, 0, 0, 1, 2)))


def without(model: nn.Module, plan: secateur.Plan) -> nn.Module:
    """The dense network with zeros in the place of what a plan takes away."""
    zeroed = copy.deepcopy(model)
    for name, dims in plan.keep.items():
        tensor = zeroed.get_parameter(name)
        for dim, kept in dims.items():
            gone = [i for i in range(tensor.shape[dim]) if i not in kept]
            tensor.data.index_fill_(dim, torch.tensor(gone), 0)
    return zeroed


@pytest.mark.parametrize("tail", TAILS)
def test_other_sizes_are_right_or_refused_after_loading_too(tail: str, tmp_path: Path) -> None:
    dense = settle(Sized(TAILS[tail]))
    pruned = secateur.prune(dense, X, ratio=0.5, backend="graph")
    pruned.save(tmp_path, graph=True)
    want = without(dense, pruned.plan)
    for model in (pruned.model, secateur.load(tmp_path).model):
        assert torch.allclose(model(X[:1]), pruned.model(X)[:1], atol=1e-6)
        for size in ((12, 7), (8, 8), (5, 9)):
            x = torch.randn(2, 3, *size)
            torch.testing.assert_close(model(x), want(x), rtol=1e-4, atol=1e-5)
        wide = torch.randn(2, 3, 7, 12)
        if tail == "another way for large images":
            with pytest.raises(InputError, match=r"goes another way \(12 < 10 is False and was True\)"):
                model(wide)
        else:
            torch.testing.assert_close(model(wide), want(wide), rtol=1e-4, atol=1e-5)


def test_a_size_that_is_fixed_is_refused_by_name_after_loading_too(tmp_path: Path) -> None:
    class Table(Sized):
        def __init__(self) -> None:
            super().__init__(lambda m, x, y: m.d(y) + m.table)
            self.table = nn.Parameter(torch.randn(4, 7, 7))

    pruned = secateur.prune(settle(Table()), X, ratio=0.5, backend="graph")
    pruned.save(tmp_path, graph=True)
    for model in (pruned.model, secateur.load(tmp_path).model):
        with pytest.raises(
            InputError, match=r"traced for x of size \(any, 3, 7, 7\); got \(2, 3, 12, 7\): dimension 2"
        ):
            model(torch.randn(2, 3, 12, 7))


def test_other_values_that_are_no_tensors_are_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, scale: float, power: int = 1) -> Tensor:
            return self.b(self.a(x).relu() * scale) ** power  # type: ignore[no-any-return]

    x = torch.randn(2, 4)
    pruned = secateur.prune(settle(Scaled()), (x, 2.0), ratio=0.5, backend="graph").model
    assert pruned(x, 2.0).shape == (2, 2)
    with pytest.raises(InputError, match=r"scale=2\.0"):
        pruned(x, 3.0)


def test_batches_that_hang_together_have_to_agree() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.b((self.a(x) + self.a(y)).relu())  # type: ignore[no-any-return]

    inputs = (torch.randn(3, 4), torch.randn(3, 4))
    pruned = secateur.prune(settle(Pairs()), inputs, ratio=0.5, backend="graph").model
    assert pruned(torch.randn(5, 4), torch.randn(5, 4)).shape == (5, 2)
    with pytest.raises(InputError, match=r"y of size \(any, 4\); got \(1, 4\)"):
        pruned(torch.randn(5, 4), torch.randn(1, 4))  # the dense network would broadcast it


def test_the_batch_that_was_given_works_where_it_is_fixed() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.l = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            count = {1: 1, 2: 2}[x.shape[0]]  # no tracer leaves it free
            return self.l(self.c(x).reshape(count, 8, -1).mean(-1))  # type: ignore[no-any-return]

    model = settle(Counted())
    assert trace(model, X[:1]).batch == 1
    pruned = secateur.prune(model, X[:1], ratio=0.5)
    assert pruned.model(X[:1]).shape == (1, 4)

"""Sizes besides the batch that a graph leaves free: it computes what the network does there, or says it does not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import secateur
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.graph.calling import plain_outputs
from secateur.graph.copies import deep_copy
from secateur.graph.free import free_sizes, other_sizes
from secateur.graph.guard import guarded
from secateur.graph.trace import trace
from secateur.graph.traced import Traced
from zoo import ZOO, settle


def freed(model: nn.Module, inputs: ExampleInputs) -> Traced:
    traced = trace(model.eval(), inputs)
    free_sizes(model, traced)
    return traced


def is_free(traced: Traced) -> list[list[bool]]:
    """For every tensor among the inputs, whether each dimension besides the first is free."""
    return [[not isinstance(size, int) for size in shape[1:]] for shape in traced.sizes.shapes if shape is not None]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_freed_graphs_compute_what_the_network_does(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = ZOO[name]()
    settle(model)
    traced = freed(model, inputs)
    for args, kwargs in [(traced.args, traced.kwargs), *other_sizes(traced)]:
        with torch.no_grad():
            torch.manual_seed(0)
            try:
                got = guarded(deep_copy(traced.module), traced.sizes)(*args, **kwargs)  # type: ignore[arg-type]
            except InputError:
                continue
            except RuntimeError:  # too small for a kernel, say
                with pytest.raises(RuntimeError):
                    deep_copy(model)(*args, **kwargs)
                continue
            torch.manual_seed(0)
            want = plain_outputs(deep_copy(model)(*args, **kwargs))
        for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Rows(nn.Module):
    """Tokens go through two layers and a function of the network and what comes out."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.table = nn.Linear(4, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(20, 8))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self, self.a(x).relu()))  # type: ignore[no-any-return]


FREE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "positions": lambda m, x: x + m.table[: x.shape[1]],
    "arange": lambda m, x: x + torch.arange(x.shape[1]).view(1, -1, 1),
    "flattened with the batch": lambda m, x: x.reshape(x.shape[0] * x.shape[1], 8).view(x.shape[0], x.shape[1], 8),
    "by size()": lambda m, x: x.reshape(-1, 8).view(-1, x.size(1), 8),
    "by len": lambda m, x: x.transpose(0, 1)[: len(x.transpose(0, 1))].transpose(0, 1),
    "mean over it": lambda m, x: x - x.sum(1, keepdim=True) / x.shape[1],
    "a square": lambda m, x: torch.full((x.shape[1], x.shape[1]), 1.0).tril() @ x,
    "one less": lambda m, x: F.pad(x[:, : x.shape[1] - 1], (0, 0, 1, 0)),
    "half of it, rounded up": lambda m, x: x[:, : math.ceil(x.shape[1] / 2)],
    "doubled": lambda m, x: F.interpolate(x.transpose(1, 2), size=2 * x.shape[1]).transpose(1, 2),
    "padded to fours": lambda m, x: F.pad(x, (0, 0, 0, (4 - x.shape[1] % 4) % 4)),
    "a branch": lambda m, x: x * 2 if x.shape[1] > 9 else x,
    "an even branch": lambda m, x: x[:, ::2] if x.shape[1] % 2 == 0 else x,
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=x.shape[1] > 1),
    "numel": lambda m, x: x * (x.numel() // (x.shape[0] * 8)),
}


@pytest.mark.parametrize("name", FREE)
def test_lengths_are_free(name: str) -> None:
    torch.manual_seed(0)
    model = Rows(FREE[name])
    traced = freed(model, torch.randn(2, 8, 4))
    assert is_free(traced) == [[True, False]]
    graph = guarded(traced.module, traced.sizes)
    right = 0
    for length in range(1, 21):
        x = torch.randn(3, length, 4)
        try:
            got = graph(x)
        except InputError:  # another way, which it says
            continue
        torch.testing.assert_close(got, model(x))
        right += 1
    assert right >= 5


@pytest.mark.parametrize("name", ["half of it, rounded up", "padded to fours", "a branch", "numel"])
def test_free_lengths_are_saved_and_loaded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pruned = secateur.prune(Rows(FREE[name]), torch.randn(2, 8, 4), ratio=0.5, backend="graph")
    pruned.save(tmp_path, graph=True)
    loaded = secateur.load(tmp_path).model
    right = 0
    for length in (4, 7, 8, 12, 16):
        x = torch.randn(3, length, 4)
        try:
            want = pruned.model(x)
        except InputError as reason:
            with pytest.raises(InputError, match=re.escape(str(reason))):
                loaded(x)
            continue
        assert torch.equal(loaded(x), want)
        right += 1
    assert right >= 3


FIXED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a table of one length": lambda m, x: x + m.table[:8],
    "a loop": lambda m, x: sum((x[:, i : i + 1] for i in range(x.shape[1])), torch.zeros(1)),
    "a root": lambda m, x: x * math.sqrt(x.shape[1]),
    "cut off": lambda m, x: x[:, : int(x.shape[1] / 3)],
    "a constant": lambda m, x: x + torch.tensor([float(int.__index__(x.shape[1]))]),
    "an assertion": lambda m, x: x if x.shape[1] == 8 else None,  # type: ignore[return-value]
    "a list of lengths": lambda m, x: x * {8: 2.0, 9: 3.0}[x.shape[1]],
    "a value": lambda m, x: x * float(torch.arange(x.shape[1]).sum()),
}


@pytest.mark.parametrize("name", FIXED)
def test_what_cannot_be_expressed_stays_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    model = Rows(FIXED[name])
    traced = freed(model, torch.randn(2, 8, 4))
    assert is_free(traced) == [[False, False]]
    torch.testing.assert_close(traced.module(*traced.args), model(*traced.args))


class Windows(nn.Module):
    """Windows of 7 × 7, with padding, as in window attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 5, 1)
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        b, c, h, w = x.shape
        x = F.pad(x, (0, (7 - w % 7) % 7, 0, (7 - h % 7) % 7))
        high, wide = x.shape[2:]
        x = x.view(b, c, high // 7, 7, wide // 7, 7).permute(0, 2, 4, 3, 5, 1).reshape(-1, 49, c)
        x = x + self.b(self.a(x).softmax(1))
        x = x.view(b, high // 7, wide // 7, 7, 7, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, high, wide)
        return F.interpolate(self.head(x[:, :, :h, :w]), size=image.shape[2:])


def test_heights_and_widths_are_free_each_by_itself() -> None:
    torch.manual_seed(0)
    model = Windows()
    traced = freed(model, torch.randn(1, 3, 56, 56))
    assert is_free(traced) == [[False, True, True]]
    graph = guarded(traced.module, traced.sizes)
    for size in ((56, 56), (28, 84), (112, 28)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(graph(x), model(x))
    with pytest.raises(InputError, match="goes another way"):
        graph(torch.randn(2, 3, 60, 56))


def test_inputs_of_one_length_change_together() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.a, self.b = nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            x = self.embed(tokens)
            scores = (x @ x.transpose(1, 2)).masked_fill(mask[:, None] == 0, -1e9)
            return self.b(self.a(scores.softmax(-1) @ x).relu())  # type: ignore[no-any-return]

    tokens = torch.randint(0, 9, (2, 6))
    model = Masked()
    traced = freed(model, {"tokens": tokens, "mask": torch.ones_like(tokens)})
    assert is_free(traced) == [[True], [True]]
    graph = guarded(traced.module, traced.sizes)
    longer = torch.randint(0, 9, (3, 11))
    torch.testing.assert_close(graph(tokens=longer, mask=longer), model(longer, longer))
    with pytest.raises(InputError, match="dimension 1"):
        graph(tokens=longer, mask=longer[:, :5])


def test_a_pruned_graph_takes_other_lengths_and_is_proven_there() -> None:
    torch.manual_seed(0)
    model = Rows(lambda m, x: torch.cat([x, x * m.table[: x.shape[1]]], 2)[..., :8])
    pruned = secateur.prune(model, torch.randn(2, 8, 4), ratio=0.5, backend="graph")
    assert pruned.model(torch.randn(3, 13, 4)).shape == (3, 13, 4)
    assert pruned.verification is not None
    assert pruned.verification.proven


class Tokens(nn.Module):
    """Tokens of its own before those of the input: a plan can take some of them away."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.tokens = nn.Linear(4, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.tokens.expand(x.shape[0], -1, -1), self.a(x)], 1).tanh()
        return self.b(y[:, 5:] + y[:, :5].sum(1, keepdim=True))  # type: ignore[no-any-return]


def test_a_length_along_which_a_plan_cuts_stays_as_it_was() -> None:
    torch.manual_seed(0)
    model, x = Tokens(), torch.randn(2, 8, 4)
    assert is_free(freed(model, x)) == [[True, False]]
    pruned = secateur.prune(model, x, ratio=0.4, backend="graph")
    assert len(pruned.plan.keep["tokens"][1]) == 3
    assert pruned.model(x).shape == (2, 8, 4)
    with pytest.raises(InputError, match="dimension 1 is 9"):
        pruned.model(torch.randn(2, 9, 4))


class Blocks(nn.Module):
    """Residual blocks that go another way when they are long, and a network that does."""

    class Block(nn.Module):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.a, self.b, self.limit = nn.Linear(8, 16), nn.Linear(16, 8), limit

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            y = y.tanh() if y.shape[1] > self.limit else y
            return x + self.b(y)  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 4)
        self.blocks = nn.Sequential(Blocks.Block(300), Blocks.Block(2000))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y.sigmoid() if y.shape[1] > 2500 else y
        return self.head(self.blocks(y))  # type: ignore[no-any-return]


def test_guards_outlive_removed_branches_unless_they_belonged_to_them() -> None:
    torch.manual_seed(0)
    model, x = Blocks(), torch.randn(2, 8, 4)
    both = secateur.prune(model, x, ratio=0.5, backend="graph").model
    with pytest.raises(InputError, match="goes another way"):
        both(torch.randn(1, 301, 4))
    left = secateur.remove_layers(model, x, names=["blocks.0"], backend="graph").model
    assert not any(name.startswith("blocks.0") for name, _ in left.named_parameters())
    assert left(torch.randn(1, 301, 4)).shape == (1, 301, 4)
    for length in (2001, 2501):
        with pytest.raises(InputError, match="goes another way"):
            left(torch.randn(1, length, 4))


def test_a_length_that_equals_the_batch_is_not_taken_for_it() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, mask: Tensor, x: Tensor) -> Tensor:
            y = self.a(x).reshape(x.shape[0] * x.shape[1], 8).relu()
            return self.b(y.view(x.shape[0], x.shape[1], 8) * mask[..., None])  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Flat()
    traced = freed(model, (torch.ones(2, 2), torch.randn(2, 2, 4)))
    assert is_free(traced) == [[True], [True, False]]
    graph = guarded(traced.module, traced.sizes)
    for batch, length in ((2, 2), (3, 7), (7, 3), (1, 5)):
        given = torch.randn(batch, length), torch.randn(batch, length, 4)
        torch.testing.assert_close(graph(*given), model(*given))


def test_sizes_are_fixed_and_freed_again_as_plans_need_it() -> None:
    torch.manual_seed(0)
    model = Tokens().eval()
    traced = trace(model, torch.randn(2, 8, 4))
    code = traced.module.code
    for _ in range(2):
        free_sizes(model, traced)
        assert is_free(traced) == [[True, False]]
        free_sizes(model, traced, lambda node: (1,))
        assert is_free(traced) == [[False, False]]
        assert traced.module.code == code


def test_a_plan_is_cut_alike_whether_sizes_are_free_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Windows(), torch.randn(1, 3, 56, 56)
    one = secateur.prune(model, x, ratio=0.5, backend="graph")
    monkeypatch.setattr("secateur.cut.operation.free_sizes", lambda *_, **__: None)
    other = secateur.prune(model, x, ratio=0.5, backend="graph")
    torch.testing.assert_close(one.model(x), other.model(x))
    with pytest.raises(InputError, match="dimension 2"):
        other.model(torch.randn(1, 3, 28, 56))

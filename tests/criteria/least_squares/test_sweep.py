"""Walking through both networks: any batch size, any memory, residual paths, and nothing lost."""

from __future__ import annotations

import copy
from math import inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.criteria.least_squares import shelf as module
from secateur.criteria.least_squares.shelf import Shelf
from secateur.criteria.least_squares.sites import sites
from secateur.criteria.least_squares.walk import Store, Walker
from secateur.graph.flow import flow
from secateur.graph.trace import trace


class Residual(nn.Module):
    """Three blocks x + conv2(relu(bn(conv1(x))))."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
                          nn.Conv2d(12, width, 3, padding=1), nn.BatchNorm2d(width)) for _ in range(3)
        )  # fmt: skip
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(block(x) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Residual()
    net.train()
    for _ in range(30):
        net(torch.randn(32, 3, 8, 8))
    return net.eval()


def error(model: nn.Module, dense: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - dense(x)).square().mean())


def test_the_result_does_not_depend_on_the_batch_size(net: nn.Module) -> None:
    x = torch.randn(48, 3, 8, 8)
    pruned = secateur.prune(net, x[:2], ratio=0.5, scope="block")
    one, many = (secateur.recover(pruned, x, dense=net, ridge=1e-4, batch_size=n).model for n in (48, 7))
    for (name, a), b in zip(one.state_dict().items(), many.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4), name


def test_an_iterable_of_batches_is_as_good_as_one_tensor(net: nn.Module) -> None:
    x = torch.randn(32, 3, 8, 8)
    pruned = secateur.prune(net, x[:2], ratio=0.5, scope="block")
    one = secateur.recover(pruned, x, dense=net, ridge=1e-4, batch_size=8).model
    many = secateur.recover(pruned, (x[k : k + 8] for k in range(0, 32, 8)), dense=net, ridge=1e-4).model
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), many.state_dict().values(), strict=True))


def test_what_does_not_fit_into_memory_goes_to_files(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(16, 3, 8, 8)
    pruned = secateur.prune(net, x[:2], ratio=0.5, scope="block")
    want = secateur.recover(pruned, x, dense=net, ridge=1e-4, batch_size=4).model.state_dict()
    monkeypatch.setattr(module, "MEMORY_BYTES", 0)
    got = secateur.recover(pruned, x, dense=net, ridge=1e-4, batch_size=4).model.state_dict()
    assert all(torch.equal(got[n], want[n]) for n in want)


def test_memory_does_not_grow_with_the_number_of_batches(net: nn.Module) -> None:
    walker = Walker(trace(net, torch.randn(2, 3, 8, 8)).module)
    store = Store([walker], shelf := Shelf(10_000))
    for _ in range(20):
        values = walker.begin((torch.randn(4, 3, 8, 8),))  # 3,072 bytes each
        store.add([values])
    in_files = [p for p in shelf._kept.values() if isinstance(p, Path)]
    assert shelf._used <= 10_000
    assert len(in_files) == 17
    folder = in_files[0].parent
    assert sum(1 for _ in store) == 20
    shelf.close()
    assert not folder.exists()


def test_the_sum_of_a_residual_connection_is_the_target(net: nn.Module) -> None:
    found = {s.name: s for s in sites(flow(trace(net, torch.randn(2, 3, 8, 8))))}
    assert {name for name, s in found.items() if s.skip is not None} == {f"blocks.{k}.3" for k in range(3)}
    assert all(found[f"blocks.{k}.3"].seen == (0, inf) for k in range(3))
    assert found["blocks.1.0"].norm is not None
    assert found["blocks.1.0"].skip is None


def test_every_method_helps_and_nothing_that_was_there_changes(net: nn.Module) -> None:
    x = torch.randn(128, 3, 8, 8)
    pruned = secateur.prune(net, x[:2], ratio=0.5, scope="block")
    before = copy.deepcopy(pruned.model.state_dict()), copy.deepcopy(net.state_dict())
    start = error(pruned.model, net, x)
    after = {m: error(secateur.recover(pruned, x, dense=net, method=m).model, net, x)
             for m in ("least_squares", "scale", "bias")}  # fmt: skip
    assert max(after.values()) < start
    assert after["least_squares"] < min(after["scale"], after["bias"])
    for model, state in zip((pruned.model, net), before, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_the_graph_back_end_gets_the_same_weights(net: nn.Module) -> None:
    x = torch.randn(32, 3, 8, 8)
    both = [secateur.prune(net, x[:2], ratio=0.5, scope="block", backend=b) for b in ("module", "graph")]
    one, two = (secateur.recover(p, x, dense=net, ridge=1e-4).model.eval() for p in both)
    assert torch.allclose(one(x), two(x), atol=1e-4)


def test_a_repaired_network_is_saved_and_loaded_as_any_other(net: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(32, 3, 8, 8)
    fixed = secateur.recover(secateur.prune(net, x[:2], ratio=0.5), x, dense=net)
    fixed.save(tmp_path / "fixed")
    assert torch.equal(secateur.load(tmp_path / "fixed", model=Residual())(x), fixed.model.eval()(x))

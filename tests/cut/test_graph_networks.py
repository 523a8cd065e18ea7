"""Networks on graphs: nodes, edges, a readout. Half of their channels go, and they are right on another graph.

By hand with the operators that message passing is made of, and torch_geometric's own layers where it is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.cut.pruned import Pruned
from zoo import settle


def graph(nodes: int, edges: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, 5, generator=made), torch.randint(0, nodes, (2, edges), generator=made)


def with_loops(edges: Tensor, nodes: int) -> Tensor:
    """Edges without those from a node to itself, then one of those for every node."""
    return torch.cat([edges[:, edges[0] != edges[1]], torch.arange(nodes).repeat(2, 1)], 1)


class Mean(nn.Module):
    """Σ over neighbours by their number, by scatter (Hamilton et al. 2017, arXiv:1706.02216)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.own, self.theirs = nn.Linear(width, out), nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        message = x.index_select(0, edges[0])
        index = edges[1].view(-1, 1).expand_as(message)
        total = x.new_zeros(x.shape[0], x.shape[1]).scatter_add_(0, index, message)
        count = x.new_zeros(x.shape[0]).scatter_add_(0, edges[1], x.new_ones(edges.shape[1]))
        return self.own(x) + self.theirs(total / count.clamp(min=1).view(-1, 1))  # type: ignore[no-any-return]


class Normalised(nn.Module):
    """Σ over neighbours and oneself by the roots of degrees (Kipf and Welling 2016, arXiv:1609.02907)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width, out)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        edges = with_loops(edges, x.shape[0])
        degree = torch.zeros(x.shape[0]).index_add_(0, edges[1], torch.ones(edges.shape[1]))
        weight = degree.pow(-0.5)[edges[0]] * degree.pow(-0.5)[edges[1]]
        message = weight.view(-1, 1) * self.lin(x)[edges[0]]
        return torch.zeros(x.shape[0], message.shape[1]).index_add_(0, edges[1], message)


class Attention(nn.Module):
    """Softmax over the edges of every node, some heads (Veličković et al. 2017, arXiv:1710.10903)."""

    def __init__(self, width: int, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.lin = nn.Linear(width, heads * size, bias=False)
        self.source, self.target = (nn.Parameter(torch.randn(1, heads, size) / 2) for _ in range(2))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        edges = with_loops(edges, x.shape[0])
        h = self.lin(x).view(-1, self.heads, self.size)
        score = (h * self.source).sum(-1)[edges[0]] + (h * self.target).sum(-1)[edges[1]]
        score = nn.functional.leaky_relu(score, 0.2)
        index = edges[1].view(-1, 1).expand_as(score)
        most = h.new_zeros(x.shape[0], self.heads).scatter_reduce(0, index, score, "amax", include_self=False)
        share = (score - most[edges[1]]).exp()
        total = h.new_zeros(x.shape[0], self.heads).scatter_add(0, index, share)
        message = h[edges[0]] * (share / total[edges[1]]).unsqueeze(-1)
        return h.new_zeros(h.shape).index_add(0, edges[1], message).flatten(1)


class Scored(nn.Module):
    """Queries and keys of the two ends of an edge (Shi et al. 2020, arXiv:2009.03509), without the softmax."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.query, self.key, self.value = (nn.Linear(width, size) for _ in range(3))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        query, key = self.query(x)[edges[1]], self.key(x).index_select(0, edges[0])
        score = torch.sigmoid((query * key).sum(-1) / math.sqrt(self.size))
        return torch.zeros(x.shape[0], self.size).index_add(0, edges[1], score.view(-1, 1) * self.value(x)[edges[0]])


class Edges(nn.Module):
    """Maxima over a network of pairs of nodes (Wang et al. 2018, arXiv:1801.07829)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.nn = nn.Sequential(nn.Linear(2 * width, out), nn.ReLU(), nn.Linear(out, out))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        one, other = x[edges[1]], x[edges[0]]
        message = self.nn(torch.cat([one, other - one], -1))
        index = edges[1].view(-1, 1).expand_as(message)
        return message.new_zeros(x.shape[0], message.shape[1]).scatter_reduce(0, index, message, "amax",
                                                                             include_self=False)  # fmt: skip


def pooled(x: Tensor, batch: Tensor, graphs: int = 3) -> Tensor:
    """The mean and the maximum over the nodes of every graph."""
    count = torch.zeros(graphs).index_add(0, batch, torch.ones(batch.shape[0]))
    mean = torch.zeros(graphs, x.shape[1]).index_add(0, batch, x) / count.view(-1, 1)
    index = batch.view(-1, 1).expand(-1, x.shape[1])
    most = torch.zeros(graphs, x.shape[1]).scatter_reduce(0, index, x, "amax", include_self=False)
    return torch.cat([mean, most], 1)


class Network(nn.Module):
    """Two layers and a head, on nodes or on whole graphs."""

    def __init__(self, one: nn.Module, two: nn.Module, width: int, pool: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.pool = one, two, pool
        self.head = nn.Linear(2 * width if pool else width, 3)

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor | None = None) -> Tensor:
        h = self.two(self.one(x, edges).relu(), edges).relu()
        return self.head(pooled(h, batch) if batch is not None else h)  # type: ignore[no-any-return]


OWN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mean": (lambda: Network(Mean(5, 16), Mean(16, 16), 16), 251),
    "normalised": (lambda: Network(Normalised(5, 16), Normalised(16, 16), 16), 147),
    "attention": (lambda: Network(Attention(5, 8, 4), Attention(32, 16, 1), 16), 283),
    "scored": (lambda: Network(Scored(5, 16), Scored(16, 16), 16), 387),
    "edges": (lambda: Network(Edges(5, 16), Edges(16, 16), 16), 395),
    "pooled": (lambda: Network(Normalised(5, 16), Mean(16, 16), 16, pool=True), 235),
}
"""Networks, each with the parameters that half of the channels leave."""


def right_elsewhere(model: nn.Module, pruned: Pruned, inputs: tuple[Any, ...]) -> None:
    """On another graph it gives what a cut gives that was proven there."""
    again = secateur.apply(model, pruned.plan, inputs)
    assert again.verification.proven
    with torch.no_grad():
        assert torch.equal(again.model(*inputs), pruned.model(*inputs))


@pytest.mark.parametrize("name", OWN)
def test_graph_networks_are_halved_and_right_on_another_graph(name: str) -> None:
    make, left = OWN[name]
    torch.manual_seed(0)
    model = settle(make())
    batches: list[Any] = [(torch.tensor([0] * n + [1] * n + [2] * 4),) if name == "pooled" else () for n in (3, 5)]
    pruned = secateur.prune(model, (*graph(10, 30), *batches[0]), ratio=0.5)
    assert type(pruned.model) is Network
    assert not pruned.lost
    assert not pruned.unsupported
    assert pruned.after.params == left
    right_elsewhere(model, pruned, (*graph(14, 50, seed=1), *batches[1]))
    pruned.model(*graph(14, 50), *batches[1]).square().sum().backward()
    assert all(p.grad is not None for p in pruned.model.parameters())


def test_sizes_and_factors_of_attention_on_edges_are_made_good() -> None:
    torch.manual_seed(0)
    pruned = secateur.prune(settle(OWN["scored"][0]()), graph(10, 30), ratio=0.5)
    assert (pruned.model.one.size, pruned.model.two.size) == (8, 8)
    assert any("one.query.weight × 0.7071" in note for note in pruned.notes)
    heads = secateur.prune(settle(OWN["attention"][0]()), graph(10, 30), ratio=0.5, granularity="whole")
    assert (heads.model.one.heads, heads.model.one.size) == (2, 8)


# ----------------------------------------------------------------------------------------------- torch_geometric


def _layers(name: str) -> tuple[Callable[[Any], tuple[nn.Module, nn.Module]], int]:
    """Two layers, and the parameters that are left of the network."""

    def mlp(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 16))

    degrees = {"deg": torch.tensor([0, 2, 4, 3])}
    return {
        "GCN": (lambda g: (g.GCNConv(5, 16), g.GCNConv(16, 16)), 147),
        "GraphSAGE": (lambda g: (g.SAGEConv(5, 16), g.SAGEConv(16, 16)), 251),
        "GraphSAGE, maxima": (lambda g: (g.SAGEConv(5, 16, aggr="max"), g.SAGEConv(16, 16, aggr="max")), 251),
        "GAT": (lambda g: (g.GATConv(5, 8, heads=4), g.GATConv(32, 16)), 307),
        "GATv2": (lambda g: (g.GATv2Conv(5, 8, heads=4), g.GATv2Conv(32, 16)), 539),
        "GIN": (lambda g: (g.GINConv(mlp(5)), g.GINConv(mlp(16), train_eps=True)), 292),
        "EdgeConv": (lambda g: (g.EdgeConv(mlp(10)), g.EdgeConv(mlp(32))), 395),
        "TransformerConv": (lambda g: (g.TransformerConv(5, 8, heads=2), g.TransformerConv(16, 16, beta=True)), 531),
        "PNA": (lambda g: (g.PNAConv(5, 16, ["mean", "max", "std"], ["identity", "amplification"], **degrees),
                           g.PNAConv(16, 16, ["mean", "min"], ["identity"], **degrees)), 673),
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GraphSAGE, maxima", "GAT", "GATv2", "GIN", "EdgeConv",
                                  "TransformerConv", "PNA"])  # fmt: skip
def test_layers_of_torch_geometric_are_halved(name: str) -> None:
    geometric = pytest.importorskip("torch_geometric.nn")
    make, left = _layers(name)
    torch.manual_seed(0)
    one, two = make(geometric)
    model = settle(Network(one, two, 16))
    pruned = secateur.prune(model, graph(10, 30), ratio=0.5)
    assert type(pruned.model) is Network
    assert type(pruned.model.one) is type(one)
    assert not pruned.lost
    assert not pruned.unsupported
    assert pruned.after.params == left
    right_elsewhere(model, pruned, graph(14, 50, seed=1))
    if hasattr(one, "heads"):
        assert pruned.model.one.heads * pruned.model.one.out_channels == two.in_channels // 2


def test_graphs_are_pooled_as_torch_geometric_does() -> None:
    geometric = pytest.importorskip("torch_geometric.nn")
    for pool in (geometric.global_mean_pool, geometric.global_add_pool, geometric.global_max_pool):
        torch.manual_seed(0)
        model = settle(Pooled(geometric.GCNConv(5, 16), pool))
        pruned = secateur.prune(model, (*graph(10, 30), torch.tensor([0] * 3 + [1] * 3 + [2] * 4)), ratio=0.5)
        assert pruned.after.params == 8 * 5 + 8 + 8 * 3 + 3
        right_elsewhere(model, pruned, (*graph(14, 50, seed=1), torch.tensor([0] * 5 + [1] * 5 + [2] * 4)))


class Pooled(nn.Module):
    """A layer, a readout, a head."""

    def __init__(self, conv: nn.Module, pool: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv, self.pool, self.head = conv, pool, nn.Linear(16, 3)

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(x, edges).relu(), batch, 3))  # type: ignore[no-any-return]

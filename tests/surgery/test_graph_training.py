"""Graphs train as the network does: other outputs, other modules, drawn depth, frozen layers, in copies and in files.

What has to come out is what the same cut gives in the network's own class, in train mode, with the same seed.
"""

from __future__ import annotations

import copy
import pickle
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
from secateur.cut import training_mode
from secateur.surgery import layers
from secateur.surgery.pruned_graph import PrunedGraph, has_train_mode, train_graph
from secateur.surgery.training import EVAL_ALONE
from zoo import Lambda, settle


class Auxiliary(nn.Module):
    """Another head in train mode, and another container."""

    def __init__(self, momentum: float | None = None) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=momentum)
        self.head, self.aux = nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.3), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Any:
        h = self.norm(self.stem(x)).relu().mean((2, 3))
        return {"out": self.head(h), "aux": self.aux(h)} if self.training else self.head(h)


class Depth(nn.Module):
    """A branch that is dropped by chance, for every sample (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.drop = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        y = self.b(h.relu())
        if self.training:
            y = y * x.new_empty((x.shape[0], 1)).bernoulli_(0.5) / 0.5
        return self.c(self.drop(h + y))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Dropout inside of attention, and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.f, self.o = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), dropout_p=0.1 if self.training else 0.0)
        return self.o(F.dropout(self.f(y).relu(), 0.2, self.training))  # type: ignore[no-any-return]


class Frozen(nn.Module):
    """A batch norm that never trains, as detectors have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.more = (
            nn.Conv1d(3, 8, 1),
            nn.BatchNorm1d(8),
            nn.Conv1d(8, 8, 1),
            nn.BatchNorm1d(8),
        )
        self.c = nn.Conv1d(8, 2, 1)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.more(self.b(self.norm(self.a(x)).relu())))  # type: ignore[no-any-return]


class Steady(nn.Module):
    """A dropout that is never on, and one that always is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.a(x), 0.5, False)
        return self.b(F.dropout(F.dropout(h, 0.2, self.training), 0.3, True))  # type: ignore[no-any-return]


class Noise(nn.Module):
    """Noise and another constant in train mode alone, with a length that is free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if self.training:
            h = h + torch.rand_like(h) * torch.tensor([[[0.5]]])
        return self.b(h * torch.tensor([[[2.0]]]))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Dropout between the layers of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.b = nn.GRU(4, 8, 2, batch_first=True, dropout=0.3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.rnn(x)[0])  # type: ignore[no-any-return]


def encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Linear(16, 3))


def layered() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.RReLU(), nn.Dropout2d(0.3), nn.InstanceNorm2d(
        8, affine=True, track_running_stats=True), nn.Conv2d(8, 4, 3))  # fmt: skip


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "auxiliary": (Auxiliary, drawn(2, 3, 8, 8), 2),
    "depth": (Depth, drawn(3, 4), 2),
    "attention": (Attention, drawn(2, 5, 8), 2),
    "frozen": (Frozen, drawn(2, 3, 5), 1),
    "steady": (Steady, drawn(3, 4), 2),
    "noise": (Noise, drawn(2, 3, 9), 2),
    "recurrent": (Recurrent, drawn(2, 5, 4), 2),
    "encoder": (encoder, drawn(2, 5, 8), 2),
    "layers": (layered, drawn(2, 3, 8, 8), 1),
}
"""Networks, what they are called with, and how many graphs their two modes are."""


def both(name: str) -> tuple[Any, nn.Module, Tensor]:
    """The graph, and the same cut in the network's own class."""
    make, x, _ = NETWORKS[name]
    torch.manual_seed(0)
    model = settle(make())
    pruned = secateur.prune(model, x, ratio=0.5, backend="graph")
    assert isinstance(pruned.model, PrunedGraph)
    return pruned, secateur.apply(model, pruned.plan, x, backend="module").model, x


def same(one: nn.Module, other: nn.Module, x: Tensor, training: bool) -> None:
    """Same results, in the same containers, same gradients and same statistics."""
    results = []
    for network in (one, other):
        network.train(training).zero_grad()
        torch.manual_seed(5)
        results.append(network(x))
        sum(t.square().sum() for t in pytree.tree_leaves(results[-1])).backward()
    leaves, specs = zip(*map(pytree.tree_flatten, results), strict=True)
    assert specs[0] == specs[1]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*leaves, strict=True))
    assert set(one.state_dict()) == set(other.state_dict())
    buffers, theirs = dict(other.named_buffers()), dict(other.named_parameters())
    assert all(torch.allclose(t, buffers[n], atol=1e-5) for n, t in one.named_buffers() if n in buffers)
    for name, parameter in one.named_parameters():
        want = theirs[name].grad
        assert (parameter.grad is None) == (want is None), name
        if want is not None and torch.equal(parameter, theirs[name]):  # a factor may be in the weights of the class
            assert torch.allclose(parameter.grad, want, atol=1e-4), name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_train_mode_is_that_of_the_network_and_eval_mode_comes_back(name: str) -> None:
    pruned, module, x = both(name)
    assert not any(EVAL_ALONE in note or "eval mode alone" in note for note in pruned.notes)
    assert has_train_mode(pruned.model)
    assert (train_graph(pruned.model) is not None) == (NETWORKS[name][2] == 2)
    for training in (False, True, True, False):
        same(pruned.model, module, x, training)


@pytest.mark.parametrize("name", ["auxiliary", "frozen", "noise", "steady"])
def test_copies_pickles_and_files_train_so_too(name: str, tmp_path: Path) -> None:
    pruned, module, x = both(name)
    pruned.save(tmp_path)
    loaded = secateur.load(tmp_path)
    assert not any(EVAL_ALONE in note for note in loaded.notes)
    pickled = pickle.loads(pickle.dumps(pruned.model))  # noqa: S301 (our own, a moment ago)
    for network in (copy.deepcopy(pruned.model.train()), pickled, loaded.model):
        assert isinstance(network, PrunedGraph)
        for training in (True, False):
            same(network, copy.deepcopy(module), x, training) if training else None
        again = copy.deepcopy(network).eval()
        reference = copy.deepcopy(module)
        reference.load_state_dict(again.state_dict())
        same(again, reference, x, False)


@pytest.mark.parametrize("name", ["auxiliary", "frozen", "depth", "layers", "noise"])
def test_files_of_networks_that_kept_their_class_hold_train_mode(name: str, tmp_path: Path) -> None:
    make, x, count = NETWORKS[name]
    torch.manual_seed(0)
    pruned = secateur.prune(settle(make()), x, ratio=0.5, backend="module")
    pruned.save(tmp_path, graph=True)
    loaded: Any = secateur.load(tmp_path).model
    assert has_train_mode(loaded)
    assert (train_graph(loaded) is not None) == (count == 2)
    for training in (False, True):
        same(loaded, pruned.model, x, training)


def test_layers_are_the_same_objects_in_both_modes() -> None:
    pruned, _, x = both("auxiliary")
    small: Any = pruned.model
    assert type(small.aux.get_submodule("0")) is nn.Linear
    assert type(small.norm) is nn.BatchNorm2d
    seen: list[Any] = []
    for name in ("stem", "aux.0", "aux.1"):
        small.get_submodule(name).register_forward_hook(lambda m, given, result: seen.append(type(m)))
    small.train()(x)
    small.eval()(x)
    assert seen == [nn.Conv2d, nn.Linear, nn.Dropout, nn.Conv2d]


def test_lengths_are_free_in_train_mode_too() -> None:
    pruned, module, _ = both("noise")
    for size in (4, 17):
        same(pruned.model, module, drawn(3, 3, size), True)
    with pytest.raises(InputError, match="traced for x"):
        pruned.model.train()(drawn(2, 4, 9))


def test_the_same_losses_come_of_training() -> None:
    pruned, module, x = both("depth")
    losses: list[list[float]] = []
    for network in (pruned.model.train(), module.train()):
        torch.manual_seed(1)
        optimizer, found = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), []
        for _ in range(5):
            loss = (network(x) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert len(set(losses[0])) == 5


def test_a_train_mode_that_is_wrong_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    true = training_mode.add_train_mode

    def wrong(small: PrunedGraph, trained: Any, *rest: Any) -> None:
        scaled = next(n for n in trained.nodes if n.target is torch.ops.aten.div.Tensor)
        scaled.args = (scaled.args[0], 0.25)
        true(small, trained, *rest)

    monkeypatch.setattr(training_mode, "add_train_mode", wrong)
    pruned, _, x = both("depth")
    assert any(EVAL_ALONE in note and "differs from the masked dense one" in note for note in pruned.notes)
    assert not has_train_mode(pruned.model)
    assert pruned.model.train()(x).shape == (3, 2)


class Decides(nn.Module):
    """Python reads a value in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if self.training and float(x.sum()) > 0:
            h = h * 2
        return self.b(h)  # type: ignore[no-any-return]


def test_a_train_mode_that_cannot_be_recorded_is_said_to_be_lost(tmp_path: Path) -> None:
    x = drawn(3, 4)
    pruned = secateur.prune(settle(Decides()), x, ratio=0.5, backend="graph")
    assert any(EVAL_ALONE in note for note in pruned.notes)
    pruned.save(tmp_path)
    assert any(EVAL_ALONE in note for note in secateur.load(tmp_path).notes)
    module = secateur.prune(settle(Decides()), x, ratio=0.5, backend="module")
    module.save(tmp_path, graph=True)
    assert any(EVAL_ALONE in note for note in secateur.load(tmp_path).notes)
    assert not any(EVAL_ALONE in note for note in secateur.load(tmp_path, Decides()).notes)


def test_a_further_cut_keeps_train_mode() -> None:
    pruned, _, x = both("auxiliary")
    again = secateur.prune(pruned, x, ratio=0.5)
    assert set(again.model.train()(x)) == {"out", "aux"}
    assert isinstance(again.model.eval()(x), Tensor)
    assert again.after.params < pruned.after.params


def test_compiled_and_scripted_graphs_have_the_mode_that_they_were_made_in() -> None:
    x = NETWORKS["auxiliary"][1]
    pruned: Any = secateur.prune(settle(Auxiliary(0.1)), x, ratio=0.5, backend="graph")
    compiled = torch.compile(pruned.model, backend="eager", fullgraph=True)
    assert isinstance(compiled.eval()(x), Tensor)
    assert set(compiled.train()(x)) == {"out", "aux"}
    assert isinstance(compiled.eval()(x), Tensor)
    scripted: Any = [torch.jit.script(pruned.model.train(mode)) for mode in (False, True)]
    assert isinstance(scripted[0](x), Tensor)
    assert set(scripted[1](x)) == {"out", "aux"}
    exported = torch.export.export(pruned.model.eval(), (x,)).module()
    assert isinstance(exported(x), Tensor)


def test_submodules_may_be_called_as_anything() -> None:
    names = ("modes", "trained", "evaluated", "call", "meta_", "graphs")
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Linear(4, 4))
    pruned = secateur.prune(settle(model), drawn(2, 4), ratio=0.5, backend="graph")
    assert all(type(pruned.model.get_submodule(name)) is nn.Linear for name in names)


def test_modes_of_functions_that_stand_alone_are_seen() -> None:
    """What no class of the network's asks for is found by recording."""
    model = Lambda(lambda m, x: m.b(m.a(x).relu() * (2 if m.training else 1)), a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    x = drawn(3, 4)
    pruned = secateur.prune(settle(model), x, ratio=0.5, backend="graph")
    assert isinstance(pruned.model, PrunedGraph)
    assert train_graph(pruned.model) is not None
    assert not torch.allclose(pruned.model.train()(x), pruned.model.eval()(x))
    assert [n for n, m in pruned.model.named_modules() if layers.is_layer(m)] == ["a", "b"]


@pytest.mark.parametrize("follows", [True, False])
def test_graphs_without_whole_layers_say_whether_they_train_so(follows: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.drop = nn.Linear(6, 6), nn.Dropout(0.2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.drop(self.a(x).relu())
            return x + (y * 2 if self.training and not follows else y)  # type: ignore[no-any-return]

    model, x = settle(nn.Sequential(nn.Linear(4, 6), Block(), Block(), nn.Linear(6, 2))), torch.randn(3, 4)
    pruned = secateur.remove_layers(model, x, count=1, backend="graph")
    assert isinstance(pruned.model, PrunedGraph)
    assert has_train_mode(pruned.model) is follows
    assert any(EVAL_ALONE in note for note in pruned.notes) is not follows


@pytest.mark.parametrize("follows", [True, False])
def test_submodules_that_became_graphs_say_whether_they_train_so(follows: bool) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.drop(self.a(x).relu()).split([6, 10], -1)
            h = torch.cat([two.tanh(), one], -1)
            return self.b(h * 2 if self.training and not follows else h)  # type: ignore[no-any-return]

    torch.manual_seed(1)
    pruned = secateur.prune(settle(nn.Sequential(nn.Linear(4, 8), Halves(), nn.Linear(8, 3))), drawn(2, 4), ratio=0.4)
    assert pruned.plan.islands == ("1",)
    assert has_train_mode(pruned.model[1]) is follows
    assert any(note.startswith("1: ") and EVAL_ALONE in note for note in pruned.notes) is not follows
    assert type(pruned.model[1].drop) is nn.Dropout


def test_what_python_leaves_to_chance_is_not_the_same_in_every_step() -> None:
    class Dropped(nn.Module):
        """Layers are left out by chance."""

        def __init__(self) -> None:
            super().__init__()
            self.inside, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            h = self.inside(x)
            for layer in self.layers:
                if not (self.training and torch.rand([]) < 0.1):
                    h = h + layer(h).relu()
            return self.head(h)  # type: ignore[no-any-return]

    pruned = secateur.prune(settle(Dropped()), torch.randn(4, 6), ratio=0.5, backend="graph")
    assert any("by chance" in note for note in pruned.notes)


class FrozenAsItRuns(Auxiliary):
    """A batch norm that its own code takes out of train mode as it runs, not in ``train()``."""

    def forward(self, x: Tensor) -> Any:
        self.norm.training = False
        return self.head(self.norm(self.stem(x)).relu().mean((2, 3)))


def test_a_layer_that_code_freezes_as_it_runs_is_frozen_in_a_graph_or_no_train_mode_is_claimed() -> None:
    x = torch.randn(4, 3, 8, 8)
    model = settle(FrozenAsItRuns(0.1))
    small = secateur.prune(model, x, ratio=0.5, backend="graph")
    own = secateur.prune(model, x, ratio=0.5, backend="module").model.train()
    graph: Any = small.model.train()
    told = any(EVAL_ALONE in note for note in small.notes)
    assert told or torch.allclose(graph(x), own(x), atol=1e-6)
    assert told or torch.equal(graph.norm.running_mean, own.norm.running_mean)


class Stateful(nn.Module):
    """Two convolutions around a batch norm; what else train mode does is given."""

    ema: Tensor

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.steps = way, 0
        self.a, self.n, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 4, 1)
        self.register_buffer("ema", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.way != "without gradients"):
            h = self.n(self.a(x)).relu()
        if self.training and self.way == "rebound":
            self.ema = self.ema * 0.9 + h.detach().mean((0, 2, 3)) * 0.1
        if self.training and self.way == "averaged without gradients":
            with torch.no_grad():
                self.ema.mul_(0.9).add_(h.mean((0, 2, 3)), alpha=0.1)
        if self.training and self.way == "counted":
            self.steps += 1
        h = Straight.apply(h) if self.way == "own gradients" else h
        return self.c(self.b(h).relu()) + self.ema.sum() + self.steps  # type: ignore[no-any-return]


class Straight(torch.autograd.Function):
    """Rounds, and hands gradients on as they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


@pytest.mark.parametrize(("way", "why"), [
    ("without gradients", "switches gradients off"),
    ("averaged without gradients", "switches gradients off"),
    ("rebound", r"changes what it holds as it runs (ema)"),
    ("counted", r"changes what it holds as it runs (steps)"),
    ("own gradients", "gradients of its own"),
    ("as it is", ""),
])  # fmt: skip
def test_what_a_graph_would_not_do_in_every_step_is_said(way: str, why: str) -> None:
    x = torch.randn(2, 3, 6, 6)
    apply = torch.autograd.Function.__dict__.get("apply"), torch.no_grad.__enter__
    pruned = secateur.prune(settle(Stateful(way)), x, ratio=0.5, backend="graph")
    said = [note for note in pruned.notes if EVAL_ALONE in note]
    assert len(said) == bool(why)
    assert why in "".join(said)
    assert (torch.autograd.Function.__dict__.get("apply"), torch.no_grad.__enter__) == apply


def test_tables_that_are_made_without_gradients_do_not_matter() -> None:
    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)
            self.aux = nn.Linear(16, 3)

        @torch.no_grad()
        def table(self, x: Tensor) -> Tensor:
            return torch.arange(x.shape[1], dtype=x.dtype).cos()

        def forward(self, x: Tensor) -> Any:
            h = self.a(x + self.table(x)).relu()
            return (self.b(h), self.aux(h)) if self.training else self.b(h)

    pruned = secateur.prune(settle(Rotated()), torch.randn(2, 6), ratio=0.5, backend="graph")
    assert not [note for note in pruned.notes if EVAL_ALONE in note]
    assert len(pruned.model.train()(torch.randn(2, 6))) == 2


@pytest.mark.parametrize("way", ["rebound", "averaged without gradients", "counted", "own gradients"])
def test_files_of_networks_that_are_modules_say_so_too(way: str, tmp_path: Path) -> None:
    pruned = secateur.prune(settle(Stateful(way)), torch.randn(2, 3, 6, 6), ratio=0.5)
    assert pruned.backend == "module"
    pruned.save(tmp_path, graph=True)
    assert any(EVAL_ALONE in note for note in secateur.load(tmp_path).notes)


def test_graphs_without_some_layers_say_so_too() -> None:
    class Residual(Stateful):
        def __init__(self) -> None:
            super().__init__("")
            self.d = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            h = h + self.b(h).relu()
            h = h + self.d(h).relu()
            if self.training:
                self.ema = h.detach().mean((0, 2, 3))
            return self.c(h) + self.ema.sum()  # type: ignore[no-any-return]

    pruned = secateur.remove_layers(settle(Residual()), torch.randn(2, 3, 6, 6), count=1, backend="graph")
    assert any(EVAL_ALONE in note and "changes what it holds" in note for note in pruned.notes)

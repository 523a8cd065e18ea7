"""Every way through a network: what only training or another method uses, and what nobody reads."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, UnknownNameError
from secateur.graph.record import record
from zoo import settle

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Auxiliary(nn.Module):
    """Another head in train mode alone, as GoogLeNet and Inception have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.bn, self.drop = nn.BatchNorm2d(16), nn.Dropout(0.3)
        self.head, self.aux = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.a(x))
        out = self.head(self.drop(F.relu(self.bn(self.b(h)))))
        return (out, self.aux(h)) if self.training else out


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU())
        self.head, self.project = nn.Linear(32, 10), nn.Linear(32, 24)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]

    def embed(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.project(self.features(x)) * scale  # type: ignore[no-any-return]


def test_a_head_that_only_training_uses_follows_the_cut_and_keeps_its_outputs() -> None:
    pruned = secateur.prune(settle(Auxiliary()), X, ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.outputs == 3  # one of eval mode, two of train mode
    assert set(pruned.plan.keep["aux.weight"]) == {1}
    out, aux = pruned.model.train()(X)
    assert out.shape[1] == aux.shape[1] == 5
    (out.sum() + aux.sum()).backward()


def test_the_train_mode_is_proven_too() -> None:
    class Wrong(Auxiliary):
        """Its auxiliary head looks at channels by number in train mode, which no smaller network can do."""

        def forward(self, x: Tensor) -> Any:
            out = super().forward(x)
            if not self.training:
                return out
            h = F.relu(self.a(x))
            return out[0], self.aux(h[:, torch.arange(16)])

    pruned = secateur.prune(settle(Wrong()), X, ratio=0.5)
    assert "a.weight" not in pruned.plan.keep
    assert pruned.model.train()(X)[1].shape[1] == 5


def test_what_no_traced_method_uses_stays_whole_and_is_named() -> None:
    pruned = secateur.prune(settle(Embedding()), X, ratio=0.5)
    assert not any(name.startswith("project") for name in pruned.plan.keep)
    assert any("project.weight" in note and "also=" in note for note in pruned.notes)


def test_further_methods_follow_the_cut() -> None:
    model = settle(Embedding())
    pruned = secateur.prune(model, X, ratio=0.5, also={"embed": (X, 2.0)})
    assert pruned.backend == "module"
    assert pruned.plan.keep["project.weight"][1] == pruned.plan.keep["body.2.weight"][0]
    assert pruned.model.embed(X).shape == (2, 24)  # type: ignore[operator]
    assert not pruned.notes
    again = secateur.apply(model, pruned.plan, X, also={"embed": (X, 2.0)})
    assert torch.equal(again.model.embed(X), pruned.model.embed(X))  # type: ignore[operator]


def test_methods_that_are_not_there_or_do_not_run_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"method named 'embet'.*'embed'"):
        secateur.prune(Embedding(), X, ratio=0.5, also={"embet": X})
    with pytest.raises(InputError, match=r"also=\{'embed'"):
        secateur.prune(Embedding(), X, ratio=0.5, also={"embed": torch.zeros(2, 7)})


def test_entries_of_a_table_that_are_never_read_stay() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(1, 64, 12))
            self.register_buffer("numbers", torch.arange(64)[None])
            self.learned = nn.Embedding(64, 12)
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[1]
            return self.b(self.a(x) + self.table[:, :n] + self.learned(self.numbers[:, :n]))  # type: ignore[no-any-return]

    pruned = secateur.prune(settle(Positions()), torch.randn(2, 9, 6), ratio=0.5)
    assert pruned.plan.keep["table"].keys() == {2}
    assert pruned.model.get_buffer("numbers").shape == (1, 64)
    assert pruned.model(torch.randn(2, 50, 6)).shape == (2, 50, 4)


def test_train_mode_that_cannot_be_traced_is_said() -> None:
    class Odd(Auxiliary):
        def forward(self, x: Tensor) -> Any:
            if self.training and float(x.sum()) > 0:
                return self.aux(F.relu(self.a(x)))
            return self.head(F.relu(self.b(F.relu(self.a(x)))))

    pruned = secateur.prune(settle(Odd()), X, ratio=0.5)
    assert any("train mode could not be traced" in note for note in pruned.notes)


@pytest.mark.parametrize("backend", ["module", "graph"])
def test_running_averages_over_all_batches_follow_the_module(backend: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    pruned = secateur.prune(model, X, ratio=0.5, backend=backend).model.train()
    batches = [torch.randn(4, 3, 8, 8) for _ in range(3)]
    for batch in batches:
        pruned(batch)
    means = [F.conv2d(b, pruned.get_parameter("0.weight"), pruned.get_parameter("0.bias")).mean((0, 2, 3))
             for b in batches]  # fmt: skip
    assert torch.allclose(pruned.get_buffer("1.running_mean"), torch.stack(means).mean(0), atol=1e-5)
    assert int(pruned.get_buffer("1.num_batches_tracked")) == 3


def test_a_dropout_that_is_on_in_eval_mode_stays_on_in_a_graph() -> None:
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 64), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.dropout(self.a(x).relu(), 0.5))  # type: ignore[no-any-return]

    x = torch.randn(2, 6)
    pruned = secateur.prune(settle(Always()), x, ratio=0.5, backend="graph").model.eval()
    assert not torch.equal(pruned(x), pruned(x))


class Speech(nn.Module):
    """In train mode layers are left out by chance and samples masked one by one by NumPy, as in speech networks."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.mask = nn.Linear(6, 32), nn.Parameter(torch.randn(32))
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inside(x)
        if self.training:
            masked = np.zeros(h.shape[:2], dtype=bool)
            for sample in range(h.shape[0]):
                masked[sample, np.random.choice(h.shape[1], 2, replace=False)] = True
            h[torch.tensor(masked)] = self.mask.to(h.dtype)
        for layer in self.layers:
            skipped = self.training and torch.rand([]) < 0.1
            h = h if skipped else h + layer(h)
        return self.head(h)  # type: ignore[no-any-return]


def test_masks_and_left_out_layers_of_train_mode_are_followed_and_leave_no_trace() -> None:
    model, inputs = settle(Speech()), torch.randn(2, 7, 6)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # type: ignore[index, union-attr]
    pruned = secateur.prune(model, inputs, ratio=0.5)
    assert not [note for note in pruned.notes if "train mode" in note or "not used" in note]
    assert pruned.model.mask.shape == (16,)
    assert pruned.plan.keep["mask"][0] == pruned.plan.keep["inside.weight"][0]
    assert np.array_equal(np.random.get_state()[1], before[0])  # type: ignore[index]
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert pruned.model.train()(torch.randn(3, 9, 6)).shape == (3, 9, 5)


def test_a_loop_over_the_samples_that_calls_no_operator_is_not_run_a_million_times() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.most = nn.Linear(6, 32), nn.Linear(32, 5), 0

        def forward(self, x: Tensor) -> Tensor:
            found = sum(abs(sample) for sample in range(x.shape[0])) if self.training else 0
            counted.append(found)
            return self.b(self.a(x).relu()) + found  # type: ignore[no-any-return]

    counted: list[int] = []
    pruned = secateur.prune(settle(Counting()), torch.randn(2, 6), ratio=0.5)
    assert pruned.backend == "module"
    assert 0 < max(counted) < 10**9


def test_a_recording_knows_that_chance_decided() -> None:
    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(x) if self.training and torch.rand([]) < 0.1 else self.a(x)  # type: ignore[no-any-return]

    class Drawn(Left):
        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * (float(np.random.rand()) if self.training else 1.0)  # type: ignore[no-any-return]

    x = torch.randn(2, 6)
    for network in (Left(), Drawn()):
        assert record(network, x, training=True).once
        assert not record(network.eval(), x).once
    assert not record(nn.Dropout(0.5).train(), x, training=True).once

"""Copies of networks that hold what Python cannot copy."""

from __future__ import annotations

import copy
import io
import os
import pickle
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as torch_prune
from torch import Tensor, nn

import secateur
from secateur.graph.copies import deep_copy, shallow_copy, unwrapped
from zoo import conv, settle

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def small() -> nn.Sequential:
    return settle(nn.Sequential(conv(3, 8), conv(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)))  # type: ignore[return-value]


def numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "thing",
    [
        threading.Lock,
        queue.Queue,
        lambda: Path(os.devnull).open(),  # noqa: SIM115
        numbers,
        lambda: deque([torch.ones(2) * 2], 3),
        io.BytesIO,
    ],
)
def test_things_that_cannot_be_copied_are_shared(thing: Callable[[], Any]) -> None:
    model = small()
    model.thing = held = thing()  # type: ignore[assignment]
    pruned = secateur.prune(model, X, ratio=0.5)
    assert pruned.backend == "module"
    assert model.thing is held
    assert hasattr(pruned.model, "thing")


class Keeping(nn.Module):
    """Keeps activations of the last call in a list, and one by a hook that is a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()
        self.kept: list[Tensor] = []
        self.seen: dict[str, Tensor] = {}
        self.net[1].register_forward_hook(self.see)

    def see(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen["output"] = output

    def forward(self, x: Tensor) -> Tensor:
        self.kept.append(x)
        return self.net(x)  # type: ignore[no-any-return]


def test_activations_and_hooks_of_the_user_are_left_alone() -> None:
    model = Keeping().eval()
    model(X)
    kept, seen = list(model.kept), model.seen["output"]
    pruned = secateur.prune(model, X, ratio=0.5).model
    assert len(model.kept) == len(kept)
    assert model.seen["output"] is seen
    pruned(X)
    assert pruned.seen["output"].shape[1] == 6  # type: ignore[index, union-attr]
    assert model.seen["output"] is seen  # the copied hook belongs to the copy


@pytest.mark.parametrize("make", [shallow_copy, deep_copy])
def test_copies_compute_the_same(make: Callable[[nn.Module], nn.Module]) -> None:
    lstm = nn.LSTM(4, 6, 2, bidirectional=True)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    x = torch.randn(3, 4)
    for model in (tied, normed, graph):
        twin = make(model)
        assert torch.equal(twin(x), model(x))
    assert torch.equal(make(lstm)(x)[0], lstm(x)[0])
    assert len({id(p) for p in make(tied).parameters()}) == 3
    shared = {id(p) for p in tied.parameters()} == {id(p) for p in make(tied).parameters()}
    assert shared == (make is shallow_copy)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel,
     lambda m: nn.DataParallel(torch.optim.swa_utils.AveragedModel(m))],
)  # fmt: skip
def test_wrappers_come_off_and_plans_carry_bare_names(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = small()
    wrapped = wrap(model)
    pruned = secateur.prune(wrapped, X, ratio=0.5)
    assert pruned.backend == "module"
    assert type(pruned.model) is nn.Sequential
    assert secateur.apply(unwrapped(wrapped), pruned.plan, X).after == pruned.after
    assert "0.0.weight" in pruned.plan.keep


@pytest.mark.parametrize("backend", ["module", "graph"])
def test_a_copy_of_a_pruned_network_stays_one(backend: str, tmp_path: Any) -> None:
    first = secateur.prune(small(), X, ratio=0.5, backend=backend)
    copies = [first.model, copy.deepcopy(first.model), deep_copy(first.model), pickle.loads(pickle.dumps(first.model))]  # noqa: S301
    results = [secateur.prune(model, X, ratio=0.6, of="dense") for model in copies]
    assert len({r.after for r in results}) == 1
    results[-1].save(tmp_path)
    assert torch.allclose(secateur.load(tmp_path, model=small())(X), results[-1].model(X), atol=1e-6)


def test_masks_of_torch_are_cut_along() -> None:
    model = small()
    for layer in (model[0][0], model[1][0]):
        torch_prune.ln_structured(layer, "weight", 0.5, n=2, dim=0)  # type: ignore[arg-type, no-untyped-call]
    model(X)
    pruned = secateur.prune(model, X, ratio=0.5)
    assert pruned.model.get_buffer("0.0.weight_mask").shape[0] == 4
    secateur.purify(model, X)


def test_results_can_be_trained_whatever_mode_they_were_made_in() -> None:
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            pruned = secateur.prune(small(), X, ratio=0.5)
        pruned.model.train()(X).sum().backward()
        assert all(p.grad is not None for p in pruned.model.parameters())


def test_networks_in_threads() -> None:
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: secateur.prune(small(), X, ratio=0.5).after.params, range(10)))
    assert len(set(found)) == 1


def test_memory_format_mode_and_gradients_come_back_as_they_were() -> None:
    model = small().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model[1].requires_grad_(False)
    pruned = secateur.prune(model.train(), X, ratio=0.5).model
    assert pruned.training
    weight = pruned.get_parameter("1.0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.requires_grad


def test_a_network_without_values_is_cut_by_chance_or_told_why_not() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.zeros(1, 3, 8, 8, device="meta")
    with pytest.raises(secateur.SecateurError, match=r"meta device.*criterion='l2'"):
        secateur.prune(model, x, ratio=0.5)
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random")
    assert pruned.verification is None
    assert pruned.model[0].weight.shape[0] == 4  # type: ignore[index]


@dataclass
class Both:
    a: Tensor
    b: Tensor


def test_outputs_in_a_dataclass() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.a, self.b = conv(3, 8), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Both:
            return Both(self.a(self.body(x)), F.relu(self.b(self.body(x))))

    pruned = secateur.prune(settle(Two()), X, ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.outputs == 2
    assert isinstance(pruned.model(X), Both)
    graph = secateur.prune(settle(Two()), X, ratio=0.5, backend="graph").model(X)
    assert set(graph) == {"a", "b"}


@pytest.mark.parametrize("way", ["closure", "default"])
def test_a_forward_that_was_wrapped_calls_the_copy(way: str) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    inner = net[0].forward
    wrapped = (lambda x: inner(x) * 2) if way == "closure" else (lambda x, f=inner: f(x) * 2)
    net[0].forward = wrapped  # type: ignore[method-assign, assignment]
    x = torch.randn(3, 4)
    twin = deep_copy(net)
    with torch.no_grad():
        twin[0].weight.zero_()  # type: ignore[index]
        twin[0].bias.zero_()  # type: ignore[index]
    assert net(x).abs().sum() > 0
    assert torch.equal(twin(x), twin[2].bias.expand(3, 2))  # type: ignore[index]
    pruned = secateur.prune(net, x, ratio=0.5)
    assert pruned.model[0].out_features == 4
    assert pruned.after.params < pruned.before.params
    kept = list(pruned.plan.keep["0.weight"][0])
    by_hand = nn.functional.linear((net[0](x))[:, kept].relu(), net[2].weight[:, kept], net[2].bias)
    assert torch.allclose(pruned.model(x), by_hand, atol=1e-6)

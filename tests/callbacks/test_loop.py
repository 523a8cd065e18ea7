"""Cuts in a loop of one's own: everything that referred to the network and its optimizers goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.callbacks import cut_in_place, gradually
from secateur.callbacks.loop import cut_again, rehearse
from secateur.callbacks.schedule import checked_schedule
from secateur.core.errors import InputError, SecateurError, UnknownNameError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, extra: Tensor | None = None) -> float:
    optimizer.zero_grad()
    loss = net(x).pow(2).mean() + (0 if extra is None else extra.pow(2).sum())
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_it_is_the_cut_of_prune_with_the_optimizer_of_carry() -> None:
    x = torch.randn(8, 6)
    net, other = network(), network()
    for each in (net, other):
        each[1].eval()  # as one that is frozen
    made, wanted = (torch.optim.AdamW(n.parameters(), lr=0.01) for n in (net, other))
    for each, optimizer in ((net, made), (other, wanted)):
        step(each, optimizer, x)
    schedule = torch.optim.lr_scheduler.StepLR(made, 1, gamma=0.5)
    pruned = cut_in_place(net, x, [made], ratio=0.5)
    small = secateur.prune(other, x, ratio=0.5)
    carried = small.carry(wanted)
    assert pruned.model is net
    assert (net.training, net[1].training) == (True, False)
    assert pruned.plan.keep == small.plan.keep
    assert pruned.verification.proven
    small.model.train()
    small.model[1].eval()
    for _ in range(3):
        assert step(net, made, x) == step(small.model, carried, x)
    schedule.step()
    assert made.param_groups[0]["lr"] == 0.005
    assert {id(p) for p in made.param_groups[0]["params"]} == {id(p) for p in net.parameters()}
    assert len(made.state) == len(list(net.parameters()))


def test_a_second_cut_counts_from_the_first_network() -> None:
    x, net = torch.randn(8, 6), network()
    dense = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for options in gradually([1, 2], schedule="linear", ratio=0.5).values():
        step(net, optimizer, x)
        pruned = cut_in_place(net, x, [optimizer], **options)
    assert (net[0].out_features, net[3].out_features) == (8, 4)
    assert len(pruned.plan.parts) == 2
    again = cut_again(dense, x, pruned.plan)
    dense.load_state_dict(net.state_dict())
    assert again.model is dense
    assert torch.equal(dense.eval()(x), net.eval()(x))


def test_parameters_of_others_stay_in_the_optimizer() -> None:
    x, net, weight = torch.randn(8, 6), network(), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([{"params": [weight, *net.parameters()]}, {"params": [], "lr": 1.0}], lr=0.1)
    step(net, optimizer, x, weight)
    state = optimizer.state[weight]
    cut_in_place(net, x, [optimizer], ratio=0.5)
    assert any(p is weight for p in optimizer.param_groups[0]["params"])
    assert optimizer.state[weight] is state
    before = weight.detach().clone()
    step(net, optimizer, x, weight)
    assert not torch.equal(weight, before)


def test_what_a_loop_hung_on_the_network_stays_there() -> None:
    x, net = torch.randn(8, 6), network()
    plain, inner = net.forward, nn.Sequential.forward
    net.forward = lambda *args: inner(net, *args) * 2  # type: ignore[method-assign]
    net.loop = lock = object()  # type: ignore[assignment]
    wrapped = net.forward
    cut_in_place(net, x, ratio=0.5, aside=["loop"])
    assert net.forward is wrapped
    assert net.loop is lock
    assert torch.equal(net.eval()(x), 2 * inner(net, x))
    assert plain is not wrapped


def test_what_cannot_be_cut_leaves_all_as_it_was() -> None:
    x, net = torch.randn(8, 6), network()
    other = torch.optim.SGD(network().parameters(), lr=0.1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step(net, optimizer, x)
    before, held = dict(net.named_parameters()), [*optimizer.param_groups[0]["params"]]

    class Odd(torch.optim.SGD): ...

    odd = Odd(net.parameters(), lr=0.1)
    odd.state[net[0].weight]["table"] = torch.zeros(5, 5)
    with pytest.raises(SecateurError):
        cut_in_place(net, x, [optimizer, other, odd], ratio=0.5)
    assert {n: id(p) for n, p in net.named_parameters()} == {n: id(p) for n, p in before.items()}
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in held]


def test_a_cut_that_would_fail_is_told_before_the_training() -> None:
    net = network()
    cuts = {1: {"ratio": 0.25}, 3: {"params": 17, "round_to": 8}}
    with pytest.raises(InputError, match=r"The cut after epoch 3 would fail: The target of 17 params cannot be met"):
        rehearse(net, torch.randn(8, 6), cuts)
    assert net[0].out_features == 16
    rehearse(net, torch.randn(8, 6), {1: {"ratio": 0.25, "criterion": "taylor"}})


@pytest.mark.parametrize(
    ("at", "options", "error", "said"),
    [
        ({}, {}, InputError, r"at=… says what is cut after which epoch, like \{2: \{'macs': 0.7\}\}; got \{\}"),
        ({0: {"ratio": 0.5}}, {}, InputError, "epochs are whole numbers from 1; got 0"),
        ({"1": {"ratio": 0.5}}, {}, InputError, "epochs are whole numbers from 1; got '1'"),
        ({1: 0.5}, {}, InputError, r"at=\{1: …\} takes the arguments of secateur.prune, like .* got 0.5"),
        ({1: {"ratoi": 0.5}}, {}, UnknownNameError, "'ratoi'. Did you mean 'ratio'"),
        ({1: {"ratio": 0.5, "backend": "graph"}}, {}, UnknownNameError, "a callback takes named 'backend'"),
        ({1: {}}, {"criterion": "l1"}, InputError, "The cut after epoch 1 wants one of ratio, macs, .*; got none"),
        ({1: {"macs": 0.5}}, {"ratio": 0.5}, InputError, "got ratio and macs"),
    ],
)
def test_a_schedule_that_is_none_is_told_at_once(at: Any, options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        checked_schedule(at, options)


def test_a_schedule_that_cannot_be_spread_is_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cubic'"):
        gradually([1], schedule="cubik", ratio=0.5)
    with pytest.raises(InputError, match="gradually takes one of ratio, macs, params, energy, size; got ratio, macs"):
        gradually([1], ratio=0.5, macs=0.5)
    with pytest.raises(InputError, match=r"takes a share between 0 and 1; got 1\.5"):
        gradually([1], ratio=1.5)

"""Tuning brings a pruned network nearer to the dense one, and never hands back what held-out samples call worse."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, UnknownNameError
from secateur.cut.pruned import Pruned
from secateur.recovery.tuning import api, loop
from secateur.recovery.tuning.blocks import Block
from secateur.recovery.tuning.loop import Outcome
from secateur.recovery.tuning.stages import Setting

QUICK: dict[str, Any] = {"block_epochs": 8, "epochs": 8, "batch_size": 16, "rate": 0.005, "loss": "error"}


class Residual(nn.Module):
    """A small residual network with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1))
            for _ in range(2)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.inner:
            x = torch.relu_(x + branch(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Residual().train()
    for _ in range(30):
        net(torch.randn(32, 3, 6, 6))
    return net.eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(160, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def repaired(net: nn.Module, x: Tensor) -> Pruned:
    return secateur.recover(secateur.prune(net, x[:2], ratio=0.5), x, dense=net, method="bias")


def apart(one: nn.Module, other: nn.Module, x: Any) -> float:
    with torch.no_grad():
        return float((one.eval()(x) - other(x)).square().mean())


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(t, other[n]) for n, t in one.items())


@pytest.mark.parametrize("given", [{"block_epochs": 0}, {"epochs": 0}, {}])
def test_fresh_samples_come_out_nearer(net: nn.Module, x: Tensor, repaired: Pruned, given: Mapping[str, Any]) -> None:
    fresh = torch.randn(256, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    tuned = secateur.tune(repaired, x, dense=net, **{**QUICK, **given})
    assert apart(tuned.model, net, fresh) < 0.97 * apart(repaired.model, net, fresh)
    assert "gradients, without labels" in tuned.notes[-1]
    assert tuned.plan.keep == repaired.plan.keep
    assert tuned.verification == repaired.verification


@pytest.mark.parametrize("given", [{"block_epochs": 0}, {"epochs": 0}, {}])
def test_what_held_out_samples_call_worse_is_not_kept(
    net: nn.Module, x: Tensor, repaired: Pruned, given: Mapping[str, Any]
) -> None:
    wild = {**QUICK, "rate": 0.99, "block_rate": 0.99, **given}
    held = x[torch.arange(len(x)) % 8 == 7]
    tuned = secateur.tune(repaired, x, dense=net, **wild)
    assert apart(tuned.model, net, held) <= apart(repaired.model, net, held) * (1 + 1e-5)


def test_where_nothing_helps_the_network_comes_back_as_it_was(net: nn.Module, x: Tensor, repaired: Pruned) -> None:
    tuned = secateur.tune(repaired, x, dense=net, **{**QUICK, "block_epochs": 0, "rate": 0.9, "epochs": 1})
    assert same(tuned.model.state_dict(), repaired.model.state_dict())
    assert "kept: the network as it came in" in tuned.notes[-1]


def test_blocks_that_fit_but_harm_the_output_are_taken_back(
    net: nn.Module, x: Tensor, repaired: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harms(setting: Setting, *_: object) -> tuple[list[tuple[Block, Outcome]], bool]:
        for name in setting.names:
            setting.pair.write(name, setting.pair.tensors[name] * 3)
        return [(Block("one", 1, 1, (), ()), Outcome(1.0, 0.5, False))], False

    monkeypatch.setattr(api, "fit_blocks", harms)
    tuned = secateur.tune(repaired, x, dense=net, **{**QUICK, "epochs": 0})
    assert same(tuned.model.state_dict(), repaired.model.state_dict())
    assert "kept: the network as it came in" in tuned.notes[-1]


def test_nothing_that_was_given_changes(net: nn.Module, x: Tensor, repaired: Pruned) -> None:
    given = copy.deepcopy(repaired.model.state_dict()), copy.deepcopy(net.state_dict()), x.clone()
    frozen = secateur.tune(repaired, x, dense=net, **QUICK)
    assert same(repaired.model.state_dict(), given[0])
    assert same(net.state_dict(), given[1])
    assert torch.equal(x, given[2])
    assert type(frozen.model) is type(net)
    assert all(p.requires_grad and p.grad is None for p in frozen.model.parameters())


def test_statistics_flags_and_frozen_parameters_stay(net: nn.Module, x: Tensor, repaired: Pruned) -> None:
    pruned = copy.deepcopy(repaired)
    pruned.model.train()
    for name, parameter in pruned.model.named_parameters():
        parameter.requires_grad_(name.startswith("inner.1"))
    tuned = secateur.tune(pruned, x, dense=net, **QUICK)
    assert tuned.model.training
    before = pruned.model.state_dict()
    changed = {n for n, t in tuned.model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed
    assert all(n.startswith("inner.1") and "running" not in n for n in changed)
    assert {n for n, p in tuned.model.named_parameters() if p.requires_grad} == {
        n for n, p in pruned.model.named_parameters() if p.requires_grad
    }


def test_a_seed_decides_and_a_memory_of_nothing_changes_nothing(net: nn.Module, x: Tensor, repaired: Pruned) -> None:
    def weights(**given: Any) -> dict[str, Tensor]:
        return secateur.tune(repaired, x, dense=net, **QUICK, **given).model.state_dict()

    state = torch.get_rng_state()
    want = weights(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(seed=3, memory_bytes=0), want)
    assert not same(weights(seed=4), want)
    with torch.no_grad():
        assert same(weights(seed=3), want)


def test_the_time_ends_it_cleanly(net: nn.Module, x: Tensor, repaired: Pruned, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**9))
    monkeypatch.setattr(loop, "monotonic", lambda: float(next(ticks)))
    tuned = secateur.tune(repaired, x, dense=net, **{**QUICK, "block_epochs": 10**4, "epochs": 10**4}, seconds=400.0)
    assert "stopped when the time was up" in tuned.notes[-1]
    assert next(ticks) < 1000
    assert apart(tuned.model, net, x) < apart(repaired.model, net, x)


def test_an_interruption_leaves_everything_as_it_was(
    net: nn.Module, x: Tensor, repaired: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.deepcopy(repaired.model.state_dict())

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Weights, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        secateur.tune(repaired, x, dense=net, **QUICK)
    assert same(repaired.model.state_dict(), before)


def test_weights_that_were_pruned_stay_zero(net: nn.Module, x: Tensor, repaired: Pruned) -> None:
    sparse = copy.deepcopy(repaired)
    with torch.no_grad():
        for parameter in sparse.model.parameters():
            if parameter.ndim > 1:
                parameter[torch.rand_like(parameter) < 0.3] = 0
    gone = {n: p == 0 for n, p in sparse.model.named_parameters() if p.ndim > 1}
    tuned = secateur.tune(sparse, x, dense=net, **QUICK)
    assert apart(tuned.model, net, x) < apart(sparse.model, net, x)
    now = dict(tuned.model.named_parameters())
    assert all(torch.equal(now[n] == 0, zero) for n, zero in gone.items())


@pytest.mark.parametrize(
    ("data", "given", "words"),
    [
        (torch.randn(7, 3, 6, 6), {}, "at least 8 samples; got 7"),
        ([], {}, "no batch"),
        (torch.full((16, 3, 6, 6), float("nan")), {}, "NaN"),
        (torch.randn(16, 3, 5, 5), {}, r"\(3, 5, 5\).*\(3, 6, 6\)"),
        (torch.rand(16, 3, 6, 6) * 25500, {}, "another scale"),
        (torch.randn(16, 3, 6, 6), {"seconds": 0.0}, "seconds is a number above 0"),
        (torch.randn(16, 3, 6, 6), {"seconds": -1.0}, "seconds is a number above 0"),
        (torch.randn(16, 3, 6, 6), {"epochs": 0, "block_epochs": 0}, "one of them at least 1"),
        (torch.randn(16, 3, 6, 6), {"epochs": -1}, "0 or more"),
        (torch.randn(16, 3, 6, 6), {"memory_bytes": -1}, "memory_bytes"),
        (torch.randn(16, 3, 6, 6), {"batch_size": 0}, "batch_size is at least 1"),
        (torch.randn(16, 3, 6, 6), {"rate": 0.0}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    net: nn.Module, repaired: Pruned, data: Any, given: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        secateur.tune(repaired, data, dense=net, **given)


def test_another_network_an_unknown_one_and_nothing_to_train_are_refused(
    net: nn.Module, x: Tensor, repaired: Pruned
) -> None:
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.head.weight.mul_(1.5)  # type: ignore[union-attr, operator]
    with pytest.raises(InputError, match="dense"):
        secateur.tune(repaired, x, dense=other)
    with pytest.raises(InputError, match="does not run on the example inputs"):
        secateur.tune(repaired, x, dense=nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"tune\(pruned, data, dense=net\)"):
        secateur.tune(copy.deepcopy(repaired), x)
    with pytest.raises(UnknownNameError, match="Did you mean 'scores'"):
        secateur.tune(repaired, x, dense=net, loss="score")
    frozen = copy.deepcopy(repaired)
    frozen.model.requires_grad_(False)
    with pytest.raises(InputError, match="No parameter of the network may change"):
        secateur.tune(frozen, x, dense=net)


def test_infinite_outputs_are_said(x: Tensor) -> None:
    torch.manual_seed(0)
    bursting = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        bursting[0].weight.fill_(2.0)  # type: ignore[union-attr]
    pruned = secateur.prune(bursting, torch.randn(2, 4), ratio=0.5)
    with pytest.raises(InputError, match=r"dense network's output .* NaN or infinite"):
        secateur.tune(pruned, torch.rand(32, 4) * 3e38, dense=bursting)
    with torch.no_grad():
        pruned.model[2].weight.mul_(1e38)  # type: ignore[index, union-attr]
    with pytest.raises(InputError, match=r"pruned network's output .* NaN or infinite"):
        secateur.tune(pruned, torch.randn(32, 4) * 100, dense=bursting)


class Encoder(nn.Module):
    """Takes tokens and a mask by name, and gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.norm = nn.Linear(16, 48), nn.Linear(48, 16), nn.LayerNorm(16)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.embedding(tokens)
        q, k, v = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())
        x = x + self.o(seen.transpose(1, 2).flatten(2))
        x = self.norm(x + self.down(torch.relu(self.up(x))))
        return {"tokens": x, "pooled": (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_transformer_with_a_mask_and_several_outputs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Encoder().to(dtype).eval()
    tokens, lengths = torch.randint(0, 20, (128, 7)), torch.randint(2, 8, (128, 1))
    data = {"tokens": tokens, "mask": (torch.arange(7) < lengths).to(dtype)}
    pruned = secateur.prune(net, {n: t[:2] for n, t in data.items()}, ratio=0.5)
    tuned = secateur.tune(pruned, data, dense=net, block_epochs=4, epochs=4, batch_size=16)
    want = net(**data)

    def error(model: nn.Module) -> float:
        return sum(float((v.detach() - want[n]).float().square().mean()) for n, v in model(**data).items())

    assert error(tuned.model) < 0.9 * error(pruned.model)
    assert all(p.dtype is dtype for p in tuned.model.parameters())
    assert "relative error of the output" in tuned.notes[-1]


def test_shared_weights_move_together_and_stay_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.inner, self.back = nn.Embedding(20, 8), nn.Linear(8, 32), nn.Linear(32, 8)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embedding(tokens)
            return self.head(x + self.back(torch.relu(self.inner(x))))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net, data = Tied().eval(), torch.randint(0, 20, (64, 5))
    pruned = secateur.prune(net, data[:2], ratio=0.5, only=["inner"])
    tuned = secateur.tune(pruned, data, dense=net, block_epochs=2, epochs=6, rate=0.01)
    assert tuned.model.head.weight is tuned.model.embedding.weight
    assert not torch.equal(tuned.model.head.weight, pruned.model.head.weight)
    assert apart(tuned.model, net, data) < apart(pruned.model, net, data)


def test_class_scores_are_distilled_as_such(net: nn.Module, x: Tensor, repaired: Pruned) -> None:
    held = x[torch.arange(len(x)) % 8 == 7]

    def divergence(model: nn.Module) -> float:
        z, t = (m.eval()(held).detach().double().softmax(1) for m in (model, net))
        return float((t * (t / z).log()).sum(1).mean())

    tuned = secateur.tune(repaired, x, dense=net, epochs=10, rate=0.005)
    before, after = (f"{divergence(m):.3g}"[:5] for m in (repaired.model, tuned.model))
    said = tuned.notes[-1].partition("divergence of the scores on held-out samples ")[2].partition(";")[0].split(" → ")
    assert [f"{float(v):.3g}"[:5] for v in said] == [before, after]
    assert divergence(tuned.model) < divergence(repaired.model)


def test_a_network_for_one_batch_size_is_tuned_by_whole_batches() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(x.reshape(4, 6))))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net, data = Fixed().eval(), torch.randn(32, 6)
    pruned = secateur.prune(net, data[:4], ratio=0.5)
    tuned = secateur.tune(pruned, data.split(4), dense=net, loss="error")
    assert apart(tuned.model, net, data[28:]) < apart(pruned.model, net, data[28:])
    with pytest.raises(InputError, match="at least 2 batches of 4 samples; got 1"):
        secateur.tune(pruned, data[:4], dense=net)

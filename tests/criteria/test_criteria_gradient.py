"""Gradient criteria against masks put into the network, and against gradients of single samples."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from criteria_cases import CASES, Case
from secateur.core.errors import InputError
from zoo import ZOO, settle


def mask_gradients(case: Case, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """∂L/∂m of every sample, shape (samples, units)."""
    rows: dict[str, list[Tensor]] = {g: [] for g in case.units}
    for image, label in zip(images, labels, strict=True):
        masks = {g: torch.ones(n, requires_grad=True) for g, n in case.units.items()}
        found = torch.autograd.grad(case.masked_loss(image, label, masks), list(masks.values()))
        for group, gradient in zip(masks, found, strict=True):
            rows[group].append(gradient)
    return {g: torch.stack(r).double() for g, r in rows.items()}


@pytest.mark.parametrize("name", CASES)
def test_taylor_is_the_squared_gradient_of_a_gate(name: str) -> None:
    case = CASES[name]()
    images, labels = case.images(), case.labels()
    scores = case.scores("taylor", [(images, labels)])
    for group, gates in mask_gradients(case, images, labels).items():
        torch.testing.assert_close(scores[group], gates.square().mean(0), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_snip_is_the_mask_gradient_on_the_first_batch(name: str) -> None:
    case = CASES[name]()
    images, labels = case.images(), case.labels()
    scores = case.scores("snip", [(images[:8], labels[:8]), (images[8:], labels[8:])])
    for group, gates in mask_gradients(case, images[:8], labels[:8]).items():
        torch.testing.assert_close(scores[group], gates.mean(0).abs(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_obd_sums_half_h_w_squared_weight_by_weight(name: str) -> None:
    case = CASES[name]()
    images, labels = case.images(5), case.labels(5)
    fisher = {n: torch.zeros_like(p) for n, p in case.model.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        case.model.zero_grad()
        F.cross_entropy(case.model(image.unsqueeze(0)), label.unsqueeze(0)).backward()
        for n, p in case.model.named_parameters():
            assert p.grad is not None
            fisher[n] += p.grad.square() / 5
    scores = case.scores("obd", [(images, labels)])
    for group in case.groups.items:
        for position, unit in enumerate(group.units):
            total = 0.0
            for member in group.members:
                if member.parameter not in fisher:
                    continue
                weight = case.model.get_parameter(member.parameter).detach()
                of = case.groups.unit_of(case.groups.flow.tensors[member.parameter].at(member.dim)[0])
                for index in (of == unit).nonzero()[0]:
                    h, w = (t.select(member.dim, int(index)).double() for t in (fisher[member.parameter], weight))
                    total += float((h * w.square()).sum()) / 2
            assert scores[group.name][position] == pytest.approx(total, rel=1e-4)


def test_heads_of_attention_are_scored_by_a_gate_on_their_output() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.attention, self.fc = nn.Linear(4, 8), nn.MultiheadAttention(8, 4, batch_first=True), None
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
            x = self.inner(x)
            q, k, v = F.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias).chunk(3, -1)
            q, k, v = (t.unflatten(-1, (4, 2)).transpose(1, 2) for t in (q, k, v))
            heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            heads = heads if gate is None else heads * gate.view(4, 1)
            return self.head(self.attention.out_proj(heads.flatten(2)).mean(1))  # type: ignore[no-any-return]

    model, x, y = settle(Net()), torch.randn(6, 5, 4), torch.randint(0, 3, (6,))
    pruned = secateur.prune(
        model, x[:2], ratio=0.5, criterion="taylor", data=[(x, y)], granularity="whole", only=["attention.in_proj_*"]
    )
    squares = torch.zeros(4)
    for image, label in zip(x, y, strict=True):
        gate = torch.ones(4, requires_grad=True)
        (found,) = torch.autograd.grad(F.cross_entropy(model(image[None], gate), label[None]), gate)
        squares += found.square()
    kept = sorted(squares.topk(2).indices.tolist())
    assert pruned.plan.keep["attention.out_proj.weight"][1] == tuple(i for h in kept for i in (2 * h, 2 * h + 1))


def test_tied_weights_count_once() -> None:
    model, x = ZOO["tied_weights"]()
    settle(model)
    data = [(torch.randn(4, *x.shape[1:]), torch.randint(0, model(x).shape[1], (4,)))]
    groups = secateur.analyse(model, x).groups
    found = secateur.criteria.scoring.score(groups, "taylor", data=data).values
    view = secateur.criteria.GroupView(groups.items[0], groups, torch.Generator())
    names = {m.parameter for m in view.consumers}
    expected = torch.zeros(len(view)).double()
    for image, label in zip(*data[0], strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        gate = torch.zeros(len(view)).double()
        for member in view.consumers:
            weight = model.get_parameter(member.parameter)
            assert weight.grad is not None
            gate += view.per_unit(member, (weight.grad * weight).detach()).double()
        expected += gate.square() / 4
    assert len(names) == len({id(model.get_parameter(n)) for n in names})
    torch.testing.assert_close(torch.from_numpy(found[0]), expected, rtol=1e-4, atol=1e-12)


def test_the_network_is_left_as_it_was() -> None:
    case = CASES["residual"]()
    case.model.train()
    next(case.model.parameters()).requires_grad_(False)
    before = {n: v.clone() for n, v in case.model.state_dict().items()}
    state = torch.random.get_rng_state()
    secateur.prune(case.model, case.images(2), ratio=0.3, criterion="taylor", data=[(case.images(), case.labels())])
    assert all(torch.equal(v, before[n]) for n, v in case.model.state_dict().items())
    assert all(p.grad is None for p in case.model.parameters())
    assert not next(case.model.parameters()).requires_grad
    assert case.model.training
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_loss_of_ones_own() -> None:
    model = settle(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1)))
    x, y = torch.randn(10, 3), torch.randn(10, 1)
    data = [(x, y)]
    pruned = secateur.prune(model, x[:2], ratio=0.5, criterion="taylor", data=data, loss=F.mse_loss)
    hidden = model[:2](x)  # type: ignore[index]
    slope = 2 * (model(x) - y)
    gates = (slope * hidden * model[2].weight[0]).square().mean(0)  # type: ignore[index, union-attr]
    assert pruned.plan.keep["0.weight"][0] == tuple(sorted(gates.topk(3).indices.tolist()))


@pytest.mark.parametrize("criterion", ["taylor", "snip", "obd"])
def test_gradients_without_labels_are_refused(criterion: str) -> None:
    case = CASES["depthwise"]()
    with pytest.raises(InputError, match=rf"'{criterion}' needs labels: every item of data is a pair"):
        case.scores(criterion, case.images())


def test_labels_of_other_classes_are_refused() -> None:
    case = CASES["depthwise"]()
    with pytest.raises(InputError, match=r"Batch 2 of the data: No loss was given.*there are labels from 9 to 9"):
        case.scores("taylor", [(case.images(), case.labels()), (case.images(2), torch.tensor([0, 9]))])


def test_outputs_that_cross_entropy_does_not_take_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.b(self.a(x))
            return y, y + 1

    x = torch.randn(4, 3)
    with pytest.raises(InputError, match=r"gives a tuple.*Give loss="):
        secateur.prune(Two(), x, ratio=0.5, criterion="taylor", data=[(x, torch.zeros(4).long())])

"""Energy-aware pruning against slow loops over rows and filters in float64, written from the paper's three steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, UnknownNameError
from secateur.cost.energy import energy
from secateur.graph.trace import trace
from secateur.sparsity import energy_aware, masks_of, sparsify
from secateur.sparsity.energy_aware import Gram, refitted, restored


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, (1, 2), dilation=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(9, 5),
    ).eval()  # fmt: skip


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs of a layer as rows, place by place: what a filter that is one at a single place answers."""
    if isinstance(layer, nn.Linear):
        return x.double()
    assert isinstance(layer, nn.Conv2d)
    size, found = layer.weight[0].numel(), []
    probe = nn.Conv2d(layer.in_channels, 1, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)  # type: ignore[arg-type]
    for k in range(size):
        probe.weight.data = torch.eye(size)[k].reshape(1, *layer.weight.shape[1:])
        found.append(probe.double()(x.double()).flatten())
        probe.float()
    return torch.stack(found, 1).detach()


def error(wanted: Tensor, rows: Tensor, filter_: Tensor) -> float:
    return float((wanted - rows @ filter_).square().sum().detach())


def by_the_paper(weight: Tensor, rows: Tensor, wanted: Tensor, ratio: float, restore: float) -> tuple[Tensor, Tensor]:
    """Magnitude beyond the target, the best single return of every filter in turn, least squares: all by trying."""
    filters = len(weight)
    stay = weight.numel() - int(ratio * weight.numel() + 0.5)
    back = int(restore * stay)
    order = sorted(range(weight.numel()), key=lambda k: -float(weight.flatten()[k].abs()))
    kept = torch.zeros(weight.numel(), dtype=torch.bool)
    kept[order[: stay - back]] = True
    kept = kept.reshape(weight.shape)
    while back:
        gains = []
        for f in range(filters):
            now = error(wanted[:, f], rows, weight[f] * kept[f])
            best = None
            for k in (~kept[f]).nonzero().ravel().tolist():
                trial = kept[f].clone()
                trial[k] = True
                change = error(wanted[:, f], rows, weight[f] * trial) - now
                best = (change, f, k) if best is None or change < best[0] else best
            if best is not None:
                gains.append(best)
        for _, f, k in sorted(gains)[:back]:
            kept[f, k] = True
        back -= min(back, len(gains))
    fitted = torch.zeros_like(weight)
    for f in range(filters):
        own = kept[f].nonzero().ravel()
        fitted[f, own] = torch.linalg.lstsq(rows[:, own], wanted[:, f, None], driver="gelsd").solution.ravel()
    return kept, fitted


def test_one_layer_equals_a_loop_over_everything_that_can_return() -> None:
    weight, rows = torch.randn(4, 7).double(), torch.randn(40, 7).double() @ torch.randn(7, 7).double()
    before = rows + 0.3 * torch.randn(40, 7).double()  # the inputs as they were before other layers were pruned
    gram = Gram(rows.T @ rows, rows.T @ before)
    for ratio, restore in ((0.5, 0.6), (0.6, 0.3), (0.3, 0.0)):
        kept, fitted = by_the_paper(weight, rows, before @ weight.T, ratio, restore)
        found = restored(weight, gram, ratio, restore)
        assert torch.equal(found, kept)
        torch.testing.assert_close(refitted(weight, gram, found), fitted, rtol=1e-3, atol=1e-4)


def test_the_network_equals_the_layers_in_the_order_of_their_energy() -> None:
    model, x = net(), torch.randn(16, 2, 5, 5)
    found = energy_aware(model, x[:2], ratio=0.5, restore=0.4, data=[x])
    takes = {layer.name: layer.total for layer in energy(model, x[:2]).layers}
    expected, current = copy.deepcopy(model), list(model)
    order = sorted(("0", "3", "6"), key=lambda name: -takes[name])
    for name in order:
        layer = model[int(name)]
        seen = [rows_of(layer, expected[: int(name)](x)), rows_of(layer, model[: int(name)](x))]
        weight = layer.weight.detach().double().flatten(1)
        kept, fitted = by_the_paper(weight, seen[0], seen[1] @ weight.T, 0.5, 0.4)
        assert torch.equal(found.masks[f"{name}.weight"].flatten(1), kept), name
        made = found.model.get_parameter(f"{name}.weight").detach()
        responses = [
            seen[0] @ w.T for w in (made.double().flatten(1), fitted)
        ]  # inputs that are always 0 decide nothing
        torch.testing.assert_close(*responses, rtol=1e-3, atol=1e-4)
        expected[int(name)].weight.data = made.clone()
    assert all(a is b for a, b in zip(current, model, strict=True))
    assert f"Layers in the order of their energy: {', '.join(order)}." in found.notes
    totals = [energy(n, x[:2]).total for n in (model, found.model)]
    assert f"{totals[0]:,.0f} → {totals[1]:,.0f}" in found.notes[0]
    assert totals[1] < totals[0]
    assert {layer.kept for layer in found.layers} == {36, 12, 22}
    assert all(torch.equal(mask, masks_of(found.model)[n]) for n, mask in found.masks.items())


def test_it_misses_less_of_the_output_than_magnitude() -> None:
    model, x = net(), torch.randn(64, 2, 5, 5)
    wanted = model(x)
    missed = [
        float((made.model.eval()(x) - wanted).norm())
        for made in (energy_aware(model, x[:2], ratio=0.6, data=x), sparsify(model, ratio=0.6))
    ]
    assert missed[0] < 0.7 * missed[1]


def test_what_earlier_masks_removed_stays_removed_and_counts() -> None:
    model, x = net(), torch.randn(8, 2, 5, 5)
    first = sparsify(model, ratio=0.4, criterion="random", example_inputs=x[:2])
    second = energy_aware(first, ratio=0.5, restore=0.5, data=[(x, torch.zeros(8))])
    for name, mask in first.masks.items():
        assert not (second.masks[name] & ~mask).any()
        assert int(second.masks[name].sum()) == mask.numel() - int(0.5 * mask.numel() + 0.5)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"ratio": 1.0}, r"ratio is the share of weights to remove, in \[0, 1\)"),
    ({"ratio": 0.5, "restore": 1.0}, "restore is the share"),
    ({"ratio": 0.5, "data": []}, "hold no batch"),
    ({"ratio": 0.5, "data": [torch.full((2, 2, 5, 5), torch.nan)]}, "holds NaN"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_bad_values_are_named(options: dict[str, Any], words: str) -> None:
    x = torch.randn(2, 2, 5, 5)
    with pytest.raises(InputError, match=words):
        energy_aware(net(), x, **{"data": [x], **options})


def test_layers_that_it_cannot_prune_are_said() -> None:
    x = torch.randn(2, 2, 5, 5)
    with pytest.raises(InputError, match="has none as modules"):
        energy_aware(trace(net(), x).module, x, ratio=0.5, data=[x])
    with pytest.raises(UnknownNameError, match="conv9"):
        energy_aware(net(), x, ratio={"conv9": 0.5}, data=[x])

"""Unused paths: the network computes the same, and nothing unused is left."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import VerificationError
from secateur.recovery import unused
from zoo import ZOO

NETWORKS = ("plain", "residual", "zero_padded_shortcut", "dense_concatenation", "squeeze_excitation",
            "depthwise_multiplier", "group_norm", "layer_norm_channels_last", "attention_packed", "unet",
            "tied_weights", "running_sums", "weights_standardised_by_batch_norm")  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_whose_outgoing_weights_are_zero_go(name: str) -> None:
    torch.manual_seed(0)
    net, x = ZOO[name]()
    net.eval()
    tensors = dict(net.named_parameters())
    groups = secateur.analyse(net, x).groups
    with torch.no_grad():
        for group in groups.items:
            for member in (m for m in group.members if m.consumes and m.parameter in tensors):
                of = groups.unit_of(groups.flow.tensors[member.parameter].at(member.dim)[0])
                rows = [i for i, u in enumerate(of) if u in group.units[: len(group) // 2]]
                tensors[member.parameter].index_fill_(member.dim, torch.tensor(rows, dtype=torch.long), 0)
    clean = secateur.purify(net, x)  # it compares with the network itself and raises where they differ
    again = secateur.purify(clean.model, x)
    assert again.after.params == clean.after.params, "a fixed point"
    if name in ("plain", "residual", "unet", "zero_padded_shortcut"):
        halves = sum(len(g) // 2 for g in groups.items)
        assert sum(len(c.group) - c.kept for c in clean.groups) >= halves


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(),
                         nn.Conv2d(5, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2)).eval()  # fmt: skip


def test_one_zero_starts_a_row_of_removals() -> None:
    """The last layer ignores a channel, which alone used another one, which alone used a third."""
    net = chain()
    with torch.no_grad():
        net[8].weight.view(2, 3, 16)[:, 2] = 0
        net[5].weight[:2, 4] = 0
        net[3].weight[:4, 1] = 0
    clean = secateur.purify(net, torch.randn(2, 2, 8, 8))
    assert [clean.model[k].out_channels for k in (0, 3, 5)] == [3, 4, 2]
    x = torch.randn(3, 2, 8, 8)
    assert torch.allclose(clean.model(x), net(x), atol=1e-5)


def test_a_constant_channel_goes_into_the_bias_behind_it() -> None:
    net = chain()
    with torch.no_grad():
        net[1].weight[0] = 0  # the batch norm makes it β whatever comes in
        net[1].bias[0] = 0.7
        net[3].weight[2] = 0  # nothing enters: the channel is its bias
        net[3].bias[2] = -0.3  # and dead behind the ReLU
    clean = secateur.purify(net, torch.randn(2, 2, 8, 8))
    assert [clean.model[k].out_channels for k in (0, 3, 5)] == [3, 4, 3]
    bias = net[3].bias + 0.7 * net[3].weight[:, 0].sum((1, 2))
    assert torch.allclose(clean.model[3].bias, bias[[0, 1, 3, 4]], atol=1e-6)


def test_a_constant_stays_where_zero_padding_would_show_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 3, padding=1))
    with torch.no_grad():
        net[0].weight[1] = 0
        net[0].bias[1] = 1.0
    x = torch.randn(2, 2, 5, 5)
    assert secateur.purify(net, x).model[0].out_channels == 4
    with torch.no_grad():
        net[0].bias[1] = 0.0  # a constant of nothing is nothing at the border too
    assert secateur.purify(net, x).model[0].out_channels == 3


def test_a_layer_never_empties() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[2].weight.zero_()
    clean = secateur.purify(net, torch.randn(2, 3))
    assert clean.model[0].out_features == 1
    assert torch.equal(clean.model(torch.randn(4, 3)), net[2].bias.expand(4, 2))


def test_a_dense_network_stays_as_it_is() -> None:
    net, x = chain(), torch.randn(2, 2, 8, 8)
    before = copy.deepcopy(net.state_dict())
    clean = secateur.purify(net, x)
    assert clean.after.params == clean.before.params
    assert "0 of" in clean.notes[-1]
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_a_result_that_differs_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: object, members: object, units: object) -> None:
        raise_at: Tensor = self.pair.tensors["8.weight"]  # type: ignore[attr-defined]
        raise_at.add_(1.0)

    monkeypatch.setattr(unused._Cleaner, "_zero_unused", spoil)
    with pytest.raises(VerificationError, match="Nothing was returned"):
        secateur.purify(chain(), torch.randn(2, 2, 8, 8))

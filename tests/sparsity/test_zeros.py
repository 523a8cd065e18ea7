"""What a group lasso has pushed to zero: found by hand, removed exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.sparsity.zeros import remove_zeros, zeroed
from tiny_networks import Tiny

IMAGES = torch.rand(4, 1, 8, 8)


def network() -> Tiny:
    model = Tiny()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
                module.running_mean.uniform_(-0.1, 0.1)
    return model.eval()


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


def test_small_weights_become_zero_in_a_copy() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e-4, 0.5], [-9e-5, -0.5]]))
    assert zeroed(model, 1e-4).weight.tolist() == [[pytest.approx(1e-4), 0.5], [0.0, -0.5]]
    assert model.weight[1, 0] != 0
    with pytest.raises(InputError, match="at least 0"):
        zeroed(model, -1.0)


def test_channels_that_nothing_uses_or_nothing_makes_go() -> None:
    model = network()
    with torch.no_grad():
        model.linear.weight[:, [1, 4]] = 9e-5  # nothing uses channels 1 and 4 of `wide`
        for part in (model.block[0].weight, model.block[1].weight, model.block[1].bias):
            part[[0, 7]] = -9e-5  # channels 0 and 7 inside the block are zero
    pruned = remove_zeros(model, IMAGES)
    assert pruned.plan.keep["wide.weight"][0] == (0, 2, 3, 5, 6, 7, 8, 9, 10, 11)
    assert pruned.plan.keep["block.0.weight"][0] == (1, 2, 3, 4, 5, 6)
    assert "stem.weight" not in pruned.plan.keep
    assert torch.allclose(outputs(pruned.model), outputs(zeroed(model, 1e-4)), atol=1e-6)
    assert pruned.after.params < pruned.before.params


def test_a_branch_of_zeros_goes_whole_unless_it_is_the_last() -> None:
    class Two(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.bn(self.stem(x)))
            x = torch.relu(x + self.block(x))
            x = torch.relu(x + self.other(x))
            x = torch.relu(self.bn2(self.wide(x)))
            return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))

    torch.manual_seed(1)
    model = Two().eval()
    with torch.no_grad():
        for parameter in model.block.parameters():
            parameter.uniform_(-9e-5, 9e-5)
    pruned = remove_zeros(model, IMAGES)
    assert not any(name.startswith("block.") for name, _ in pruned.model.named_parameters())
    assert any("block" in note for note in pruned.notes)
    assert pruned.before.params == sum(p.numel() for p in model.parameters())
    assert torch.allclose(outputs(pruned.model), outputs(zeroed(model, 1e-4)), atol=1e-6)
    with torch.no_grad():
        for parameter in model.other.parameters():
            parameter.zero_()
    last = remove_zeros(model, IMAGES)
    assert sum(any(n.startswith(part) for n, _ in last.model.named_parameters()) for part in ("block.", "other")) == 1


def test_where_nothing_is_zero_a_note_says_so() -> None:
    pruned = remove_zeros(network(), IMAGES)
    assert pruned.after.params == pruned.before.params
    assert any("raise the penalty's weight" in note for note in pruned.notes)

"""What cannot be repaired is refused with a sentence that says why, or handled and noted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, UnknownNameError
from secateur.cut.pruned import Pruned


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6),
                        nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4))  # fmt: skip
    net.train()
    for _ in range(60):
        net(torch.randn(32, 3, 8, 8))
    return net.eval()


@pytest.fixture
def pruned(net: nn.Sequential) -> Pruned:
    return secateur.prune(net, torch.randn(2, 3, 8, 8), ratio=0.5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (torch.randn(8, 3, 9, 9), r"\(3, 9, 9\).*\(3, 8, 8\)"),
        (torch.randn(8, 1, 8, 8), "Prepare the data as for the network"),
        (torch.randint(0, 255, (8, 3, 8, 8), dtype=torch.uint8), "uint8"),
        (torch.full((8, 3, 8, 8), float("nan")), "NaN"),
        (torch.randn(0, 3, 8, 8), "no sample"),
        ([], "no batch"),
        (3, "data is a tensor.*an iterable or None; got 3"),
        ((torch.randn(8, 3, 8, 8), torch.zeros(7)), "8 samples and 7 labels"),
        (torch.rand(8, 3, 8, 8) * 255, "another scale.*Normalise"),
        (torch.randn(8, 3, 8, 8) / 255**2 - 40, "another scale"),
    ],
)
def test_data_that_does_not_fit_is_refused(net: nn.Sequential, pruned: Pruned, data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        secateur.recover(pruned, data, dense=net)


def test_data_of_a_remarkable_scale_is_noted(net: nn.Sequential, pruned: Pruned) -> None:
    fixed = secateur.recover(pruned, torch.randn(64, 3, 8, 8) * 4, dense=net)
    assert any("normalised otherwise" in note and "'1'" in note for note in fixed.notes)
    assert not any("normalised" in n for n in secateur.recover(pruned, torch.randn(64, 3, 8, 8), dense=net).notes)


def test_an_overflow_names_the_layer(net: nn.Sequential) -> None:
    class Bursting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.exp(self.one(x)))

    bursting, x = Bursting(), torch.randn(32, 4)
    cut = secateur.prune(bursting, x[:2], ratio=0.5)
    with pytest.raises(InputError, match="'two' holds NaN or infinite"):
        secateur.recover(cut, x * 1000, dense=bursting)
    with pytest.raises(InputError, match="'two' holds NaN or infinite"):
        secateur.recover(cut, x * 1000, dense=bursting, method="bias")


def test_few_samples_get_a_strong_ridge_and_a_note(net: nn.Sequential, pruned: Pruned) -> None:
    few, fresh = torch.randn(3, 3, 8, 8), torch.randn(128, 3, 8, 8)
    fixed = secateur.recover(pruned, few, dense=net)
    assert any("few calibration samples" in note and "7" in note for note in fixed.notes)

    def error(model: nn.Module) -> float:
        return float((model.eval()(fresh) - net(fresh)).detach().square().mean())

    loose = secateur.recover(pruned, few, dense=net, ridge=1e-9)
    assert error(fixed.model) < error(pruned.model)
    assert error(fixed.model) < 0.5 * error(loose.model), "three samples fitted exactly are not a repair"


def test_singular_systems_are_solved(net: nn.Sequential, pruned: Pruned) -> None:
    same = torch.randn(1, 3, 8, 8).repeat(16, 1, 1, 1)
    for ridge in (0.0, None):
        fixed = secateur.recover(pruned, same, dense=net, ridge=ridge)
        assert all(torch.isfinite(t).all() for t in fixed.model.state_dict().values())
        assert torch.allclose(fixed.model(same), net(same), atol=1e-2)


def test_networks_in_train_mode_are_read_in_eval_mode_and_left_as_they_are(net: nn.Sequential, pruned: Pruned) -> None:
    x = torch.randn(64, 3, 8, 8)
    want = secateur.recover(pruned, x, dense=net, ridge=1e-4).model.state_dict()
    net.train()
    pruned.model.train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    fixed = secateur.recover(pruned, x, dense=net, ridge=1e-4)
    assert net.training
    assert pruned.model.training
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(torch.allclose(t, want[n], atol=1e-6) for n, t in fixed.model.state_dict().items())


def test_another_dense_network_is_refused(net: nn.Sequential, pruned: Pruned) -> None:
    x = torch.randn(8, 3, 8, 8)
    with pytest.raises(InputError, match="does not fit dense"):
        secateur.recover(pruned, x, dense=nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        secateur.recover(pruned, x, dense="net")  # type: ignore[arg-type]


def test_settings_are_checked(net: nn.Sequential, pruned: Pruned) -> None:
    x = torch.randn(8, 3, 8, 8)
    with pytest.raises(UnknownNameError, match="Did you mean 'least_squares'"):
        secateur.recover(pruned, x, dense=net, method="least_square")
    with pytest.raises(InputError, match=r"needs calibration data.*'bias' or 'merge'"):
        secateur.recover(pruned, dense=net)
    with pytest.raises(InputError, match="ridge"):
        secateur.recover(pruned, x, dense=net, ridge=-1)
    with pytest.raises(InputError, match="batch_size"):
        secateur.recover(pruned, x, dense=net, batch_size=0)


def test_variance_is_matched_by_least_squares_alone(net: nn.Sequential, pruned: Pruned) -> None:
    with pytest.raises(InputError, match="match_variance is for the method 'least_squares'; this one is 'bias'"):
        secateur.recover(pruned, torch.randn(8, 3, 8, 8), dense=net, method="bias", match_variance=True)

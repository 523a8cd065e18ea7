"""One result type goes into every verb and comes out of it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.core.plan import ATTRIBUTE, remembered
from secateur.cut.pruned import Pruned, weights_print

BACKENDS = ("module", "graph")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


def images(count: int = 32) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def cut(model: nn.Module, backend: str = "auto", ratio: float = 0.5) -> Pruned:
    return secateur.prune(model, images(2), ratio=ratio, backend=backend)


def test_it_is_called_like_the_network() -> None:
    small = cut(net())
    assert torch.equal(small(images()), small.model(images()))


def test_every_verb_takes_it() -> None:
    small, x = cut(net()), images(2)
    assert secateur.count(small, x).params == small.after.params
    assert secateur.analyse(small, x).groups.units == 16
    again = secateur.prune(small, ratio=0.5)
    sparse = secateur.sparsify(again, ratio=0.5)
    assert again.plan.keep["0.weight"][0] == sparse.plan.keep["0.weight"][0]
    assert len(again.plan.parts) == 2
    assert sparse.after.macs == again.after.macs > 0
    assert secateur.purify(sparse).after.params <= again.after.params
    assert secateur.recover(again, images()).plan == again.plan
    assert secateur.apply(net(), small.plan, x).after == small.after


def test_it_refers_to_the_network_before_the_first_cut() -> None:
    model = net()
    small = cut(model)
    assert small.dense is model
    assert secateur.prune(small, ratio=0.25).dense is model
    assert secateur.sparsify(small, ratio=0.5).dense is model
    assert secateur.recover(small, images()).dense is model
    assert secateur.prune(small.model, images(2), ratio=0.25).dense is None, "what a bare module was cut from is lost"


def test_the_users_network_carries_nothing() -> None:
    model = net()
    cut(secateur.prune(model, images(2), ratio=0.25).model)
    assert not hasattr(model, ATTRIBUTE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_and_pickles_keep_the_plan_and_drop_the_rest(backend: str) -> None:
    small = cut(net(), backend)
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):  # noqa: S301 (our own, a moment ago)
        assert again.plan == small.plan
        assert again.dense is None
        assert again.example_inputs.shape == (2, 3, 8, 8)
        assert not again.example_inputs.any(), "a copy holds no value of the user's data"
        assert torch.equal(again(images()), small(images()))
        half = secateur.prune(again, ratio=0.5, of="dense")
        assert half.after.params == small.after.params, "half of the dense network is gone already"
    assert remembered(copy.deepcopy(small.model)) == small.plan


def test_a_plan_that_was_put_down_as_text_counts_as_one() -> None:
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4)
    small = secateur.prune(net, x, ratio=0.5)
    once = small.plan
    assert b"secateur.core" not in pickle.dumps(small.model)
    assert small.plan == once
    copied = pickle.loads(pickle.dumps(small.model))  # noqa: S301 (our own, a moment ago)
    again = secateur.prune(copied, x, ratio=0.5).plan
    assert again.parts[0].keep == once.keep
    first, second = once.keep["0.weight"][0], again.parts[1].keep["0.weight"][0]
    assert again.keep["0.weight"][0] == tuple(first[i] for i in second)
    small.model.secateur_plan = "{}"
    with pytest.raises(secateur.PlanError, match="not a plan"):
        _ = small.plan


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("graph", [True, False])
def test_load_gives_what_was_saved(backend: str, graph: bool, tmp_path: Path) -> None:
    model = net()
    small = cut(model, backend)
    small.save(tmp_path, graph=graph)
    back = secateur.load(tmp_path, None if graph else net(5))
    assert isinstance(back, Pruned)
    assert (back.plan, back.before.macs, back.after.params) == (small.plan, small.before.macs, small.after.params)
    assert back.verification is not None
    assert back.verification.proven
    assert torch.allclose(back(images()), small(images()), atol=1e-6)
    again = secateur.prune(back, ratio=0.5)
    assert again.plan.keep["0.weight"][0] == secateur.prune(small, ratio=0.5).plan.keep["0.weight"][0]
    again.save(tmp_path / "again")
    with pytest.raises(InputError, match="dense=net"):
        secateur.recover(back, images())
    fixed = secateur.recover(back, images(), dense=model)
    wanted = secateur.recover(small, images())
    assert torch.allclose(fixed(images()), wanted(images()), atol=1e-4)


def test_two_cuts_are_recovered_from_the_first_network() -> None:
    model, x = net(), images(256)
    twice = secateur.prune(cut(model, ratio=0.25), ratio=0.25)

    def error(small: Pruned) -> float:
        with torch.no_grad():
            return float(((small(x) - model(x)) ** 2).mean())

    assert error(secateur.recover(twice, x)) < error(twice) / 2


def test_recover_refuses_another_network_of_the_same_shapes() -> None:
    small = cut(net())
    with pytest.raises(InputError, match="not the network that was cut"):
        secateur.recover(small, images(), dense=net(1))
    twin = copy.deepcopy(net())
    assert secateur.recover(small, images(), dense=twin).plan == small.plan, "a copy of it is as good"


def test_recover_refuses_a_network_that_was_trained_on() -> None:
    model = net()
    small = cut(model)
    with torch.no_grad():
        model[3].weight += 0.1
    with pytest.raises(InputError, match="have changed since"):
        secateur.recover(small, images())


def test_weights_are_told_apart_by_few_numbers() -> None:
    model = net()
    assert weights_print(model) == weights_print(copy.deepcopy(model))
    assert weights_print(model) != weights_print(net(1))
    assert weights_print(model.to("meta")) is None


def test_a_network_without_inputs_is_told_what_is_missing() -> None:
    with pytest.raises(InputError, match="example_inputs is missing"):
        secateur.prune(net(), ratio=0.5)


def test_sparse_holds_earlier_masks() -> None:
    first = secateur.sparsify(net(), ratio=0.5, criterion="random", seed=1)
    second = secateur.sparsify(first, ratio=0.75, criterion="random", seed=2)
    assert all(not (second.masks[n] & ~first.masks[n]).any() for n in first.masks)
    assert second.sparsity == pytest.approx(0.75, abs=0.01)


def test_a_file_of_the_whole_network_needs_nothing_of_secateur(tmp_path: Path) -> None:
    """``torch.save`` of the user's own class, opened where Secateur is not installed."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    small = secateur.prune(net, torch.randn(3, 4), ratio=0.5).model
    torch.save(small, tmp_path / "small.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['secateur'] = None\n"
        f"net = torch.load({str(tmp_path / 'small.pt')!r}, weights_only=False)\n"
        "assert net[0].out_features == 4 and net(torch.ones(1, 4)).shape == (1, 2)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    again = torch.load(tmp_path / "small.pt", weights_only=False)
    assert remembered(again) == remembered(small)

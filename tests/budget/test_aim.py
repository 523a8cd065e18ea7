"""One way to choose: plain amounts, ratios per layer, and what is said where more or less than one aim is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from latency_cases import arithmetic  # noqa: F401 (a fixture)
from secateur import Target
from secateur.core.errors import InputError, UnknownNameError
from zoo import conv, settle


def chain(*widths: int) -> tuple[nn.Module, Tensor]:
    parts = [conv(a, b) for a, b in zip((3, *widths), widths, strict=False)]
    net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))
    return settle(net), torch.randn(2, 3, 8, 8)


def widths(pruned: secateur.Pruned) -> list[int]:
    return [c.kept for c in pruned.groups]


@pytest.mark.parametrize("name", ["macs", "params", "energy", "size"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_plain_amount_is_a_target(name: str, absolute: bool) -> None:
    model, x = chain(16, 24, 32)
    value = 0.5
    if absolute:
        costs = secateur.analyse(model, x).costs
        value = 0.5 * costs.measure(name, torch.ones(costs.groups.units, dtype=torch.bool).numpy())
    plain = secateur.prune(model, x, scope="global", **{name: value})  # type: ignore[arg-type]
    aimed = secateur.prune(model, x, scope="global", target=Target(**{name: value}))  # type: ignore[arg-type]
    assert plain.plan == aimed.plan
    assert plain.plan.provenance["target"] == {name: value}
    assert plain.notes == aimed.notes


def test_a_plain_latency_is_a_target_in_a_runtime(arithmetic: Callable[..., str]) -> None:  # noqa: F811
    model, x = chain(32, 32)
    pruned = secateur.prune(model, x, latency=0.6, runtime=arithmetic())
    assert pruned.plan.provenance["target"] == {"latency": 0.6}
    assert pruned.plan.provenance["latency"]["reached"] == pytest.approx(0.6, rel=0.05)
    with pytest.raises(InputError, match="latency=… wants a runtime"):
        secateur.prune(model, x, latency=0.6)
    with pytest.raises(InputError, match=r"runtime='onnxruntime' says where a latency is measured: give latency="):
        secateur.prune(model, x, macs=0.6, runtime="onnxruntime")
    with pytest.raises(UnknownNameError, match="Did you mean 'onnxruntime'"):
        secateur.prune(model, x, latency=0.6, runtime="onnxruntim")


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ({}, "Got none of them"),
        ({"ratio": 0.5, "macs": 0.5}, "Got ratio=0.5 and macs=0.5"),
        ({"macs": 0.5, "params": 1000}, "Got macs=0.5 and params=1000"),
        ({"size": 0.5, "target": Target(macs=0.5)}, r"Got size=0.5 and Target\(macs=…\)"),
    ],
)
def test_exactly_one_aim_is_given(given: dict[str, Any], got: str) -> None:
    model, x = chain(8)
    with pytest.raises(InputError, match=f"ratio, which is the share .* removed; .* kept; .*{got}"):
        secateur.prune(model, x, **given)


def test_amounts_out_of_range_say_what_is_removed_and_what_is_kept() -> None:
    model, x = chain(8)
    with pytest.raises(InputError, match=r"ratio is the share of units to remove.*got 1.5.*kept is said by macs"):
        secateur.prune(model, x, ratio=1.5)
    with pytest.raises(InputError, match=r"macs=… is what is kept.*got -1"):
        secateur.prune(model, x, macs=-1)


def test_every_layer_may_have_a_ratio_of_its_own() -> None:
    model, x = chain(16, 32, 64)
    assert widths(secateur.prune(model, x, ratio={"0": 0.5, "2.0": 0.25})) == [8, 32, 48]
    assert widths(secateur.prune(model, x, ratio={"*": 0.5, "1": 0.25, "2": 0})) == [8, 24, 64], "the last one counts"
    assert widths(secateur.prune(model, x, ratio={"1": 0.25, "*": 0.5})) == [8, 16, 32]
    pruned = secateur.prune(model, x, ratio={"0": 0.5})
    assert pruned.plan.provenance["ratio"] == {"0": 0.5}
    assert secateur.Plan.from_json(pruned.plan.to_json()) == pruned.plan


def test_a_group_of_several_layers_follows_the_last_pattern_that_fits_any() -> None:
    model = secateur.models.create("resnet20").eval()
    x = torch.randn(2, 3, 32, 32)
    pruned = secateur.prune(model, x, ratio={"layer1.*.conv1": 0.5, "layer1.2.conv1": 0.25})
    left = {c.group.name: c.kept / len(c.group) for c in pruned.groups}
    assert [left[f"layer1.{k}.conv1"] for k in range(3)] == [0.5, 0.5, 0.75]
    assert all(share == 1 for name, share in left.items() if not name.startswith("layer1."))


def test_ratios_of_the_dense_network_count_what_went_before() -> None:
    model, x = chain(16, 32)
    once = secateur.prune(model, x, ratio={"0": 0.25})
    twice = secateur.prune(once.model, x, ratio={"0": 0.5, "1": 0.25}, of="dense")
    assert widths(twice) == [8, 24]


def test_ratios_for_layers_that_are_not_there_or_cannot_go() -> None:
    model, x = chain(16, 32)
    with pytest.raises(UnknownNameError, match=r"ratio=…: There is no module or parameter named '1.00'. Did you mean"):
        secateur.prune(model, x, ratio={"1.00": 0.5})
    with pytest.raises(InputError, match=r"None of the layers that ratio names \(4\) has channels that may go"):
        secateur.prune(model, x, ratio={"4": 0.5})
    pruned = secateur.prune(model, x, ratio={"0": 0.5, "4": 0.5})
    assert any("ratio for '4' removes nothing" in note for note in pruned.notes)
    with pytest.raises(InputError, match=r"\[0, 1\); got 1.5 for '0'"):
        secateur.prune(model, x, ratio={"0": 1.5})
    with pytest.raises(InputError, match="A ratio per layer is local; got scope='global'"):
        secateur.prune(model, x, ratio={"0": 0.5}, scope="global")


def test_only_and_ignore_take_modules_of_the_network() -> None:
    model, x = chain(16, 32, 64)
    first, second = model.get_submodule("0"), model.get_submodule("1.0")
    assert widths(secateur.prune(model, x, ratio=0.5, only=first)) == [8]
    assert widths(secateur.prune(model, x, ratio=0.5, only=[first, "1"])) == [8, 16]
    by_module, by_name = (secateur.prune(model, x, ratio=0.5, ignore=i) for i in ([second], ["1.0"]))
    assert by_module.plan == by_name.plan
    assert secateur.prune(model, x, ratio=0.5, only=model).plan == secateur.prune(model, x, ratio=0.5).plan
    assert widths(secateur.prune(nn.DataParallel(model), x, ratio=0.5, only=first)) == [8]
    groups = secateur.analyse(model, x, ignore=first).groups
    assert [len(g) for g in groups.items] == [32, 64]


def test_a_module_of_another_network_is_refused() -> None:
    model, x = chain(16, 32)
    other, _ = chain(16, 32)
    with pytest.raises(InputError, match=r"only=…: the Linear .* not a module of the network \(it has a Linear at '4'"):
        secateur.prune(model, x, ratio=0.5, only=other.get_submodule("4"))
    with pytest.raises(InputError, match=r"ignore=…: the GRU .* \(it has no GRU"):
        secateur.prune(model, x, ratio=0.5, ignore=[nn.GRU(2, 2)])


class Branched(nn.Module):
    """Two residual branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.one(x)
        return x + self.two(x)  # type: ignore[no-any-return]


def test_layers_are_named_by_modules_too() -> None:
    net, x = Branched().eval(), torch.randn(2, 4)
    assert secateur.remove_layers(net, x, names=net.one).plan.removed == ("one",)
    assert secateur.remove_layers(net, x, count=1, ignore=[net.one]).plan.removed == ("two",)

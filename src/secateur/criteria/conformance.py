"""What every criterion has to do, tried on two small networks."""

from __future__ import annotations

from typing import Any

import torch
from numpy.testing import assert_array_equal
from torch import Tensor, nn

from secateur.core.errors import InputError, PluginError
from secateur.criteria.base import Criterion
from secateur.criteria.scoring import score
from secateur.criteria.statistics import NEEDS, needed_data
from secateur.graph.groups import Groups, solve
from secateur.graph.views import labelled

__all__ = ["check_criterion", "networks"]

_IMAGES, _CLASSES, _DEAD = 12, 4, 2


def networks() -> tuple[tuple[nn.Module, Tensor], ...]:
    """Two networks in eval mode with images for them: with batch norms and a skip, and with linear layers alone.

    Unit 2 of every group is dead: all weights that make it, and all that use it, are zero.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = (_Convolutions(), nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, _CLASSES)))
        images = torch.randn(_IMAGES, 3, 8, 8)
        for network in made:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.1)
    for network in made:
        groups = _groups(network.eval(), images)
        state = dict(network.named_parameters())
        for group in groups.items:
            for member in group.members:
                if member.parameter in state:
                    index = groups.flow.tensors[member.parameter].at(member.dim)[0]
                    own = torch.from_numpy(groups.unit_of(index) == group.units[_DEAD])
                    state[member.parameter].data.movedim(member.dim, 0)[own] = 0
    return tuple((network, images) for network in made)


class _Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c, self.bn3 = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6)
        self.d = nn.Linear(6, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.a(x)))
        x = torch.relu(x + self.bn2(self.b(x)))
        x = torch.relu(self.bn3(self.c(x)))
        return self.d(x.mean((2, 3)))  # type: ignore[no-any-return]


def check_criterion(name: str, criterion: Criterion) -> None:
    """One finite score per unit, higher = keep, the same under the same seed, from a network that stays as it is.

    Raises:
        PluginError: Something of this is not so.
    """
    if not criterion.summary:
        raise PluginError("it has no docstring, whose first line is what `secateur criteria` shows")
    if criterion.weights is not None:
        _check_weights(criterion)
    if criterion.score is not None:
        _check_channels(criterion)


def _check_weights(criterion: Criterion) -> None:
    assert criterion.weights is not None
    weight = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    needs = [weight.flip(0).abs() for _ in criterion.weight_needs]
    first, again = (criterion.weights(weight.clone(), torch.Generator().manual_seed(1), *needs) for _ in range(2))
    if not isinstance(first, Tensor) or first.shape != weight.shape or not torch.isfinite(first).all():
        raise PluginError(f"of weights of shape {tuple(weight.shape)} it gives no finite score for each")
    if not torch.equal(first, again):
        raise PluginError("it gives other scores of weights when it is asked again with the same seed")


def _check_channels(criterion: Criterion) -> None:
    labels = torch.arange(_IMAGES) % _CLASSES
    dead_is_best = []
    for network, images in networks():
        groups, data = _groups(network, images), [(images, labels)]
        before = {key: value.clone() for key, value in network.state_dict().items()}
        try:
            one = score(groups, criterion.name, data=data, seed=1).values
        except InputError as error:
            if "nothing to score" not in str(error):
                raise PluginError(str(error)) from error
            continue
        if not any(NEEDS[need].measured for need in criterion.needs):
            _same(one, score(_groups(network, images), criterion.name, data=data, seed=1).values)
        if any(not torch.equal(value, before[key]) for key, value in network.state_dict().items()):
            raise PluginError("it changes the network's weights or statistics")
        dead_is_best += [bool((values[_DEAD] > values).sum() == len(values) - 1) for values in one.values()]
        _refuses_missing_data(criterion, groups)
    if not dead_is_best:
        raise PluginError("it has nothing to say of two ordinary networks")
    if all(dead_is_best):
        raise PluginError("a unit without any weights scores best: a higher score has to mean that a unit stays")


def _refuses_missing_data(criterion: Criterion, groups: Groups) -> None:
    if not needed_data(criterion):
        return
    try:
        score(groups, criterion.name)
    except InputError as error:
        if "data" in str(error):
            return
        raise PluginError(f"without data it fails with words that do not speak of data: {error}") from error
    raise PluginError(f"it says that it needs {needed_data(criterion)}, and does without")


def _same(one: dict[int, Any], other: dict[int, Any]) -> None:
    try:
        for number in one:
            assert_array_equal(one[number], other[number])
    except (AssertionError, KeyError) as error:
        raise PluginError("it gives other scores when it is asked again with the same seed") from error


def _groups(network: nn.Module, images: Tensor) -> Groups:
    return solve(labelled(network, images)[0])
